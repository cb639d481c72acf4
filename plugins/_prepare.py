"""What every strategy of text classification begins with: the champion with room for all labels, and
the rows as tokens and class numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from keeperd.api import JSON, BadInputError, Context, PluginError, TrainJob, Window
from keeperd_plugins import _classifier, _head
from keeperd_plugins._classifier import Classifier


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
        seen: int64 (classes,), rows of each class that the candidate will have been trained on.
    """

    classifier: Classifier
    known: int
    new: Rows
    memory: Rows
    validation: Rows
    seen: np.ndarray

    def mix(self, replayed: float) -> np.ndarray:
        """float64 (classes,): rows of each class when all new rows are met with `replayed` old ones."""
        classes = len(self.seen)
        mix = np.bincount(self.new.labels, minlength=classes).astype(np.float64)
        if len(self.memory):
            old = np.bincount(self.memory.labels, minlength=classes)
            mix += old * (replayed / len(self.memory))
        return mix


@dataclass(frozen=True)
class HeadFit:
    """Figures of the fitted head, and the champion's logits of the memory rows, float32 (m, known)."""

    figures: dict[str, float]
    teacher: np.ndarray


def prepare(job: TrainJob, context: Context) -> Prepared:
    """Load the champion (for a first version the base), grow its labels, tokenise the rows.

    Raises:
        PluginError: no new row, or fewer than two classes among the rows.
        BadInputError: the model folder cannot be used.
    """
    new, memory, validation = job.new.labelled(), job.memory.labelled(), job.validation.labelled()
    if not len(new):
        raise PluginError("there is no labelled row to learn from; wait for labels")
    present = {*new.labels, *memory.labels}
    if len(present) < 2:
        raise PluginError(f"all rows have the same label {next(iter(present))!r}; a classifier needs two")
    if unknown := sorted(str(label) for label in present - set(job.classes)):
        raise PluginError(f"label {unknown[0]!r} is not among the job's classes")
    classifier = _classifier.load(job.champion, job.max_tokens, context.device)
    if not job.first and not classifier.classes:
        raise BadInputError(
            f"{job.champion / 'config.json'}: the champion names no labels; check the version"
        )
    known = 0 if job.first else len(classifier.classes)
    seen = _seen(classifier, job, new, memory)
    _classifier.grow(classifier, job.classes)
    return Prepared(
        classifier=classifier,
        known=known,
        new=_rows(classifier, new),
        memory=_rows(classifier, memory),
        validation=_rows(classifier, validation),
        seen=np.array([seen[name] for name in job.classes]),
    )


def fit_head(prepared: Prepared, context: Context) -> HeadFit:
    """Fit the last layer on frozen features of all rows at hand; the champion's answers for the memory
    rows are noted on the way."""
    context.progress(0.0, "reading rows with the frozen model")
    outputs = [_classifier.run(prepared.classifier, rows.tokens, context) for rows in _sets(prepared)]
    new, memory, validation = (
        _head.Labelled(output.features, rows.labels)
        for output, rows in zip(outputs, _sets(prepared), strict=True)
    )
    train = _head.Labelled(
        np.concatenate([new.features, memory.features]), np.concatenate([new.labels, memory.labels])
    )
    shift = _head.prior_shift(prepared.mix(len(prepared.memory)), prepared.seen)
    figures = _head.fit(prepared.classifier.last_linear, train, validation, shift, context)
    return HeadFit(figures, outputs[1].logits[:, : prepared.known])


def teacher(prepared: Prepared, context: Context) -> np.ndarray:
    """The champion's logits of the memory rows alone, bit by bit those of `fit_head`; for going on from
    a checkpoint."""
    return _classifier.run(prepared.classifier, prepared.memory.tokens, context).logits[:, : prepared.known]


def validate(prepared: Prepared, context: Context) -> tuple[float, float]:
    """Accuracy and log loss (nats) on the validation rows; both 0 where there are none."""
    rows = prepared.validation
    if not len(rows):
        return 0.0, 0.0
    logits = torch.tensor(_classifier.run(prepared.classifier, rows.tokens, context).logits).double()
    labels = torch.tensor(rows.labels)
    accuracy = (logits.argmax(1) == labels).double().mean()
    return float(accuracy), float(torch.nn.functional.cross_entropy(logits, labels))


def calibrate(prepared: Prepared, context: Context) -> float:
    """Set the temperature of the logits by the validation rows, and return it."""
    rows = prepared.validation
    logits = _classifier.run(prepared.classifier, rows.tokens, context).logits
    return _head.calibrate(prepared.classifier.last_linear, logits, rows.labels)


def remember(prepared: Prepared) -> None:
    """Note in the model's configuration how many rows of each label it has been trained on."""
    counts = {
        name: int(count) for name, count in zip(prepared.classifier.classes, prepared.seen, strict=True)
    }
    setattr(prepared.classifier.model.config, _classifier.COUNTS, counts)


def _sets(prepared: Prepared) -> tuple[Rows, Rows, Rows]:
    return prepared.new, prepared.memory, prepared.validation


def _rows(classifier: Classifier, window: Window) -> Rows:
    """Rows whose label the classifier has: all but those validation rows that nothing could learn."""
    number = {name: index for index, name in enumerate(classifier.classes)}
    kept = [row for row, label in enumerate(window.labels) if label in number]
    labels = np.array([number[str(window.labels[row])] for row in kept], dtype=np.int64)
    return Rows(classifier.encode([window.texts[row] for row in kept]), labels)


def _seen(classifier: Classifier, job: TrainJob, new: Window, memory: Window) -> Counter[str]:
    before: Mapping[str, JSON] = {}
    if not job.first:
        before = getattr(classifier.model.config, _classifier.COUNTS, None) or {}
    past = {name: int(count) for name, count in before.items() if name in job.classes}
    return _head.seen_so_far(past, _names(memory), _names(new))


def _names(window: Window) -> Sequence[str]:
    return [label for label in window.labels if label is not None]
