"""What to do about a window: drift x harm x amount x cooldown x budget. Pure, standard library only.

The figures come from a worker (`jobs/assess.py`); the decision is made here, in the daemon, from
figures alone, so that the same report and the same history always lead to the same decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Literal

from keeperd.api import JSON
from keeperd.config import Decide

Action = Literal["update", "tell", "skip", "wait", "suspect"]
Mode = Literal["drift", "always", "schedule", "never"]

NEW_LABEL_ROWS = 10
"""Rows of a label that the champion has never seen, from which they count as certain harm."""


@dataclass(frozen=True)
class Harm:
    """Does it hurt?

    Attributes:
        how: "labels" (measured), "estimate" (without labels), or "unknown".
        rows: labelled rows that it rests on, or rows for an estimate.
        accepted: accuracy that the champion was accepted with, 0..1.
        accuracy: accuracy on the window, measured or estimated, 0..1.
        estimate, low, high: loss of accuracy against `accepted`, positive is worse, with its
            90 % interval.
        abstained: True where nothing honest can be said; `why` says why.
    """

    how: Literal["labels", "estimate", "unknown"] = "unknown"
    rows: int = 0
    accepted: float | None = None
    accuracy: float | None = None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    abstained: bool = True
    why: str = ""


@dataclass(frozen=True)
class Suspect:
    """Do the labels look wrong? Disagreement with the champion, 0..1, seen and expected."""

    suspect: bool = False
    disagreement: float | None = None
    expected: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Report:
    """A drift report: what the detectors saw, and what it means for the champion."""

    rows: int
    labelled: int
    drifted: bool
    signals: tuple[Mapping[str, JSON], ...] = ()
    harm: Harm = Harm()
    suspect: Suspect = Suspect()
    new_labels: Mapping[str, int] = field(default_factory=dict)
    states: Mapping[str, JSON] = field(default_factory=dict)
    examples: tuple[JSON, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As a run's result holds it."""
        return {
            **asdict(self),
            "signals": [dict(one) for one in self.signals],
            "examples": list(self.examples),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Report:
        """From a run's result; keys that this class does not have are passed over."""
        known = {one.name: value[one.name] for one in fields(cls) if one.name in value}
        known["harm"] = Harm(**_only(Harm, value["harm"]))
        known["suspect"] = Suspect(**_only(Suspect, value["suspect"]))
        known["signals"] = tuple(value.get("signals", ()))
        known["examples"] = tuple(value.get("examples", ()))
        return cls(**known)


def _only(kind: type[Harm] | type[Suspect], value: Mapping[str, Any]) -> dict[str, Any]:
    return {one.name: value[one.name] for one in fields(kind) if one.name in value}


@dataclass(frozen=True)
class History:
    """What the decision needs to know of the past."""

    now: datetime
    last_update: datetime | None
    updates_in_week: int
    trigger: str


@dataclass(frozen=True)
class Decision:
    """What to do, in one sentence, and every reason with its figure."""

    action: Action
    why: str
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For the cycle's facts."""
        return {"action": self.action, "why": self.why, "reasons": list(self.reasons)}


def decide(report: Report, policy: Decide, mode: Mode, history: History) -> Decision:
    """The decision for one window."""
    forced = history.trigger == "manual"
    reasons = [_amount(report), _drift(report), _harm(report)]
    if report.new_labels:
        reasons.append(_new_labels(report))

    def decided(action: Action, why: str) -> Decision:
        return Decision(action, why, tuple(reasons))

    if report.suspect.suspect and not forced:
        return decided("suspect", f"the labels look wrong: {report.suspect.why}")
    if report.rows < policy.min_window and not forced:
        return decided("wait", f"{report.rows} rows are too few to judge, {policy.min_window} are needed")
    wish = _wish(report, policy, mode, forced=forced, scheduled=history.trigger == "schedule")
    if wish.action != "update":
        return decided(wish.action, wish.why)
    if report.labelled < policy.min_labelled:
        need = f"only {report.labelled} labelled rows, {policy.min_labelled} are needed to learn from"
        reasons.append(need)
        return decided("tell" if report.drifted else "wait", f"{wish.why}, but {need}: please label some")
    if not forced and (hindrance := _hindrance(policy, history)):
        reasons.append(hindrance)
        return decided("tell" if report.drifted else "skip", f"{wish.why}, but {hindrance}")
    return decided("update", wish.why)


def _wish(report: Report, policy: Decide, mode: Mode, *, forced: bool, scheduled: bool) -> Decision:
    """What drift and harm call for, before amount, cooldown and budget have their say."""

    def wish(action: Action, why: str) -> Decision:
        return Decision(action, why, ())

    if forced:
        return wish("update", "the operator asked for an update")
    quiet: Action = "tell" if report.drifted else "skip"
    if mode == "never":
        return wish(quiet, f"{_drift(report)}; updates are switched off")
    if mode == "schedule" and not scheduled:
        return wish(quiet, f"{_drift(report)}; the next scheduled update will take it in")
    if mode in {"always", "schedule"}:
        return wish("update", f"{_drift(report)}; update = {mode!r}")
    if any(rows >= NEW_LABEL_ROWS for rows in report.new_labels.values()):
        return wish("update", _new_labels(report))
    harm = report.harm
    if harm.how == "labels" and harm.low is not None and harm.low > 0 and (harm.estimate or 0) >= policy.harm:
        cause = "the text has drifted" if report.drifted else "the text has not drifted, but its meaning has"
        return wish("update", f"{cause} and it hurts: {_harm(report)}")
    if not report.drifted:
        return wish("skip", f"{_drift(report)}; {_harm(report)}")
    if harm.how == "labels" and harm.high is not None and harm.high < policy.harm:
        return wish("tell", f"the text has drifted, but it does not hurt: {_harm(report)}")
    if harm.how == "labels":
        return wish("update", f"the text has drifted and it may hurt: {_harm(report)}")
    return wish("update", f"the text has drifted; whether it hurts is not known: {_harm(report)}")


def _hindrance(policy: Decide, history: History) -> str:
    """Why an update must not begin now, or ""."""
    if history.last_update is not None and history.now - history.last_update < policy.cooldown:
        return f"the last update was less than {policy.cooldown} ago"
    if policy.updates_per_week and history.updates_in_week >= policy.updates_per_week:
        return f"there were {history.updates_in_week} updates in seven days, the limit"
    return ""


def _amount(report: Report) -> str:
    return f"{report.rows} rows, {report.labelled} of them labelled"


def _drift(report: Report) -> str:
    drifted = [one for one in report.signals if one.get("drifted") and not one.get("warning")]
    if not report.drifted:
        return "no drift"
    return "; ".join(str(one["summary"]).rstrip(".") for one in drifted) or "the text has drifted"


def _harm(report: Report) -> str:
    harm = report.harm
    if harm.how == "labels" and harm.accuracy is not None and harm.accepted is not None:
        return (
            f"accuracy {harm.accuracy:.1%} on {harm.rows} labelled rows, accepted at {harm.accepted:.1%}"
            f" (loss {_points(harm.low)} to {_points(harm.high)} points)"
        )
    if harm.how == "estimate" and not harm.abstained and harm.accuracy is not None:
        return f"without labels, accuracy is estimated at {harm.accuracy:.0%}; this is a hint only"
    return harm.why or "without labels nothing can be said about accuracy"


def _points(share: float | None) -> str:
    return "?" if share is None else f"{share * 100:+.1f}"


def _new_labels(report: Report) -> str:
    names = ", ".join(f"{name!r} ({rows} rows)" for name, rows in sorted(report.new_labels.items()))
    return f"labels that the champion does not know: {names}"
