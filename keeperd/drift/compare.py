"""The one-shot comparison of two files, `keeperd drift REFERENCE CURRENT`: no ledger, no daemon, and no
model unless one is given."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from keeperd import config, intake, plugins, rows
from keeperd.api import JSON, BadInputError, Columns, Context, Prediction, Signal, Task, Window
from keeperd.drift import Harm, harm
from keeperd.drift import page as drift_page
from keeperd.drift import window as drift_window
from keeperd.drift.encoder import TASK, opened
from keeperd.drift.window import Load

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS = 2000
"""Rows of each file that are looked at, evenly spread."""
LEAST_ROWS = 2
DETECTORS = ("two-sample",)


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
    timed: bool = False,
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
        timed: both files must have times.
        load: makes plugins; the installed ones by default.

    Returns:
        {"drifted", "p_value", "effect": {"auc", "reference_auc"}, "calibrated_on": "days" or "rows",
        "alarm_budget": chance of a false alarm of this check, "signals", "words": [{"term", "z", "current",
        "reference"}], "slices": [{"name", "kind", "z", "current", "reference", "examples"}], "examples":
        [{"side": "current" or "reference", "id", "text"}], "sentinels": {name: {"current", "reference"}},
        "harm": {"how", "estimate", "low", "high", "abstained", "why" ...}, "rows": {"reference", "current",
        "bad"}, "seconds"}. All keys are always there, and all figures are finite; those of harm are None
        where it abstains.

    Raises:
        BadInputError: a file or the encoder cannot be read.
        PluginError: there are too few rows.
    """
    started = time.monotonic()
    make = load or plugins.load
    settings = config.Intake(columns=columns or Columns())
    before, now = (_read(path, settings, make, timed) for path in (reference_path, current_path))
    with tempfile.TemporaryDirectory() as folder:
        context = Context(Path(folder), seed=seed)
        old, new = before.window, now.window
        if encoder is not None:
            with opened(encoder, make, context) as predictor:
                old, new = (drift_window.answered(window, predictor) for window in (old, new))
        chosen = drift_window.deciding(detectors, make, alpha)
        statistics = {name: detector.fit(old, context) for name, detector in chosen.items()}
        signals, _ = drift_window.detect(chosen, statistics, new, {}, context)
    told = {
        **_told(signals, old, new),
        "alarm_budget": alpha,
        "harm": asdict(_harm(old, new, make)),
        "rows": {"reference": before.rows, "current": now.rows, "bad": before.bad + now.bad},
        "seconds": round(time.monotonic() - started, 2),
    }
    if html is not None:
        html.write_text(drift_page.page(told, reference_path.name, current_path.name), encoding="utf-8")
    return told


def _read(path: Path, settings: config.Intake, load: Load, timed: bool) -> Side:
    table, bad = intake.read_file(path, settings, cast("Any", load))
    if not len(table):
        first = f"; row {bad[0].number}: {bad[0].reason}" if bad else ""
        raise BadInputError(f"{path}: no usable row{first}")
    if len(table) < LEAST_ROWS:
        raise BadInputError(f"{path}: one row says nothing; give it more, better hundreds")
    column = settings.columns.time
    if timed and table.column("time").null_count == len(table):
        raise BadInputError(f"{path}: no row has a time in {column!r}; name its column (--time)")
    return Side(rows.window(_spread(table)), len(table), len(bad))


def _spread(table: pa.Table) -> pa.Table:
    """At most `MOST_ROWS` rows, evenly spread."""
    count = len(table)
    if count <= MOST_ROWS:
        return table
    return table.take([number * count // MOST_ROWS for number in range(MOST_ROWS)])


def _told(signals: Sequence[Signal], old: Window, new: Window) -> dict[str, JSON]:
    """What the signals say; the text's comes first."""
    text = next((signal for signal in signals if signal.name == "text"), signals[0])
    plain = drift_window.as_json(text)
    sentinels: Mapping[str, JSON] = plain["facts"].get("sentinels", {})
    return {
        "drifted": drift_window.drifted(signals),
        "p_value": plain["p_value"],
        "effect": {"auc": plain["effect"], "reference_auc": plain["baseline"]},
        "calibrated_on": text.facts.get("calibrated_on", "rows"),
        "signals": [drift_window.as_json(signal) for signal in signals],
        "words": plain["words"],
        "slices": plain["slices"],
        "examples": drift_window.examples(signals, new, old),
        "sentinels": dict(sentinels),
    }


# --- does it hurt? --------------------------------------------------------------------------------


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
