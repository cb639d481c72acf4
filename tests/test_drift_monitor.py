"""Detector "monitor": day after day against the days of the reference."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keeperd.api import JSON, Context, PluginError, Signal, Statistics, Window
from keeperd_plugins import _sequence
from keeperd_plugins.monitor_detector import MonitorDetector, MonitorOptions
from tests.conftest import labelled_texts

KNOWN = ("food", "sport", "travel")
START = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path, seed=5)


def day(number: int, rows: int = 60, *, unseen: int = 0, bursty: bool = True) -> Window:
    """Rows of one day; on bursty days the topics have shares of their own."""
    rng = random.Random(number)
    topic = [rng.choice(KNOWN) for _ in range(2)] if bursty else []
    old = labelled_texts(rows - unseen, (*KNOWN, *topic), number)[0]
    texts = old + labelled_texts(unseen, ("music",), number)[0]
    times = [START + timedelta(days=number, minutes=row) for row in range(rows)]
    return Window(texts, times=times, ids=[f"{number}-{row}" for row in range(rows)])


def joined(*windows: Window) -> Window:
    texts = [text for one in windows for text in one.texts]
    times = [time for one in windows for time in one.times]
    ids = [row for one in windows for row in one.ids]
    labels = [label for one in windows for label in one.labels]
    return Window(texts, times=times, ids=ids, labels=labels)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Statistics:
    days = joined(*(day(number) for number in range(24)))
    return MonitorDetector().fit(days, Context(tmp_path_factory.mktemp("fit"), seed=5))


def run(
    statistics: Statistics, windows: Sequence[Window], context: Context, state: JSON = None, **options: Any
) -> tuple[list[Signal], JSON]:
    """The text's signal of each window, and the last state; states go through JSON."""
    detector = MonitorDetector(MonitorOptions(**options))
    found = []
    for window in windows:
        signals, state = detector.detect(statistics, window, state, context)
        state = json.loads(json.dumps(state, allow_nan=False))
        assert len({signal.name for signal in signals}) == len(signals)
        found.append(next(signal for signal in signals if signal.name == "text"))
    return found, state


def test_quiet_days_stay_quiet(fitted: Statistics, context: Context) -> None:
    found, state = run(fitted, [day(number) for number in range(24, 64)], context)
    assert not any(signal.drifted for signal in found)
    assert state["channels"]["text"]["alarms"] == 0
    assert all(signal.facts["calibrated_on"] == "days" for signal in found)
    assert set(found[35].facts["windows"]) == {"1", "3", "7", "28"}


def test_a_large_change_is_found_on_its_first_day_and_latched(fitted: Statistics, context: Context) -> None:
    days = [*(day(n) for n in range(24, 30)), *(day(n, unseen=40) for n in range(30, 34))]
    found, state = run(fitted, days, context)
    assert [signal.drifted for signal in found] == [False] * 6 + [True] * 4
    first, later = found[6], found[7]
    assert first.facts["alarm"] == "1" and first.facts["since"] == "2026-01-31"
    assert later.facts["alarm"] == "" and later.facts["since"] == "2026-01-31"
    assert state["channels"]["text"]["alarms"] == 1
    assert first.effect is not None and first.effect > 0.8 and first.words


def test_a_small_change_that_lasts_is_found(fitted: Statistics, context: Context) -> None:
    found, _ = run(fitted, [day(number, unseen=9) for number in range(24, 60)], context)
    alarms = [(at, signal.facts["alarm"]) for at, signal in enumerate(found) if signal.facts["alarm"]]
    assert len(alarms) == 1
    assert 1 <= alarms[0][0] < 30


def test_an_alarm_is_let_go_when_the_text_is_as_before(fitted: Statistics, context: Context) -> None:
    days = [day(24, unseen=50), *(day(number) for number in range(25, 60))]
    found, state = run(fitted, days, context)
    held = [signal.drifted for signal in found]
    assert held[:8] == [True] * 8
    assert held[-1] is False and sum(held) < 30
    again, _ = run(fitted, [day(60, unseen=50)], context, state)
    assert again[0].facts["alarm"]


