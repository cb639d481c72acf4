"""The one-shot comparison of two files, `keeperd drift REFERENCE CURRENT`: no ledger, no daemon, and no
model unless one is given."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from keeperd import config, intake, plugins, rows
from keeperd.api import JSON, BadInputError, Columns, Component, Context, Prediction, Signal, Task, Window
from keeperd.drift import Harm, harm
from keeperd.drift import page as drift_page
from keeperd.drift import window as drift_window
from keeperd.drift.window import Load, Predictor

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS = 2000
"""Rows of each file that are looked at, evenly spread."""
DETECTORS = ("two-sample",)
TASK = "text-classification"


@dataclass(frozen=True)
class Side:
    """One file: its window, and how many rows it had and were refused."""

    window: Window
    rows: int
    bad: int


def compare(
    reference_path: Path,
    current_path: Path,
    *,
    columns: Columns | None = None,
    alpha: float = 0.01,
    seed: int = 0,
    encoder: Path | None = None,
    html: Path | None = None,
    detectors: Sequence[str] = DETECTORS,
    load: Load | None = None,
) -> dict[str, JSON]:
    """Has the second file drifted from the first?

    Files are read as intake reads them. Where the first has times over fourteen days or more, the test
    is calibrated on its days; else rows must be exchangeable, which "calibrated_on" says.

    Args:
        columns: what the columns are called.
        encoder: a version of keeperd's, or a model folder; its embeddings join the n-grams, and where
            it knows labels its answers are compared too and harm is looked for.
        html: where to write a page that needs nothing else.
        load: makes plugins; the installed ones by default.

    Returns:
        {"drifted", "p_value", "effect": {"auc", "reference_auc"}, "calibrated_on", "alarm_budget": None,
        "signals", "words", "slices": [], "examples", "sentinels", "harm": {"how", "estimate", "low",
        "high", "abstained", "why" ...}, "rows": {"reference", "current", "bad"}, "seconds"}

    Raises:
        BadInputError: a file or the encoder cannot be read.
        PluginError: there are too few rows.
    """
    started = time.monotonic()
    make = load or _installed
    settings = config.Intake(columns=columns or Columns())
    before, now = _read(reference_path, settings, make), _read(current_path, settings, make)
    with tempfile.TemporaryDirectory() as folder:
        context = Context(Path(folder), seed=seed)
        old, new = before.window, now.window
        if encoder is not None:
            with _predictor(encoder, make, context) as predictor:
                old, new = (drift_window.answered(window, predictor) for window in (old, new))
        chosen = drift_window.deciding(detectors, make, alpha)
        statistics = {name: detector.fit(old, context) for name, detector in chosen.items()}
        signals, _ = drift_window.detect(chosen, statistics, new, {}, context)
    told = {
        **_told(signals, new),
        "harm": asdict(_harm(old, new, make)),
        "rows": {"reference": before.rows, "current": now.rows, "bad": before.bad + now.bad},
        "seconds": round(time.monotonic() - started, 2),
    }
    if html is not None:
        html.write_text(drift_page.page(told, reference_path.name, current_path.name), encoding="utf-8")
    return told


def _installed(kind: str, name: str) -> Component[Any]:
    return plugins.load(kind, name)


def _read(path: Path, settings: config.Intake, load: Load) -> Side:
    table, bad = intake.read_file(path, settings, cast("Any", load))
    if not len(table):
        first = f"; row {bad[0].number}: {bad[0].reason}" if bad else ""
        raise BadInputError(f"{path}: no usable row{first}")
    return Side(rows.window(_spread(table)), len(table), len(bad))


def _spread(table: pa.Table) -> pa.Table:
    """At most `MOST_ROWS` rows, evenly spread."""
    count = len(table)
    if count <= MOST_ROWS:
        return table
    return table.take([number * count // MOST_ROWS for number in range(MOST_ROWS)])


def _told(signals: Sequence[Signal], window: Window) -> dict[str, JSON]:
    text = next((signal for signal in signals if signal.name == "text"), signals[0])
    sentinels: Mapping[str, JSON] = text.facts.get("sentinels", {})
    told = [drift_window.as_json(signal) for signal in signals]
    return {
        "drifted": drift_window.drifted(signals),
        "p_value": text.p_value,
        "effect": {"auc": text.effect, "reference_auc": text.baseline},
        "calibrated_on": text.facts.get("calibrated_on"),
        "alarm_budget": None,
        "signals": told,
        "words": [asdict(term) for term in text.words],
        "slices": [],
        "examples": drift_window.examples(signals, window),
        "sentinels": dict(sentinels),
    }


# --- with a model ---------------------------------------------------------------------------------


class TaskPredictor:
    """A model folder that answers through the task plugin, or a bare encoder, which has no logits."""

    def __init__(self, model: Path, task: Task[Any], context: Context, max_tokens: int = 128) -> None:
        self.classes = task.classes(model)
        self._model, self._task, self._context, self._max_tokens = model, task, context, max_tokens

    def predict(self, texts: Sequence[str]) -> Prediction:
        """Logits float32 (n, classes), no columns for a bare encoder, and embeddings (n, d)."""
        if self.classes:
            return self._task.predict(self._model, texts, self._max_tokens, self._context)
        return Prediction(*_encode(self._model, texts, self._max_tokens))


@contextmanager
def _predictor(encoder: Path, load: Load, context: Context) -> Iterator[Predictor]:
    """A version by its accepted artefact, a model folder by torch."""
    with ExitStack() as stack:
        if (encoder / "parity.json").is_file():
            from keeperd.inference import Predictor as Artefact

            yield cast("Predictor", stack.enter_context(Artefact(encoder)))
        else:
            yield TaskPredictor(encoder, cast("Task[Any]", load("task", TASK)), context)


def _encode(model: Path, texts: Sequence[str], max_tokens: int) -> tuple[Any, Any]:
    """Mean of the last hidden states over the tokens, for a folder that the task has looked over."""
    import numpy as np
    import torch
    from transformers import AutoModel, AutoTokenizer

    local = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(model, **local)
    encoder = AutoModel.from_pretrained(model, use_safetensors=True, dtype=torch.float32, **local).eval()
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    found = np.zeros((len(texts), encoder.config.hidden_size), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            part = order[start : start + 64]
            cut = [texts[row][: 20 * max_tokens] for row in part]
            tokens = tokenizer(cut, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
            hidden = encoder(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            found[part] = ((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).numpy()
    return np.zeros((len(texts), 0), np.float32), found


def _harm(old: Window, new: Window, load: Load) -> Harm:
    """Accuracy on the second file beside the first, where the model knows labels and the first has any."""
    if new.logits is None or old.logits is None or not new.classes:
        return harm.unknown("without a model that knows labels nothing can be said about accuracy")
    task = cast("Task[Any]", load("task", TASK))
    known = old.labelled()
    if len(known) < harm.LEAST_LABELLED:
        return harm.unknown(
            f"the reference has {len(known)} labelled rows; {harm.LEAST_LABELLED} are needed to know what"
            " accuracy to expect"
        )
    labelled, right = _right(task, new)
    return harm.loss(
        harm.Asked(_prediction(new), labelled, right),
        harm.Accepted(_prediction(known), _right(task, known)[1]),
    )


def _right(task: Task[Any], window: Window) -> tuple[Any, Any]:
    """bool (n,) each: which rows have a label, and which answers are that label; an answer that is not a
    number is wrong."""
    import numpy as np

    logits = cast("Any", window.logits)
    has = np.array([label is not None for label in window.labels], bool)
    right, labels = np.zeros(len(has), bool), [str(label) for label in window.labels if label is not None]
    if labels:
        scores = np.asarray(task.scores(window.classes, labels, np.nan_to_num(logits[has])))
        right[has] = (scores >= 0.5) & np.isfinite(logits[has]).all(axis=1)
    return has, right


def _prediction(window: Window) -> Prediction:
    return Prediction(cast("Any", window.logits), cast("Any", window.embeddings))
