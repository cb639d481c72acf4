"""One look of the monitor at a window: each channel's sequence, then what changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from keeperd.api import JSON, Signal, Window
from keeperd_plugins import _blocks, _channels, _check, _reference, _sentinels, _sequence, _shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from keeperd_plugins.monitor_detector import MonitorOptions

NEVER = "0000-00-00"
"""The day of rows without a time, where no row has one: before any other, so it counts as the last one."""


def look(
    reference: _reference.Reference, window: Window, state: JSON, options: MonitorOptions, seed: int
) -> tuple[list[Signal], JSON]:
    """Signals of text, answers, labels and format, and the state to be carried on.

    A state that was gathered against another reference is dropped, and the text's facts say so.
    """
    kept, rebuilt = _usable(state, reference.fingerprint)
    fresh = window.take([row for row, flag in enumerate(window.fresh) if flag])
    followed = _follow(reference, fresh, kept, options)
    warnings, figures = _format(reference, fresh, options.warnings / _sequence.YEAR)
    signals = [
        _text(reference, window, followed[_reference.TEXT], options, seed),
        *_others(reference, window, followed),
    ]
    text = signals[0]
    facts = {**text.facts, "sentinels": figures, "rows": len(window), "state_rebuilt": rebuilt}
    after = {
        "reference": reference.fingerprint,
        "channels": {name: one.state.as_json() for name, one in followed.items()},
    }
    return [replace(text, facts=facts), *signals[1:], *warnings], after


def _usable(state: JSON, fingerprint: str) -> tuple[Mapping[str, Any], bool]:
    """The channels' states, and whether they had to be dropped."""
    if not state:
        return {}, False
    if state.get("reference") != fingerprint:
        return {}, True
    return state["channels"], False


# --- the sequences --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Followed:
    """A channel after the window: its new state, and what the looks at complete blocks said."""

    state: _sequence.State
    looks: list[_sequence.Look]
    budget: float

    @property
    def alarm(self) -> str:
        """What raised an alarm in this window, or ""."""
        return next((one.alarm for one in self.looks if one.alarm), "")

    @property
    def p(self) -> float | None:
        """Of the last block: its windows' smallest p-value, corrected for their number."""
        found = self.looks[-1].p if self.looks else {}
        return min(min(found.values()) * len(found), 1.0) if found else None

    def facts(self) -> dict[str, JSON]:
        """For a signal."""
        last = self.looks[-1].as_json() if self.looks else {"p": {}, "evidence": 0.0}
        return {
            "alarm": self.alarm,
            "since": self.state.since,
            "alarms": self.state.alarms,
            "alarm_budget": self.budget,
            "windows": last["p"],
            "evidence": last["evidence"],
            "blocks": len(self.looks),
            "waiting_rows": 0 if self.looks else self.state.rows,
            "calibrated_on": "days",
        }


def _follow(
    reference: _reference.Reference, fresh: Window, kept: Mapping[str, Any], options: MonitorOptions
) -> dict[str, Followed]:
    """All channels that the reference has. The text has half of the budget, the others share the rest."""
    rows = _rows(reference, fresh)
    channels = {name: one for name in rows if (one := reference.channel(name)) is not None}
    found = {}
    for name, channel in channels.items():
        others = len(channels) - 1
        share = 1.0 if not others else 0.5 if name == _reference.TEXT else 0.5 / others
        budget = options.budget * share
        state = _sequence.State.of(kept.get(name))
        features, dates = rows[name]
        looks = _sequence.Sequence(channel.baseline, state, channel.rules(budget)).follow(
            channel.parts(features(), dates) if dates else []
        )
        found[name] = Followed(state, list(looks), budget)
    return found


def _rows(
    reference: _reference.Reference, fresh: Window
) -> dict[str, tuple[Callable[[], NDArray[np.float32]], list[str]]]:
    """What makes the features of the rows that a channel is about, and the days of these rows."""
    dates = _dates(fresh)
    labelled = [row for row, label in enumerate(fresh.labels) if label is not None]
    labels = [str(fresh.labels[row]) for row in labelled]
    found = {
        _reference.TEXT: (lambda: reference.text_features(fresh), dates),
        _reference.LABELS: (lambda: reference.label_features(labels), [dates[row] for row in labelled]),
    }
    if fresh.logits is not None:
        found[_reference.ANSWERS] = (lambda: reference.answer_features(fresh), dates)
    return found


def _dates(window: Window) -> list[str]:
    """The day of each row; without a time the window's last one."""
    known = [_blocks.day_of(time) for time in window.times]
    last = max(known, default="") or NEVER
    return [date or last for date in known]


