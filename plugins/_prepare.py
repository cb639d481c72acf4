"""What every strategy of text classification begins with: the champion with room for all labels, and
the rows as tokens and class numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from keeperd.api import JSON, BadInputError, Context, PluginError, TrainJob, Window
from keeperd_plugins import _classifier, _head
from keeperd_plugins._classifier import Classifier
from keeperd_plugins._loop_options import PriorOptions


@dataclass(frozen=True)
class Rows:
    """Token ids of n rows and their class numbers, int64 (n,)."""

    tokens: list[list[int]]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Prepared:
    """A classifier that knows all classes, and rows for it.

    Attributes:
        known: how many of the classes, the first ones, the champion knows.
        fresh: bool (v,), False for validation rows that are old.
        seen: int64 (classes,), rows of each class that the candidate will have been trained on.
        bf16: compute in bfloat16 wherever the figures are not for people.
    """

    classifier: Classifier
    known: int
    new: Rows
    memory: Rows
    validation: Rows
    fresh: np.ndarray
    seen: np.ndarray
    bf16: bool = False

    def mix(self, replayed: float) -> np.ndarray:
        """float64 (classes,): rows of each class when all new rows are met with `replayed` old ones."""
        classes = len(self.seen)
        mix = np.bincount(self.new.labels, minlength=classes).astype(np.float64)
        if len(self.memory):
            old = np.bincount(self.memory.labels, minlength=classes)
            mix += old * (replayed / len(self.memory))
        return mix


@dataclass(frozen=True)
class Answers:
    """The champion's logits, float32: of the new rows and then the memory rows (n + m, known), and of the
    validation rows (v, known). No columns where there is no champion."""

    rows: np.ndarray
    validation: np.ndarray


def prepare(job: TrainJob, context: Context) -> Prepared:
    """Load the champion (for a first version the base), grow its labels, tokenise the rows.

    Raises:
        PluginError: no new row, or fewer than two classes among the rows.
        BadInputError: the model folder cannot be used.
    """
    new, memory = _learnable(job)
    classifier = _classifier.load(job.champion, job.max_tokens, context.device)
    if not job.first and not classifier.classes:
        raise BadInputError(
            f"{job.champion / 'config.json'}: the champion names no labels; check the version"
        )
    known = 0 if job.first else len(classifier.classes)
    seen = _seen(classifier, job, new, memory)
    return _prepared(classifier, job, new, memory, known=known, seen=seen)


def prepare_joint(job: TrainJob, context: Context) -> tuple[Prepared, np.ndarray]:
    """The base model, and all rows as new ones; for training from the beginning.

    Returns:
        what the strategy begins with, and the champion's logits of the validation rows, float32
        (v, known), no columns where there is no champion.

    Raises:
        PluginError, BadInputError: as `prepare`.
    """
    new, memory = _learnable(job)
    champion = prepare(job, context)
    before = np.zeros((len(champion.validation), 0), np.float32)
    if champion.known:
        before = _classifier.run(champion.classifier, champion.validation.tokens, context).logits
    seen = Counter(dict(zip(job.classes, champion.seen.tolist(), strict=True)))
    both = Window([*new.texts, *memory.texts], [*new.labels, *memory.labels])
    classifier = _classifier.load(job.base, job.max_tokens, context.device)
    prepared = _prepared(classifier, job, both, Window([]), known=0, seen=seen)
    return prepared, before[:, : champion.known]


def _learnable(job: TrainJob) -> tuple[Window, Window]:
    """The labelled new and memory rows, where something can be learnt from them."""
    new, memory = job.new.labelled(), job.memory.labelled()
    if not len(new):
        raise PluginError("there is no labelled row to learn from; wait for labels")
    present = {*new.labels, *memory.labels}
    if len(present) < 2:
        raise PluginError(f"all rows have the same label {next(iter(present))!r}; a classifier needs two")
    if unknown := sorted(str(label) for label in present - set(job.classes)):
        raise PluginError(f"label {unknown[0]!r} is not among the job's classes")
    return new, memory


def _prepared(
    classifier: Classifier, job: TrainJob, new: Window, memory: Window, known: int, seen: Mapping[str, int]
) -> Prepared:
    _classifier.grow(classifier, job.classes)
    validation = _known(job.validation, job.classes)
    return Prepared(
        classifier=classifier,
        known=known,
        new=_rows(classifier, new),
        memory=_rows(classifier, memory),
        validation=_rows(classifier, validation),
        fresh=np.array(validation.fresh, dtype=bool),
        seen=np.array([seen[name] for name in job.classes]),
    )


def fit_head(prepared: Prepared, options: PriorOptions, context: Context) -> tuple[dict[str, float], Answers]:
    """Fit the last layer on frozen features of all rows at hand.

    Returns:
        figures of the fit, and the champion's answers, which are noted on the way.
    """
    context.progress(0.0, "reading rows with the frozen model")
    outputs = _read(prepared, context)
    new, memory, validation = (
        _head.Labelled(output.features, rows.labels)
        for output, rows in zip(outputs, _sets(prepared), strict=True)
    )
    train = _head.Labelled(
        np.concatenate([new.features, memory.features]), np.concatenate([new.labels, memory.labels])
    )
    shift = prior_shift(prepared, len(prepared.memory), options)
    figures = _head.fit(prepared.classifier.last_linear, train, validation, shift, context, prepared.known)
    return figures, _answers(outputs, prepared.known)


def champions_answers(prepared: Prepared, context: Context) -> Answers:
    """The champion's answers alone, bit by bit those of `fit_head`."""
    context.progress(0.0, "reading rows with the frozen model")
    return _answers(_read(prepared, context), prepared.known)


