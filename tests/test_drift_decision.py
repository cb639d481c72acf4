"""What is done about a window: every combination that matters, as a table."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest

from keeperd import drift
from keeperd.config import Decide
from keeperd.drift import Harm, History, Report, Suspect, decide
from keeperd.drift.bets import LabelWatch

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
POLICY = Decide()
DRIFT = {"name": "text", "drifted": True, "summary": "The text is different (AUC 0.7).", "warning": False}
CALM = {"name": "text", "drifted": False, "summary": "The text is like the reference.", "warning": False}


def labels(loss: float, spread: float = 0.01, p: float = 0.001, rows: int = 200) -> Harm:
    return Harm(
        "labels", rows, 0.9, 0.9 - loss, loss, loss - spread, loss + spread, p, False, "measured"
    )  # fmt: skip


HURTS, HARMLESS, UNCLEAR = labels(0.1), labels(0.0), labels(0.03, 0.05, 0.2)
UNKNOWN = Harm(why="too few rows to guess from; label some")
GUESS = Harm("estimate", 500, 0.9, 0.6, 0.3, 0.2, 0.5, None, False, "a guess")
ALARMED = LabelWatch(True, 25.0, 140, "2026-11-20", 0.27, 0.15)
QUIET = LabelWatch(False, 1.2, 140, "2026-11-20", 0.12, 0.15)
WRONG = Suspect(True, 0.6, 0.2, "they agree with the champion on 40% of 200 rows")


def report(*, drifted: bool, harm: Harm, **more: Any) -> Report:
    whole = {"rows": 500, "labelled": 200, "signals": (DRIFT if drifted else CALM,), **more}
    return Report(drifted=drifted, harm=harm, **whole)


def moved(harm: Harm, **more: Any) -> Report:
    return report(drifted=True, harm=harm, **more)


def calm(harm: Harm, **more: Any) -> Report:
    return report(drifted=False, harm=harm, **more)


def history(**more: Any) -> History:
    return History(**{"now": NOW, "last_update": None, "updates_in_week": 0, "trigger": "files", **more})


SOON = {"last_update": NOW - timedelta(hours=1)}
LATER = {"last_update": NOW - timedelta(hours=7)}
MANUAL = {"trigger": "manual"}

TABLE: list[tuple[str, drift.Mode, Report, dict[str, Any], str, str]] = [
    # drift x harm
    ("harm", "drift", moved(HURTS), {}, "update", "it hurts"),
    ("no harm", "drift", moved(HARMLESS), {}, "tell", "does not hurt"),
    ("unclear", "drift", moved(UNCLEAR), {}, "tell", "not proven"),
    ("no labels", "drift", moved(UNKNOWN, labelled=0), {}, "tell", "label some"),
    ("told before", "drift", moved(HARMLESS, news=False), {}, "skip", "told before"),
    ("told, harm now", "drift", moved(HURTS, news=False), {}, "update", "it hurts"),
    # labels that trickle in
    ("bets", "drift", calm(HARMLESS, watch=ALARMED), {}, "update", "more than the 15.0% that is borne"),
    ("bets, few", "drift", calm(UNKNOWN, labelled=9, watch=ALARMED), {}, "tell", "please label"),
    ("no bets", "drift", calm(HARMLESS, watch=QUIET), {}, "skip", "no drift"),
    ("a guess", "drift", moved(GUESS, labelled=0), {}, "tell", "no proof"),
    ("calm", "drift", calm(HARMLESS), {}, "skip", "no drift"),
    ("calm, no labels", "drift", calm(UNKNOWN, labelled=0), {}, "skip", "no drift"),
    ("concept", "drift", calm(HURTS), {}, "update", "meaning has changed"),
    ("concept?", "drift", calm(labels(0.05, 0.04, 0.03)), {}, "skip", "no drift"),
    ("small loss", "drift", calm(labels(0.01, 0.005)), {}, "skip", "no drift"),
    # new labels
    ("new label", "drift", calm(HARMLESS, new_labels={"x": 10}), {}, "update", "(10 rows)"),
    ("few of it", "drift", calm(HARMLESS, new_labels={"x": 9, "y": 9}), {}, "skip", "no drift"),
    # amount
    ("few rows", "drift", moved(HURTS, rows=49), {}, "wait", "49 rows"),
    ("one row", "drift", moved(HURTS, rows=1), {}, "wait", "1 row so"),
    ("few labels", "drift", moved(HURTS, labelled=49), {}, "tell", "49 labelled rows"),
    ("earlier ones", "drift", moved(HURTS, labelled=49), {"labelled_before": 1}, "update", ""),
    ("concept, few", "drift", calm(HURTS, labelled=40), {}, "tell", "please label"),
    ("always, few", "always", calm(UNKNOWN, labelled=3), {}, "wait", "please label"),
    # cooldown and budget
    ("cooldown", "drift", moved(HURTS), SOON, "wait", "5.0 hours left"),
    ("after it", "drift", moved(HURTS), LATER, "update", "hurts"),
    ("budget", "drift", moved(HURTS), {"updates_in_week": 7}, "tell", "7 updates in seven days"),
    ("calm budget", "drift", calm(HARMLESS), {"updates_in_week": 7}, "skip", "no drift"),
    ("approval", "drift", moved(HURTS), {"approvals": 1}, "wait", "1 candidate must be"),
    # suspect labels
    ("suspect", "drift", moved(HURTS, suspect=WRONG), {}, "suspect", "look wrong"),
    ("suspect few", "drift", moved(HURTS, suspect=WRONG, rows=30), {}, "suspect", "look wrong"),
    ("suspect always", "always", moved(HURTS, suspect=WRONG), {}, "suspect", "look wrong"),
    # modes
    ("never", "never", moved(HURTS), {}, "tell", "switched off"),
    ("never, calm", "never", calm(HARMLESS), {}, "skip", "switched off"),
    ("never, concept", "never", calm(HURTS), {}, "tell", "switched off"),
    ("always", "always", calm(HARMLESS), {}, "update", "update = 'always'"),
    ("always, cooldown", "always", calm(HARMLESS), SOON, "wait", "too recent"),
    ("schedule", "schedule", calm(HARMLESS), {"trigger": "schedule"}, "update", "'schedule'"),
    ("between", "schedule", moved(HURTS), {}, "tell", "next scheduled"),
    ("between, calm", "schedule", calm(HARMLESS), {}, "skip", "next scheduled"),
    # by hand
    ("manual", "drift", calm(HARMLESS), MANUAL, "update", "operator"),
    ("manual, never", "never", calm(HARMLESS), MANUAL, "update", "operator"),
    ("manual, early", "drift", calm(HARMLESS, rows=40), {**MANUAL, **SOON}, "update", "operator"),
    ("manual, budget", "drift", calm(HARMLESS), {**MANUAL, "updates_in_week": 9}, "update", "op"),
    ("manual, suspect", "drift", moved(HURTS, suspect=WRONG), MANUAL, "update", "operator"),
    ("manual, few", "drift", calm(UNKNOWN, labelled=10), MANUAL, "wait", "10 labelled rows"),
    ("manual, waits", "drift", moved(HURTS), {**MANUAL, "approvals": 1}, "wait", "approved"),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "given", "past", "action", "why"), [row[1:] for row in TABLE],
                         ids=[row[0] for row in TABLE])  # fmt: skip
def test_the_table(mode: drift.Mode, given: Report, past: dict[str, Any], action: str, why: str) -> None:
    decision = decide(given, POLICY, mode, history(**past))
    assert (decision.action, why in decision.why) == (action, True), decision.why
    assert decision.reasons[0].startswith(f"{given.rows} row")
    assert all(reason and "\n" not in reason for reason in decision.reasons)
    assert decision == decide(given, POLICY, mode, history(**past))


ON_DRIFT: list[tuple[str, Report, str]] = [
    ("tell", moved(UNKNOWN), "tell"),
    ("tell", moved(HURTS), "update"),
    ("ask", moved(UNCLEAR), "ask"),
    ("ask", moved(UNKNOWN, labelled=0), "ask"),
    ("ask", moved(HARMLESS, news=False), "skip"),
    ("ask", moved(HURTS), "update"),
    ("ask", calm(HARMLESS), "skip"),
    ("update", moved(UNCLEAR), "update"),
    ("update", moved(HARMLESS), "update"),
    ("update", moved(HARMLESS, news=False), "update"),
    ("update", moved(UNKNOWN, labelled=0), "tell"),
    ("update", calm(HARMLESS), "skip"),
]


@pytest.mark.parametrize(("on_drift", "given", "action"), ON_DRIFT)
def test_what_the_operator_wants_of_drift_without_proven_harm(
    on_drift: Any, given: Report, action: str
) -> None:
    decision = decide(given, POLICY.model_copy(update={"on_drift": on_drift}), "drift", history())
    assert decision.action == action, decision.why


def test_every_action_and_mode_is_in_a_table() -> None:
    actions = {row[4] for row in TABLE} | {row[2] for row in ON_DRIFT}
    assert actions == set(get_args(drift.Action))
    assert {row[1] for row in TABLE} == set(get_args(drift.Mode))


def test_the_policy_is_obeyed() -> None:
    loss = moved(HURTS)
    lenient = POLICY.model_copy(update={"harm": 0.2})
    assert decide(loss, lenient, "drift", history()).action == "tell"
    patient = POLICY.model_copy(update={"min_window": 501})
    assert decide(loss, patient, "drift", history()).action == "wait"
    unlimited = POLICY.model_copy(update={"updates_per_week": 0})
    assert decide(loss, unlimited, "drift", history(updates_in_week=99)).action == "update"
    hasty = POLICY.model_copy(update={"cooldown": timedelta(0)})
    assert decide(loss, hasty, "drift", history(**SOON)).action == "update"


def test_reasons_hold_every_figure() -> None:
    warning = {"name": "duplicates", "drifted": False, "summary": "40% of the rows repeat.", "warning": True}
    given = report(
        drifted=True, harm=HURTS, new_labels={"x": 3}, suspect=Suspect(False, 0.2, 0.18, "they agree on 80%")
    )
    given = replace(given, signals=(*given.signals, warning))
    decision = decide(given, POLICY, "drift", history(labelled_before=12))
    told = " | ".join(decision.reasons)
    figures = (
        "500 rows, 200",
        "12 labelled rows",
        "AUC 0.7",
        "warning: 40%",
        "80.0%",
        "90.0%",
        "-11.0 to -9.0",
    )
    assert all(figure in told for figure in (*figures, "'x' (3 rows)", "agree on 80%"))


def test_estimates_are_never_told_as_no_harm() -> None:
    rosy = Harm("estimate", 500, 0.9, 0.95, -0.05, -0.1, 0.1, None, False, "a guess")
    for drifted in (True, False):
        decision = decide(report(drifted=drifted, harm=rosy, labelled=0), POLICY, "drift", history())
        told = " ".join((decision.why, *decision.reasons))
        assert "does not hurt" not in told and "no harm" not in told and "a hint, no proof" in told


def test_reports_survive_json() -> None:
    given = moved(HURTS, suspect=WRONG, states={"two-sample": None}, examples=({"text": "a"},))
    assert Report.from_json(given.to_json()) == given
    newer = {**given.to_json(), "invented_later": 1}
    assert Report.from_json(newer) == given


def test_many_new_labels_are_told_shortly() -> None:
    given = calm(HARMLESS, new_labels={f"label {i}": 10 + i for i in range(40)})
    decision = decide(given, POLICY, "drift", history())
    assert "'label 39' (49 rows)" in decision.why and "and 35 more" in decision.why