def test_rows_that_were_counted_are_not_counted_again(fitted: Statistics, context: Context) -> None:
    once, state = run(fitted, [day(24), day(25)], context)
    grown = joined(day(24), day(25))
    seen = replace(grown, fresh=[row.startswith("25") for row in grown.ids])
    twice, again = run(fitted, [day(24), seen], context)
    assert again == state
    assert twice[1].p_value == once[1].p_value


def test_days_may_come_in_one_window_or_in_many(fitted: Statistics, context: Context) -> None:
    days = [day(number) for number in range(24, 34)]
    _, one_by_one = run(fitted, days, context)
    _, at_once = run(fitted, [joined(*days)], context)
    text = one_by_one["channels"]["text"]
    assert at_once["channels"]["text"]["closed"] == text["closed"] == 9
    assert np.allclose(at_once["channels"]["text"]["wealth"], text["wealth"], rtol=1e-4)


def test_the_order_of_rows_does_not_matter(fitted: Statistics, context: Context) -> None:
    window = day(24, unseen=40)
    order = random.Random(1).sample(range(60), 60)
    one, other = (run(fitted, [some], context)[0][0] for some in (window, window.take(order)))
    assert one.p_value == pytest.approx(other.p_value)
    assert (one.effect, one.words) == (other.effect, other.words)


def test_small_days_are_joined_until_they_say_something(fitted: Statistics, context: Context) -> None:
    small = [day(number, rows=20) for number in range(24, 30)]
    found, _ = run(fitted, small, context)
    assert [signal.p_value is None for signal in found] == [True, True, False, True, True, False]
    assert found[0].facts["waiting_rows"] == 20 and "Too few rows" in found[0].summary


def test_a_day_that_lies_before_the_last_one_counts_as_that_one(fitted: Statistics, context: Context) -> None:
    found, state = run(fitted, [day(30), day(26), day(31)], context)
    assert state["channels"]["text"]["closed"] == 1
    assert state["channels"]["text"]["date"] == "2026-02-01"
    assert not any(signal.drifted for signal in found)


def test_looking_at_a_day_again_and_again_spends_no_more_than_twice_the_budget(
    fitted: Statistics, context: Context
) -> None:
    parts = [day(24, rows=240).take(range(at, at + 60)) for at in range(0, 240, 60)]
    _, state = run(fitted, parts, context)
    text = state["channels"]["text"]
    assert (text["looks"], text["rows"], text["closed"]) == (4, 240, 0)


def test_rows_without_a_time_count_on_the_last_day(fitted: Statistics, context: Context) -> None:
    window = day(24)
    times = [None if row % 3 else time for row, time in enumerate(window.times)]
    _, state = run(fitted, [replace(window, times=times)], context)
    assert state["channels"]["text"]["rows"] == 60
    nowhere, state = run(fitted, [replace(window, times=[None] * 60)], context, state)
    assert state["channels"]["text"]["rows"] == 120 and nowhere[0].p_value is not None


def test_a_state_of_another_reference_is_dropped_and_told(fitted: Statistics, context: Context) -> None:
    _, state = run(fitted, [day(number, unseen=40) for number in (24, 25)], context)
    other = MonitorDetector().fit(joined(*(day(number) for number in range(100, 120))), context)
    found, after = run(other, [day(121)], context, state)
    assert found[0].facts["state_rebuilt"] is True and not found[0].drifted
    assert after["reference"] != state["reference"]
    assert run(fitted, [day(26)], context, state)[0][0].facts["state_rebuilt"] is False


def test_another_encoder_is_refused(context: Context) -> None:
    rng = np.random.default_rng(0)
    days = joined(*(day(number) for number in range(20)))
    known = replace(days, embeddings=rng.normal(size=(len(days), 8)).astype(np.float32))
    statistics = MonitorDetector().fit(known, context)
    wider = replace(day(21), embeddings=rng.normal(size=(60, 12)).astype(np.float32))
    with pytest.raises(PluginError, match="another encoder"):
        MonitorDetector().detect(statistics, wider, None, context)
    with pytest.raises(PluginError, match="the window has none"):
        MonitorDetector().detect(statistics, day(21), None, context)