def use_bf16(wanted: str, device: str) -> bool:
    """Whether to compute in bfloat16, for "auto", "on" or "off"; float32 weights are kept either way."""
    if wanted != "auto":
        return wanted == "on"
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def prior_shift(prepared: Prepared, replayed: float, options: PriorOptions) -> torch.Tensor:
    """float32 (classes,): what the logits are raised by in the loss; see `_head.prior_shift`."""
    if not options.prior:
        return torch.zeros(len(prepared.seen))
    seen = prepared.seen
    if options.balance:
        seen = np.maximum(seen, 0.5) ** (1 - options.balance)
    return _head.prior_shift(prepared.mix(replayed), seen)


def validate(prepared: Prepared, context: Context) -> tuple[float, float]:
    """Accuracy and log loss (nats) on the validation rows; both 0 where there are none."""
    rows = prepared.validation
    if not len(rows):
        return 0.0, 0.0
    outputs = _classifier.run(prepared.classifier, rows.tokens, context, prepared.bf16)
    logits = torch.tensor(outputs.logits).double()
    labels = torch.tensor(rows.labels)
    accuracy = (logits.argmax(1) == labels).double().mean()
    return float(accuracy), float(torch.nn.functional.cross_entropy(logits, labels))


def calibrate(prepared: Prepared, context: Context) -> tuple[float, np.ndarray]:
    """Set the temperature of the logits by the validation rows.

    Returns:
        the temperature, and the logits of the validation rows at it, float32 (v, classes).
    """
    rows = prepared.validation
    logits = _classifier.run(prepared.classifier, rows.tokens, context).logits
    temperature = _head.calibrate(prepared.classifier.last_linear, logits, rows.labels)
    return temperature, logits / np.float32(temperature)


def remember(prepared: Prepared) -> None:
    """Note in the model's configuration how many rows of each label it has been trained on."""
    counts = {
        name: int(count) for name, count in zip(prepared.classifier.classes, prepared.seen, strict=True)
    }
    setattr(prepared.classifier.model.config, _classifier.COUNTS, counts)


def _sets(prepared: Prepared) -> tuple[Rows, Rows, Rows]:
    return prepared.new, prepared.memory, prepared.validation


def _read(prepared: Prepared, context: Context) -> list[_classifier.Outputs]:
    """Of new, memory and validation rows; the last are compared with the candidate's, and so exact."""
    reduced = (prepared.bf16, prepared.bf16, False)
    return [
        _classifier.run(prepared.classifier, rows.tokens, context, bf16)
        for rows, bf16 in zip(_sets(prepared), reduced, strict=True)
    ]


def _answers(outputs: Sequence[_classifier.Outputs], known: int) -> Answers:
    new, memory, validation = (output.logits[:, :known] for output in outputs)
    return Answers(np.concatenate([new, memory]), validation)


def _known(window: Window, classes: Sequence[str]) -> Window:
    """The rows whose label the classifier will have: all but those validation rows that nothing could
    learn."""
    return window.take([row for row, label in enumerate(window.labels) if label in set(classes)])


def _rows(classifier: Classifier, window: Window) -> Rows:
    number = {name: index for index, name in enumerate(classifier.classes)}
    labels = np.array([number[str(label)] for label in window.labels], dtype=np.int64)
    return Rows(classifier.encode(window.texts), labels)


def _seen(classifier: Classifier, job: TrainJob, new: Window, memory: Window) -> Counter[str]:
    before: Mapping[str, JSON] = {}
    if not job.first:
        before = getattr(classifier.model.config, _classifier.COUNTS, None) or {}
    past = {name: int(count) for name, count in before.items() if name in job.classes}
    return _head.seen_so_far(past, _names(memory), _names(new))


def _names(window: Window) -> Sequence[str]:
    return [label for label in window.labels if label is not None]