# --- signals --------------------------------------------------------------------------------------


def _text(
    reference: _reference.Reference, window: Window, followed: Followed, options: MonitorOptions, seed: int
) -> Signal:
    usual, spread = reference.values["usual_auc"], reference.values["usual_auc_spread"]
    facts: dict[str, JSON] = {**followed.facts(), "reference_blocks": reference.blocks}
    if not followed.state.since:
        return Signal(
            "text",
            False,
            _quiet(reference, followed),
            followed.p,
            effect_unit="AUC",
            baseline=usual,
            facts=facts,
        )
    sample = _check.sampled(window, options.rows, seed)
    sides = _check.side_by_side(reference, sample, 0, seed)
    told = _check.explain(reference, sample, sides, seed)
    large = sides.auc > usual + 3 * spread
    size = "" if large else ": a small change"
    summary = (
        f"The text has drifted from the reference{size} ({_found(followed)}; AUC {sides.auc:.2f},"
        f" usually {usual:.2f})."
    )
    return Signal(
        name="text",
        drifted=True,
        summary=summary,
        p_value=followed.p,
        effect=sides.auc,
        effect_unit="AUC",
        baseline=usual,
        words=told.words,
        slices=told.slices,
        facts={**facts, "large": large, **told.facts()},
    )


def _quiet(reference: _reference.Reference, followed: Followed) -> str:
    if not followed.looks:
        rows = followed.state.rows
        return f"Too few rows for a day so far ({rows}); the text is looked at once there are more."
    windows = ", ".join(f"p = {p:.2g} for {_days(int(w))}" for w, p in followed.facts()["windows"].items())
    told = f"; {windows}" if windows else ""
    return f"The text is like the {reference.blocks} days of the reference{told}."


def _days(window: int) -> str:
    return "the last day" if window == 1 else f"the last {window} days"


def _found(followed: Followed) -> str:
    """When the alarm was raised, and by what."""
    if not followed.alarm:
        return f"since {followed.state.since}, told before"
    by = "by what is small, but lasts" if followed.alarm == "witness" else f"in {_days(int(followed.alarm))}"
    return f"found on {followed.state.since}, {by}; {followed.budget:g} false alarms a year are borne"


def _others(
    reference: _reference.Reference, window: Window, followed: Mapping[str, Followed]
) -> list[Signal]:
    """Signals of answers and labels, where they are followed."""
    found = []
    if (one := followed.get(_reference.ANSWERS)) is not None and window.logits is not None:
        answers = _shares.answers(window.logits, window.classes)
        moved = _shares.moved(reference.values["answers"], answers)
        found.append(_moved("predicted labels", "champion's answers", moved, one))
    labels = [label for label in window.labels if label is not None]
    if (one := followed.get(_reference.LABELS)) is not None and labels:
        found.append(_moved("labels", "labels", _shares.moved(reference.values["labels"], labels), one))
    return found


def _moved(name: str, what: str, moved: _shares.Moved, followed: Followed) -> Signal:
    since = followed.state.since
    p = "" if followed.p is None else f" (p = {followed.p:.2g})"
    summary = (
        f"The {what} are in other proportions{f': {moved.told}' if moved.told else ''} ({_found(followed)})."
        if since
        else f"The {what} are in the usual proportions{p}."
        if followed.looks
        else f"Too few {what} for a day so far ({followed.state.rows})."
    )
    return Signal(
        name=name,
        drifted=bool(since),
        summary=summary,
        p_value=followed.p,
        effect=moved.distance,
        effect_unit="total variation",
        facts={**followed.facts(), **moved.facts},
    )


def _format(
    reference: _reference.Reference, fresh: Window, level: float
) -> tuple[list[Signal], dict[str, JSON]]:
    """Warnings of each day with rows enough, each sentinel once, at its clearest; figures of the last."""
    dates = np.array(_dates(fresh))
    warnings: dict[str, Signal] = {}
    figures: dict[str, JSON] = {}
    days = [day for day in sorted(set(dates.tolist())) if (dates == day).sum() >= _blocks.ROWS]
    for day in days:
        rows = np.flatnonzero(dates == day)[: _channels.MOST_IN_BLOCK]
        found, figures = _sentinels.look(reference.usual, [fresh.texts[row] for row in rows], level)
        for one in found:
            best = warnings.get(one.name)
            if best is None or (one.p_value or 0.0) < (best.p_value or 0.0):
                warnings[one.name] = one
    return list(warnings.values()), figures