def test_too_few_days_fall_back_to_the_single_check(context: Context) -> None:
    reference = joined(*(day(number) for number in range(9)))
    statistics = MonitorDetector().fit(reference, context)
    found, state = run(statistics, [day(9), day(10, unseen=40)], context, permutations=499)
    assert [signal.drifted for signal in found] == [False, True]
    assert state is None
    assert "9 days" in found[0].facts["single_check"] and found[0].facts["calibrated_on"] == "rows"


@pytest.mark.parametrize("rows", [0, 1])
def test_empty_and_tiny_windows(fitted: Statistics, context: Context, rows: int) -> None:
    window = day(24).take(range(rows))
    if not rows:
        with pytest.raises(PluginError, match="empty"):
            MonitorDetector().detect(fitted, window, None, context)
        return
    found, _ = run(fitted, [window], context)
    assert not found[0].drifted and found[0].p_value is None


@pytest.mark.parametrize(
    "texts", [["same"] * 80, ["x" * 2**20] * 60, ["\ud800", "مرحبا 你好 hello", "\u200b"] * 30]
)
def test_strange_text_is_drift_and_never_an_error(
    fitted: Statistics, context: Context, texts: list[str]
) -> None:
    times = [START + timedelta(days=25)] * len(texts)
    found, _ = run(fitted, [Window(texts, times=times)], context)
    assert found[0].drifted


def test_a_constant_reference_never_drifts_from_itself(context: Context) -> None:
    times = [START + timedelta(days=row // 30) for row in range(600)]
    constant = Window(["ping"] * 600, times=times)
    statistics = MonitorDetector().fit(constant, context)
    found, _ = run(statistics, [Window(["ping"] * 60, times=[START + timedelta(days=30)] * 60)], context)
    assert not found[0].drifted


def test_answers_and_labels_are_followed_with_budgets_of_their_own(context: Context) -> None:
    def answered(number: int, share: float) -> Window:
        rng = np.random.default_rng(number)
        names = ["a" if flag else "b" for flag in rng.random(60) < share]
        logits = np.array([[3.0, 0.0] if name == "a" else [0.0, 3.0] for name in names], np.float32)
        return replace(day(number), labels=names, logits=logits, classes=("a", "b"))

    days = [answered(number, 0.5) for number in range(24)]
    reference = replace(joined(*days), logits=np.vstack([one.logits for one in days]), classes=("a", "b"))
    statistics = MonitorDetector().fit(reference, context)
    detector = MonitorDetector()
    signals, state = detector.detect(statistics, answered(24, 0.95), None, context)
    found = {signal.name: signal for signal in signals}
    assert found["predicted labels"].drifted and found["labels"].drifted and not found["text"].drifted
    assert "'a'" in found["labels"].summary
    budgets = [found[name].facts["alarm_budget"] for name in ("text", "predicted labels", "labels")]
    assert budgets == [0.5, 0.25, 0.25] and set(state["channels"]) == {"text", "answers", "labels"}


def test_a_larger_budget_finds_sooner(fitted: Statistics, context: Context) -> None:
    days = [day(number, unseen=9) for number in range(24, 60)]

    def first(budget: float) -> int:
        found, _ = run(fitted, days, context, budget=budget)
        return next((at for at, signal in enumerate(found) if signal.drifted), len(found))

    assert first(20.0) <= first(1.0) <= first(0.01)
    assert first(20.0) < first(0.01)


def test_a_state_survives_json_to_the_last_figure() -> None:
    state = _sequence.State(blocks=[(np.array([1 / 3, -2e-9]), 7)], total=np.array([5.0, 1e9]), rows=3)
    plain = json.loads(json.dumps(state.as_json()))
    assert _sequence.State.of(plain).as_json() == plain
