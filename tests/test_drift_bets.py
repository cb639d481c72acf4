"""The bet on labels over time: false alarms, losses found, and its state."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from keeperd.drift import bets
from keeperd.drift.bets import Block, LabelWatch

NEVER = 10**6


def day(draw: random.Random, error: float, rows: int = 10) -> Block:
    losses = [float(draw.random() < error) for _ in range(rows)]
    return Block(losses, 0.0, int(sum(losses)))


def alarm(blocks: list[Block], borne: float) -> int:
    """Day of the alarm, from 1."""
    state: Any = None
    for number, block in enumerate(blocks, 1):
        state, watch = bets.count(state, [block], borne)
        if watch.alarmed:
            return number
    return NEVER


@pytest.mark.parametrize("error", [0.05, 0.2])
def test_false_alarms_are_rare_over_half_a_year_at_the_very_limit(error: float) -> None:
    draw = random.Random(1)
    borne = bets.limit(1 - error, 1000)
    days = ([day(draw, error + bets.TOLERANCE) for _ in range(180)] for _ in range(400))
    assert sum(alarm(blocks, borne) < NEVER for blocks in days) / 400 <= 0.05


@pytest.mark.parametrize(("error", "holdout"), [(0.05, 300), (0.2, 1000), (0.1, 50)])
def test_without_a_loss_a_holdout_that_was_lucky_does_not_alarm(error: float, holdout: int) -> None:
    draw = random.Random(1)
    alarms = 0
    for _ in range(400):
        held = sum(draw.random() < error for _ in range(holdout)) / holdout
        borne = bets.limit(1 - held, holdout)
        alarms += alarm([day(draw, error) for _ in range(180)], borne) < NEVER
    assert alarms / 400 <= 0.05


def test_wealth_is_not_expected_to_grow_at_the_limit() -> None:
    draw = random.Random(2)
    wealth = []
    for _ in range(4000):
        rows = [float(draw.random() < 0.2) for _ in range(20)]
        # blocks of one row: none of them can gain so much that a part is given away
        _, watch = bets.count(None, [Block([loss], 0.0, int(loss)) for loss in rows], 0.2)
        wealth.append(watch.wealth)
    assert 0.8 < sum(wealth) / len(wealth) < 1.05


def test_days_that_differ_do_not_alarm() -> None:
    draw = random.Random(3)
    alarms = 0
    for _ in range(200):
        blocks = [day(draw, 0.15 + draw.choice((-0.05, 0.05))) for _ in range(120)]
        alarms += alarm(blocks, bets.limit(0.9, 500)) < NEVER
    assert alarms / 200 <= 0.05


@pytest.mark.parametrize(("good", "within"), [(0, 20), (60, 30), (300, 40)])
def test_a_loss_of_twenty_points_is_found_however_late_it_begins(good: int, within: int) -> None:
    draw = random.Random(4)
    borne = bets.limit(0.9, 500)
    found = 0
    for _ in range(50):
        blocks = [day(draw, 0.1) for _ in range(good)] + [day(draw, 0.3) for _ in range(within)]
        found += good < alarm(blocks, borne) < NEVER
    assert found >= 40


def test_one_block_alone_does_not_alarm() -> None:
    flood = Block([1.0] * 500, 0.0, 500)
    state, once = bets.count(None, [flood], 0.2)
    assert not once.alarmed and once.wealth == pytest.approx(20**0.5) and once.error == 1.0
    assert bets.count(state, [flood], 0.2)[1].alarmed


def test_an_alarm_stays_until_the_state_is_dropped() -> None:
    bad, good = Block([1.0] * 50, 0.0, 50), Block([0.0] * 400, 0.0, 0)
    state, watch = bets.count(None, [bad, bad], 0.2, at="Monday")
    assert watch.alarmed and watch.since == "Monday" and "more than the 20.0% that is borne" in watch.told()
    state, later = bets.count(state, [good], 0.2, at="Tuesday")
    assert later.alarmed and later.wealth < 1 and later.rows == 500 and later.since == "Monday"
    assert not bets.count(state, [], 0.25)[1].alarmed
    assert bets.count(state, [], 0.25)[1].rows == 0


def test_the_state_is_json_and_counts_on_where_it_stopped() -> None:
    draw = random.Random(5)
    blocks = [day(draw, 0.25) for _ in range(6)]
    at_once, all_told = bets.count(None, blocks, 0.2)
    state: Any = None
    for block in blocks:
        state, watch = bets.count(json.loads(json.dumps(state, allow_nan=False)), [block], 0.2)
    assert watch.wealth == pytest.approx(all_told.wealth)
    assert (watch.rows, watch.error) == (60, all_told.error) and state["bets"] == at_once["bets"]
    assert LabelWatch.from_json(json.loads(json.dumps(watch.to_json()))) == watch
    assert LabelWatch.from_json({"alarmed": True, "other": 1}) == LabelWatch(alarmed=True)


def test_nothing_counted_says_nothing() -> None:
    state, watch = bets.count(None, [Block([], 0.0, 0)], 0.2)
    assert (watch.alarmed, watch.rows, watch.error) == (False, 0, None)
    assert watch.wealth == pytest.approx(1.0) and "no labels" in watch.told()
    again, _ = bets.count(state, [], 0.2)
    assert again == state


def test_losses_below_zero_never_ruin_a_bet() -> None:
    lucky = Block([-0.8] * 3000, -0.8, 0)
    state, watch = bets.count(None, [lucky] * 5, 0.1)
    assert 0 < watch.wealth < 0.5
    json.dumps(state, allow_nan=False)


def test_the_limit_allows_for_a_finite_holdout() -> None:
    assert bets.limit(0.9, 0) == pytest.approx(0.15)
    assert bets.limit(0.9, 1000) == pytest.approx(0.15)  # the tolerance is more than luck could do
    assert 0.18 < bets.limit(0.9, 50) < 0.2
    assert bets.limit(1.0, 20) > 0.1
    assert bets.limit(0.0, 10) == bets.MOST
