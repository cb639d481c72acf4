"""The monitor over a dated file, `keeperd drift --replay FILE`: when would it have alarmed, and what would
a test of rows have done?

The first blocks of days are the reference; after them it is shown one block after another, with its state
carried on, as it would have run. Beside it runs what is usual: every block compared row by row with the
same reference, an alarm at p <= .05.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from keeperd import config, plugins
from keeperd.api import JSON, Columns, Component, Context, Detector, Signal, Statistics, Window
from keeperd.drift import history
from keeperd.drift import window as drift_window
from keeperd.drift.window import Load

MONITOR, ROW_TEST = "monitor", "two-sample"
REFERENCE_BLOCKS = 30
ROW_LEVEL = 0.05
FEW_ROWS = 50
"""Rows that are laid side by side while an alarm only holds: nobody reads what is found again."""
ROW_OPTIONS: Mapping[str, JSON] = {"alpha": ROW_LEVEL, "permutations": 199, "rows": 500, "least_auc": 1.0}
"""Of the test of rows: as cheap as its p-value allows, and no explanation."""

Tell = Callable[[float, str], None]


def replay(
    path: Path,
    *,
    columns: Columns | None = None,
    budget: float = 1.0,
    reference_blocks: int = REFERENCE_BLOCKS,
    seed: int = 0,
    load: Load | None = None,
    tell: Tell = lambda fraction, text: None,
) -> dict[str, JSON]:
    """When would the monitor have alarmed over this file?

    Blocks are days (UTC) with at least 50 rows, smaller ones joined. Labels are followed where there are
    any. Rows without a usable time are left out and counted.

    Args:
        columns: what the columns are called.
        budget: false alarms that are borne in 365 blocks.
        reference_blocks: how many of the first blocks are the reference; 14 at least.
        load: makes plugins; the installed ones by default.
        tell: hears how far it is, 0..1.

    Returns:
        {"blocks": [{"from", "to", "rows", "p", "evidence", "alarm", "channel", "by", "since", "latched",
        "row_p", "row_alarm"}], "alarms": [{"at", "channel", "by", "p", "effect", "effect_unit", "usual",
        "words", "summary"}], "summary": {"blocks", "alarms", "alarms_per_365_blocks", "latched",
        "row_alarms", "row_alarms_per_365_blocks", "reference_blocks", "reference_from", "reference_to"},
        "alarm_budget", "rows": see `history.History`, "seconds"}; "p" is the smallest of the text's
        windows, corrected for their number, or None where none was due; "channel" is the signal that
        raised an alarm ("text", "labels"), "by" what of it: a window of so many blocks, or "witness".

    Raises:
        BadInputError: the file cannot be read, has no times, or too few blocks.
        PluginError: the reference is too small for a detector.
    """
    started = time.monotonic()
    make = load or plugins.load
    told = history.read(path, config.Intake(columns=columns or Columns()), make, reference_blocks)
    with tempfile.TemporaryDirectory() as folder:
        context = Context(Path(folder), seed=seed)
        reference = history.window_of(told.reference)
        monitor, rows = Monitor(make, budget, reference, context), RowTest(make, reference, context)
        blocks: list[dict[str, JSON]] = []
        alarms: list[dict[str, JSON]] = []
        for number, block in enumerate(told.later):
            tell(number / len(told.later), f"{block.first} ({number + 1} of {len(told.later)})")
            signals = monitor.look(block.window)
            raised = [_alarm(one, block) for one in signals if drift_window.news([one])]
            alarms += raised
            blocks.append({**_block(block, signals, raised), **rows.look(block.window)})
    return {
        "blocks": blocks,
        "alarms": alarms,
        "summary": _summary(blocks, alarms, told.reference),
        "alarm_budget": budget,
        "rows": told.rows,
        "seconds": round(time.monotonic() - started, 2),
    }


# --- the detectors at work ------------------------------------------------------------------------


class Monitor:
    """The monitor with its state. It says what changed only at an alarm; while that holds, a copy of it
    that looks at few rows follows the blocks, with the same alarms."""

    def __init__(self, load: Load, budget: float, reference: Window, context: Context) -> None:
        made = cast("Detector[Any]", load("detector", MONITOR))
        self._context, self._state = context, cast("JSON", None)
        self._full = _Fitted.of(_with(made, budget=budget), reference, context)
        self._quick = _Fitted.of(_with(made, budget=budget, rows=FEW_ROWS), reference, context)

    def look(self, window: Window) -> list[Signal]:
        """The signals of the next block, warnings left out."""
        found, after = self._quick.detect(window, self._state, self._context)
        if drift_window.news(found):
            found, after = self._full.detect(window, self._state, self._context)
        self._state = after
        return [one for one in found if not one.warning]


class RowTest:
    """Each block by itself against the reference, rows taken as independent, without times or labels."""

    def __init__(self, load: Load, reference: Window, context: Context) -> None:
        detector = _with(cast("Detector[Any]", load("detector", ROW_TEST)), **ROW_OPTIONS)
        self._context = context
        self._fitted = _Fitted.of(detector, _bare(reference), context)

    def look(self, window: Window) -> dict[str, JSON]:
        """{"row_p", "row_alarm"} of a block."""
        signals, _ = self._fitted.detect(_bare(window), None, self._context)
        text = next(one for one in signals if one.name == "text")
        p = float(text.facts.get("p_by_rows", text.p_value))
        return {"row_p": p, "row_alarm": p <= ROW_LEVEL}


@dataclass(frozen=True)
class _Fitted:
    detector: Detector[Any]
    statistics: Statistics

    @classmethod
    def of(cls, detector: Detector[Any], reference: Window, context: Context) -> _Fitted:
        return cls(detector, detector.fit(reference, context))

    def detect(self, window: Window, state: JSON, context: Context) -> tuple[list[Signal], JSON]:
        return self.detector.detect(self.statistics, window, state, context)


def _with(detector: Component[Any], **options: JSON) -> Detector[Any]:
    """The detector with these options, of those that it has."""
    known = {name: value for name, value in options.items() if name in type(detector.options).model_fields}
    return cast("Detector[Any]", type(detector)(detector.options.model_copy(update=known)))


def _bare(window: Window) -> Window:
    return Window(window.texts, ids=window.ids)


# --- what is told ---------------------------------------------------------------------------------


def _by(signal: Signal) -> str:
    return str(signal.facts.get("alarm", "single check"))


def _alarm(signal: Signal, block: history.Block) -> dict[str, JSON]:
    told = drift_window.as_json(signal)
    return {
        "at": str(signal.facts.get("since") or block.last),
        "channel": signal.name,
        "by": _by(signal),
        "p": told["p_value"],
        "effect": told["effect"],
        "effect_unit": signal.effect_unit,
        "usual": told["baseline"],
        "words": [asdict(term) for term in signal.words],
        "summary": signal.summary,
    }


def _block(
    block: history.Block, signals: Sequence[Signal], raised: Sequence[Mapping[str, JSON]]
) -> dict[str, JSON]:
    text = next((one for one in signals if one.name == "text"), signals[0])
    held = sorted(str(since) for one in signals if (since := one.facts.get("since")))
    first = raised[0] if raised else {"channel": "", "by": ""}
    return {
        "from": block.first,
        "to": block.last,
        "rows": block.rows,
        "p": drift_window.as_json(text)["p_value"],
        "evidence": float(text.facts.get("evidence", 0.0)),
        "alarm": bool(raised),
        "channel": first["channel"],
        "by": first["by"],
        "since": held[0] if held else "",
        "latched": bool(held),
    }


def _summary(
    blocks: Sequence[Mapping[str, JSON]],
    alarms: Sequence[Mapping[str, JSON]],
    reference: Sequence[history.Block],
) -> dict[str, JSON]:
    def a_year(number: int) -> float:
        return round(365 * number / len(blocks), 2)

    rows = sum(bool(one["row_alarm"]) for one in blocks)
    return {
        "blocks": len(blocks),
        "alarms": len(alarms),
        "alarms_per_365_blocks": a_year(len(alarms)),
        "latched": sum(bool(one["latched"]) for one in blocks),
        "row_alarms": rows,
        "row_alarms_per_365_blocks": a_year(rows),
        "reference_blocks": len(reference),
        "reference_from": reference[0].first,
        "reference_to": reference[-1].last,
    }
