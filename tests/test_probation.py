"""Probation: the e-value against brute force, its promise under the null, and every decision."""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeperd import probation
from keeperd.api import BadInputError
from keeperd.config import Probation

START = datetime(2024, 3, 1, tzinfo=UTC)
POLICY = Probation()
PAIRS = st.text(alphabet="bcpn", max_size=200)


def run(pairs: str, policy: Probation = POLICY) -> probation.State:
    return probation.watch(probation.start(), pairs, policy)


def decide(
    pairs: str, policy: Probation = POLICY, after: timedelta = timedelta(hours=1)
) -> probation.Decision:
    return probation.decide(run(pairs, policy), policy, START, START + after)


def brute(pairs: str, tolerance: float) -> list[float]:
    """The e-value after each row, by plain products."""
    fortunes = [1.0] * len(probation.BETS)
    values = []
    for pair in pairs:
        x = {"p": 1, "c": -1}.get(pair, 0)
        fortunes = [
            fortune * (1 + bet / (1 + tolerance) * (x - tolerance))
            for fortune, bet in zip(fortunes, probation.BETS, strict=True)
        ]
        values.append(sum(fortunes) / len(fortunes))
    return values


@given(PAIRS, st.sampled_from([0.0, 0.01, 0.2, 1.0]))
def test_the_evidence_is_the_highest_mean_fortune(pairs: str, tolerance: float) -> None:
    policy = Probation(tolerance=tolerance)
    expected = max([1.0, *brute(pairs, tolerance)])
    assert decide(pairs, policy).evidence == pytest.approx(expected)


@pytest.mark.parametrize(("bad", "good"), [(0.10, 0.10), (0.105, 0.095), (0.0, 0.2), (0.01, 0.0)])
def test_the_evidence_does_not_grow_while_the_champion_is_good_enough(bad: float, good: float) -> None:
    """Exactly: the expectation over all streams of four rows is at most 1 at every length."""
    chances = {"p": bad, "c": good, "b": 1 - bad - good}
    expected = [0.0] * 4
    for stream in itertools.product(chances, repeat=4):
        chance = math.prod(chances[pair] for pair in stream)
        for at, value in enumerate(brute("".join(stream), 0.01)):
            expected[at] += chance * value
    assert all(value <= 1 + 1e-12 for value in expected)


@given(PAIRS, st.lists(st.integers(0, 200), max_size=5))
def test_cutting_the_stream_changes_nothing(pairs: str, cuts: list[int]) -> None:
    state = probation.start()
    edges = [0, *sorted(min(cut, len(pairs)) for cut in cuts), len(pairs)]
    for begin, end in itertools.pairwise(edges):
        state = probation.watch(state, pairs[begin:end], POLICY)
    assert state == run(pairs)


@given(PAIRS)
def test_the_end_does_not_depend_on_order_and_b_is_n(pairs: str) -> None:
    state, sorted_state = run(pairs), run("".join(sorted(pairs)))
    assert state["fortunes"] == pytest.approx(sorted_state["fortunes"], abs=1e-9)
    other = run(pairs.translate(str.maketrans("bn", "nb")))
    assert (other["fortunes"], other["peak"]) == (state["fortunes"], state["peak"])


@given(PAIRS, st.data())
def test_one_more_error_of_the_champion_never_weakens_the_evidence(pairs: str, data: st.DataObject) -> None:
    places = [i for i, pair in enumerate(pairs) if pair in "cb"]
    if places:
        at = data.draw(st.sampled_from(places))
        worse = pairs[:at] + {"c": "n", "b": "p"}[pairs[at]] + pairs[at + 1 :]
        assert decide(worse).evidence >= decide(pairs).evidence - 1e-12


def test_the_state_is_json_and_never_changed_in_place() -> None:
    state = run("bcpn" * 5)
    kept = copy.deepcopy(state)
    more = probation.watch(state, "ppp", POLICY)
    assert state == kept
    assert probation.watch(json.loads(json.dumps(state, allow_nan=False)), "ppp", POLICY) == more


def test_a_bad_champion_is_rolled_back_with_a_reason() -> None:
    decision = decide("b" * 80 + "p" * 25 + "b" * 10)
    assert decision.action == "roll back"
    assert decision.evidence >= decision.limit == 100
    assert (
        "of 115 labelled rows, 25 are right with the predecessor alone and 0 with the champion"
        in decision.why
    )
    assert decision.facts() == {
        "decision": "roll back",
        "rows": 115,
        "bad_for_champion": 25,
        "good_for_champion": 0,
        "evidence": decision.evidence,
        "limit": 100.0,
        "accuracy_champion": 90 / 115,
        "accuracy_predecessor": 1.0,
    }


def test_once_proven_stays_proven() -> None:
    assert decide("p" * 30 + "c" * 400).action == "roll back"


def test_a_rollback_goes_before_the_end_of_probation() -> None:
    assert decide("p" * 300, after=timedelta(days=30)).action == "roll back"


def test_overwhelming_evidence_stays_a_finite_number() -> None:
    decision = decide("p" * 5000)
    assert decision.action == "roll back"
    json.dumps(decision.facts(), allow_nan=False)


def test_it_keeps_after_the_rows_or_the_time() -> None:
    assert decide("b" * 299).action == "undecided"
    assert decide("b" * 299).why == "299 of 300 labelled rows seen."
    kept = decide("b" * 280 + "cp" * 10)
    assert kept.action == "keep"
    assert "not found worse" in kept.why and "a loss of less than about 6 points might not show" in kept.why
    assert decide("b" * 20, after=timedelta(days=7)).action == "keep"
    assert decide("b" * 20, after=timedelta(days=7) - timedelta(seconds=1)).action == "undecided"


def test_zero_rows_means_by_time_alone() -> None:
    policy = Probation(rows=0)
    assert decide("b" * 5000, policy).action == "undecided"
    assert "ends by time" in decide("b" * 5000, policy).why
    assert decide("b" * 5000, policy, timedelta(days=7)).action == "keep"


def test_time_over_without_labels_keeps_and_says_that_nothing_was_proven() -> None:
    decision = decide("", after=timedelta(days=8))
    assert decision.action == "keep" and "nothing was proven" in decision.why
    assert decision.accuracy_champion is None and decision.evidence == 1.0


def test_a_clock_that_went_back_only_waits() -> None:
    assert decide("b", after=-timedelta(hours=2)).action == "undecided"


def test_other_characters_are_refused() -> None:
    with pytest.raises(BadInputError, match="'x'"):
        run("bbx")


@pytest.mark.parametrize("policy", [Probation(tolerance=1.0), Probation(tolerance=0.0)])
def test_extreme_tolerances_stay_finite(policy: Probation) -> None:
    state = run("ccccpppp" * 50, policy)
    assert all(math.isfinite(value) for value in (*state["fortunes"], state["peak"]))
    assert decide("p" * 500, Probation(tolerance=1.0)).action == "keep"


def stream(rng: random.Random, rows: int, differing: float, loss: float) -> str:
    weights = [1 - differing, (differing - loss) / 2, (differing + loss) / 2]
    return "".join(rng.choices("bcp", weights, k=rows))


def test_good_versions_stay_and_bad_ones_go() -> None:
    """A small sample of what bench/gate.py measures at length."""
    rng, policy = random.Random(5), Probation(rows=0)
    equal = [decide(stream(rng, 600, 0.12, 0.0), policy).action for _ in range(100)]
    assert equal.count("roll back") <= 2
    bad = [decide(stream(rng, 600, 0.12, 0.10), policy).action for _ in range(100)]
    assert bad.count("roll back") >= 98
