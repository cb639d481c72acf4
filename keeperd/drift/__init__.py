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
from keeperd.drift.bets import LabelWatch

Action = Literal["update", "tell", "ask", "skip", "wait", "suspect"]
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
            90 % interval (of an estimate without labels: a range).
        p_value: one-sided, of "accuracy has not fallen"; only with labels.
        abstained: True where nothing honest can be said; `why` says why.
    """

    how: Literal["labels", "estimate", "unknown"] = "unknown"
    rows: int = 0
    accepted: float | None = None
    accuracy: float | None = None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
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
    """A drift report: what the detectors saw, and what it means for the champion.

    `news` is False where drift was found earlier and still holds; `watch` is what all labels since the
    promotion say together.
    """

    rows: int
    labelled: int
    drifted: bool
    news: bool = True
    watch: LabelWatch = field(default_factory=LabelWatch)
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
        known["watch"] = LabelWatch.from_json(value.get("watch", {}))
        known["signals"] = tuple(value.get("signals", ()))
        known["examples"] = tuple(value.get("examples", ()))
        return cls(**known)


def _only(kind: type[Harm] | type[Suspect], value: Mapping[str, Any]) -> dict[str, Any]:
    return {one.name: value[one.name] for one in fields(kind) if one.name in value}


@dataclass(frozen=True)
class History:
    """What the decision needs to know of the past.

    Attributes:
        trigger: kind of what opened the cycle; "manual" asks for an update now.
        labelled_before: labelled rows of earlier, judged batches that no version was trained on; an
            update takes them in.
        approvals: candidates that wait for the operator's answer.
    """

    now: datetime
    last_update: datetime | None
    updates_in_week: int
    trigger: str
    labelled_before: int = 0
    approvals: int = 0


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
    """The decision for one window.

    "update": train; "tell": drift that does not lead to an update, people hear of it; "ask": the same, and
    they are asked whether to update; "skip": nothing to do; "wait": too early, the window grows; "suspect":
    the labels look wrong, leave them alone. A manual trigger asks for an update whatever the figures are;
    only rows to learn from it must have.
    """
    forced = history.trigger == "manual"
    reasons = _reasons(report, history)

    def decided(action: Action, why: str) -> Decision:
        return Decision(action, why, tuple(reasons))

    if history.approvals:
        return decided("wait", f"{_count(history.approvals, 'candidate')} must be approved or rejected first")
    if report.suspect.suspect and not forced:
        return decided("suspect", f"the labels look wrong: {report.suspect.why}")
    if report.rows < policy.min_window and not forced:
        return decided(
            "wait", f"{_count(report.rows, 'row')} so far, {policy.min_window} are needed to judge"
        )
    action, why = _wish(report, policy, mode, history)
    if action != "update":
        return decided(action, why)
    labelled = report.labelled + history.labelled_before
    if labelled < policy.min_labelled:
        need = f"{_count(labelled, 'labelled row')}, {policy.min_labelled} are needed to learn from"
        told = (report.drifted and report.news) or _hurts(report, policy)
        return decided("tell" if told else "wait", f"{why}; {need}: please label some")
    if not forced and (hindrance := _hindrance(policy, history)):
        reasons.append(hindrance[1])
        return decided(hindrance[0], f"{why}; but {hindrance[1]}")
    return decided("update", why)


def _wish(report: Report, policy: Decide, mode: Mode, history: History) -> tuple[Action, str]:
    """What drift and harm call for, before amount, cooldown and budget have their say."""
    if history.trigger == "manual":
        return "update", "the operator asked for an update"
    hurts = _hurts(report, policy)
    quiet: Action = "tell" if (report.drifted and report.news) or hurts else "skip"
    seen = "; ".join([_drift(report), *([hurts] if hurts else [])])
    if mode == "never":
        return quiet, f"{seen}; updates are switched off"
    if mode == "schedule" and history.trigger != "schedule":
        return quiet, f"{seen}; the next scheduled update will take it in"
    if mode in {"always", "schedule"}:
        return "update", f"{seen}; an update is made anyway (update = {mode!r})"
    if hurts:
        return "update", hurts
    if not report.drifted:
        return "skip", f"no drift; {_harm(report)}"
    return _unharmed(report, policy)


def _unharmed(report: Report, policy: Decide) -> tuple[Action, str]:
    """Drift of which no harm is proven: what the operator said is to be done (`on_drift`). How much the
    text has changed says little of how much it hurts, so by default people are told and no more."""
    harm = report.harm
    if harm.how != "labels":
        why = f"the text has drifted; whether it hurts is not known: {_harm(report)}"
    elif harm.high is not None and harm.high < policy.harm:
        why = f"the text has drifted, but it does not hurt: {_harm(report)}"
    else:
        why = f"the text has drifted; that it hurts is not proven: {_harm(report)}"
    if policy.on_drift == "update":
        return "update", f'{why}; an update is made anyway (on_drift = "update")'
    if not report.news:
        return "skip", f"{why}; it was told before"
    if policy.on_drift == "ask":
        return "ask", f"{why}; an update is made if you ask for one"
    return "tell", why


def _hurts(report: Report, policy: Decide) -> str:
    """Proof of harm, in words, or "". Without drift of the text the proof must be as strong as that
    of drift would have to be: a fall of accuracy alone is looked for at every window."""
    if any(rows >= NEW_LABEL_ROWS for rows in report.new_labels.values()):
        return _new_labels(report)
    if report.watch.alarmed:
        return f"the champion is {report.watch.told()}"
    harm = report.harm
    if harm.how != "labels" or harm.low is None or harm.low <= 0 or (harm.estimate or 0) < policy.harm:
        return ""
    if report.drifted:
        return f"the text has drifted, and it hurts: {_harm(report)}"
    if harm.p_value is None or harm.p_value > policy.alpha:
        return ""
    return f"the text is the same, but its meaning has changed: {_harm(report)}"


def _hindrance(policy: Decide, history: History) -> tuple[Action, str] | None:
    """Why an update must not begin now. A cooldown passes by itself; a spent budget people should
    hear of."""
    if history.last_update is not None and history.now - history.last_update < policy.cooldown:
        left = policy.cooldown - (history.now - history.last_update)
        hours = left.total_seconds() / 3600
        return "wait", f"the last update was too recent (cooldown {policy.cooldown}, {hours:.1f} hours left)"
    if policy.updates_per_week and history.updates_in_week >= policy.updates_per_week:
        count = _count(history.updates_in_week, "update")
        return "tell", f"there were {count} in seven days, the limit (updates_per_week)"
    return None


def _reasons(report: Report, history: History) -> list[str]:
    """Every figure that the decision rests on, in plain words."""
    reasons = [f"{_count(report.rows, 'row')}, {report.labelled} of them labelled"]
    if history.labelled_before:
        reasons.append(
            f"{_count(history.labelled_before, 'labelled row')} of earlier batches not learnt from yet"
        )
    counted = [str(one["summary"]) for one in report.signals if not one.get("warning")]
    warned = [
        f"warning: {one['summary']}"
        for one in report.signals
        if one.get("warning") and "html" not in one.get("facts", {})  # a page that was made is no warning
    ]
    reasons += [line.rstrip(".") for line in (*(counted or [_drift(report)]), *warned)]
    reasons.append(_harm(report))
    if report.watch.rows:
        reasons.append(f"all labels since the promotion: {report.watch.told()}")
    if report.suspect.why:
        reasons.append(f"labels: {report.suspect.why}")
    if report.new_labels:
        reasons.append(_new_labels(report))
    return reasons


def _drift(report: Report) -> str:
    drifted = [one for one in report.signals if one.get("drifted") and not one.get("warning")]
    if not report.drifted:
        return "no drift"
    return "; ".join(str(one["summary"]).rstrip(".") for one in drifted) or "the text has drifted"


def _harm(report: Report) -> str:
    harm = report.harm
    if harm.how == "labels" and harm.accuracy is not None and harm.accepted is not None:
        return (
            f"accuracy {harm.accuracy:.1%} on {_count(harm.rows, 'labelled row')}, accepted at"
            f" {harm.accepted:.1%} (change {_points(harm.high)} to {_points(harm.low)} points)"
        )
    if harm.how == "estimate" and not harm.abstained and harm.accuracy is not None:
        return f"without labels accuracy is guessed at {harm.accuracy:.0%}; a hint, no proof"
    return harm.why or "without labels nothing can be said about accuracy"


def _points(loss: float | None) -> str:
    return "?" if loss is None else f"{-loss * 100:+.1f}"


def _new_labels(report: Report) -> str:
    most = sorted(report.new_labels.items(), key=lambda pair: (-pair[1], pair[0]))
    names = ", ".join(f"{name!r} ({_count(rows, 'row')})" for name, rows in most[:5])
    more = f" and {len(most) - 5} more" if len(most) > 5 else ""
    return f"labels that the champion does not know: {names}{more}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
