"""The gate: numbers against brute force, rules case by case, and what must hold for any answers."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from keeperd import config, gate
from keeperd.gate import paired
from keeperd.gate.trials import Answers, Trial
from keeperd.gate.verdict import Check, Verdict

CLASSES = ("a", "b", "c")
POLICY = config.Gate()
LOW = config.Gate(min_old=10, min_new=10, min_slice=5)
"""For small sets."""


def answers(labels: Sequence[str], predicted: Sequence[str], classes: tuple[str, ...] = CLASSES) -> Answers:
    """A model that says `predicted`, with the same confidence everywhere."""
    logits = np.array(
        [[4.0 if name == said else 0.0 for name in classes] for said in predicted], dtype=np.float32
    )
    scores = np.array([float(label == said) for label, said in zip(labels, predicted, strict=True)])
    accuracy = {"accuracy": float(scores.mean())} if len(scores) else {}
    return Answers(logits.reshape(-1, len(classes)), scores, accuracy)


def said(labels: Sequence[str], right: Sequence[bool]) -> list[str]:
    """The label where it is to be right, else the next class."""
    wrong = {"a": "b", "b": "c", "c": "a"}
    return [label if ok else wrong.get(label, "a") for label, ok in zip(labels, right, strict=True)]


def trial(
    name: str, both: int, lost: int, won: int, neither: int, *, sources: Sequence[str | None] | None = None
) -> Trial:
    """A test set with so many rows right with both models, lost, won, and right with neither."""
    before = [True] * (both + lost) + [False] * (won + neither)
    after = [True] * both + [False] * lost + [True] * won + [False] * neither
    labels = [CLASSES[i % 3] for i in range(len(before))]
    return Trial(
        name=name,
        labels=labels,
        sources=sources or [None] * len(labels),
        champion=answers(labels, said(labels, before)),
        candidate=answers(labels, said(labels, after)),
    )


BETTER = trial("new", 140, 5, 25, 30)
SAME = trial("holdout", 400, 15, 15, 70)


def judge(*trials: Trial, policy: config.Gate = POLICY) -> Verdict:
    return gate.judge(trials, CLASSES, CLASSES, policy, draws=50)


def check(verdict: Verdict, name: str) -> Check:
    (found,) = [one for one in verdict.checks if one.name == name]
    return found


# --- numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("against", range(7))
@pytest.mark.parametrize("favour", range(7))
def test_mcnemar_is_the_share_of_all_coin_sequences(against: int, favour: int) -> None:
    n = against + favour
    as_bad = sum(sum(coins) >= against for coins in itertools.product((0, 1), repeat=n))
    assert float(paired.mcnemar(against, favour)) == pytest.approx(as_bad / 2**n)


def test_holm_is_the_step_down_procedure() -> None:
    p_values = np.array([0.04, 0.01, 0.03, 0.5])
    assert paired.holm(p_values).tolist() == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert paired.holm(np.array([])).tolist() == []


def test_interval_covers_the_truth_nine_times_in_ten() -> None:
    """Exactly, by summing over all outcomes of 60 rows with 5 % lost and 10 % won."""
    n, lost, won = 60, 0.05, 0.10
    covered = total = 0.0
    for i, j in itertools.product(range(n + 1), repeat=2):
        if i + j <= n:
            ways = math.comb(n, i) * math.comb(n - i, j)
            chance = ways * lost**i * won**j * (1 - lost - won) ** (n - i - j)
            low, high = paired.Counts(n, 0, 0, i, j).interval
            covered += chance * (low <= won - lost <= high)
            total += chance
    assert total == pytest.approx(1.0)
    assert 0.88 <= covered <= 0.97


def test_rows_needed_give_the_promised_power() -> None:
    """Exact power of the one-sided test at the advised size, loss 5 points, 12 % differing."""
    n = paired.rows_needed(0.05, 0.12, 0.1)
    power = 0.0
    for differing in range(n + 1):
        chance = math.comb(n, differing) * 0.12**differing * 0.88 ** (n - differing)
        share = (0.12 + 0.05) / 2 / 0.12
        if chance > 1e-12:
            ks = np.arange(differing + 1)
            found = paired.mcnemar(ks, differing - ks) <= 0.1
            ways = np.array([math.comb(differing, k) * share**k * (1 - share) ** (differing - k) for k in ks])
            power += chance * float(ways[found].sum())
    assert 0.74 <= power <= 0.86
    assert paired.detectable(n, 0.12, 0.1) == pytest.approx(0.05, abs=0.005)
    assert paired.detectable(0, 0.12, 0.1) == 1.0


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=40))
def test_macro_f1_is_the_one_that_everybody_knows(rows: list[tuple[int, int, int]]) -> None:
    truth, before, after = np.array(rows).T
    was, now, low, high = paired.f1_difference(truth, before, after, draws=20, seed=1)
    for mine, predicted in ((was, before), (now, after)):
        known = f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
        assert mine == pytest.approx(float(known))
    assert low is not None and high is not None and -1 <= low <= high <= 1
    mixed = np.random.default_rng(0).permutation(len(rows))
    again = paired.f1_difference(truth[mixed], before[mixed], after[mixed], draws=20, seed=1)
    assert again == (was, now, low, high)


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False, True, False])
    by_hand = (4 * abs(0.75 - 0.95) + 2 * abs(0.5 - 0.55)) / 6
    assert paired.calibration_error(confidence, right) == pytest.approx(by_hand)
    assert paired.calibration_error(np.array([1.0]), np.array([True])) == 0.0


# --- rules ------------------------------------------------------------------------------------------


def test_a_better_candidate_passes_and_the_verdict_says_by_how_much() -> None:
    verdict = judge(SAME, BETTER)
    assert verdict.passed and not verdict.harmful
    assert check(verdict, "new").figure == pytest.approx(0.10)
    assert check(verdict, "holdout").limit == -0.01
    assert "82.5 % of 200 new rows, champion 72.5 %" in verdict.summary
    assert verdict.champion["sets"]["new"] == {"accuracy": 0.725, "rows": 200}
    assert verdict.candidate["rows"] == 700


def test_worse_on_old_rows_is_harmful() -> None:
    verdict = judge(trial("holdout", 400, 30, 10, 60), BETTER)
    assert not verdict.passed and verdict.harmful
    found = check(verdict, "holdout")
    assert found.figure == pytest.approx(-0.04) and not found.passed
    assert found.low is not None and found.high is not None and found.low < -0.04 < found.high
    assert "more than the 1.0 points" in verdict.summary


def test_a_small_loss_that_is_no_chance_is_refused_too() -> None:
    """Within the margin, but lost 12 times in 13."""
    verdict = judge(trial("holdout", 1900, 12, 1, 87), BETTER)
    found = check(verdict, "holdout")
    assert found.figure is not None and found.figure > -0.01
    assert not found.passed and "not by chance" in found.text and verdict.harmful


def test_exactly_the_margin_may_be_lost() -> None:
    assert check(judge(trial("golden", 900, 30, 20, 50), BETTER), "golden").passed
    assert not check(judge(trial("golden", 900, 31, 20, 49), BETTER), "golden").passed


def test_golden_and_holdout_are_judged_each_on_its_own() -> None:
    verdict = judge(trial("golden", 400, 30, 10, 60), trial("holdout", 400, 5, 40, 55), BETTER)
    assert not check(verdict, "golden").passed and check(verdict, "holdout").passed
    assert verdict.harmful
    verdict = judge(trial("golden", 400, 5, 40, 55), trial("holdout", 400, 30, 10, 60), BETTER)
    assert not verdict.passed


def test_a_tie_is_rejected_but_not_harmful() -> None:
    verdict = judge(SAME, trial("new", 150, 0, 0, 50))
    assert not verdict.passed and not verdict.harmful
    assert check(verdict, "new").figure == 0.0 and check(verdict, "new").p_value == 1.0
    assert "not better; a gain of about" in verdict.summary


def test_an_unproven_gain_names_the_rows_that_would_decide() -> None:
    found = check(judge(SAME, trial("new", 140, 10, 14, 36)), "new")
    assert not found.passed
    assert "not proven better" in found.text
    needed = int(found.text.split("about ")[1].split()[0])
    assert needed == paired.rows_needed(0.02, paired.Counts(200, 150, 154, 10, 14).disagreement, 0.1) > 200


def test_too_few_rows_are_rejected_with_what_would_do() -> None:
    verdict = judge(trial("holdout", 20, 1, 1, 8), trial("new", 5, 0, 6, 1))
    assert not verdict.passed and not verdict.harmful
    old, new = check(verdict, "holdout"), check(verdict, "new")
    assert (old.rows, old.figure, new.rows, new.figure) == (30, None, 12, None)
    assert "50 are the least: a loss of less than about 15 points would not show; about 215 rows" in old.text
    assert "20 are the least: a gain of less than" in new.text
    assert judge(BETTER).summary.startswith("Rejected: Only 0 labelled holdout rows")
    assert "Only 0 labelled new rows" in check(judge(SAME), "new").text
    assert "Only 0 labelled holdout rows" in judge().summary


def test_a_small_holdout_beside_enough_golden_rows_is_shown_only() -> None:
    verdict = judge(trial("golden", 400, 10, 10, 80), trial("holdout", 10, 3, 0, 2), BETTER)
    assert verdict.passed and not check(verdict, "holdout").judged
    verdict = judge(trial("golden", 20, 0, 0, 5), SAME, BETTER)
    assert not verdict.passed and "Only 25 labelled golden rows" in verdict.summary


def test_flips_beyond_the_limit_are_harmful_though_accuracy_stays() -> None:
    verdict = judge(trial("holdout", 600, 110, 110, 180), BETTER)
    assert check(verdict, "holdout").passed
    flips = check(verdict, "flips")
    assert not flips.passed and flips.figure == pytest.approx(0.11) and verdict.harmful
    assert check(verdict, "gains").figure == pytest.approx(0.11) and not check(verdict, "gains").judged


def one_label_lost(rows: int, lost: int) -> Trial:
    """Label "c" has so many rows, some of them lost, made up for on the other labels."""
    labels = ["c"] * rows + ["a", "b"] * 200
    before = [True] * rows + [False] * lost + [True] * (400 - lost)
    after = [False] * lost + [True] * (rows - lost) + [True] * 400
    return Trial(
        "holdout",
        labels,
        [None] * len(labels),
        answers(labels, said(labels, after)),
        answers(labels, said(labels, before)),
    )


def test_a_label_that_is_lost_rejects_though_the_whole_is_level() -> None:
    verdict = judge(one_label_lost(40, 20), BETTER)
    assert check(verdict, "holdout").passed
    found = check(verdict, "label: c")
    assert not found.passed and verdict.harmful
    # 40 old rows and 66 new ones, of which 1 is lost and 8 are won.
    assert (found.rows, found.limit) == (106, -0.1)


def test_slices_judge_only_what_is_proven() -> None:
    """Five of twenty rows lost is beyond the margin, and with Holm's correction still chance."""
    tame = trial("new", 145, 0, 20, 35)
    labels = ["x"] * len(tame.labels)
    elsewhere = Trial(
        "new",
        labels,
        tame.sources,
        replace(tame.candidate, metrics={"accuracy": 1.0}),
        replace(tame.champion, metrics={"accuracy": 1.0}) if tame.champion else None,
    )
    policy = POLICY.model_copy(update={"alpha": 0.05})
    found = check(judge(one_label_lost(20, 4), elsewhere, policy=policy), "label: c")
    assert found.figure == pytest.approx(-0.2) and found.passed
    assert found.p_value is not None and found.p_value > 0.05
    found = check(judge(one_label_lost(20, 6), elsewhere, policy=policy), "label: c")
    assert not found.passed


def test_small_slices_are_shown_not_judged_and_missing_ones_do_not_matter() -> None:
    verdict = judge(
        one_label_lost(6, 6), trial("new", 12, 0, 8, 0), policy=config.Gate(min_new=20, min_slice=20)
    )
    found = check(verdict, "label: c")
    assert found.passed and not found.judged and "too few rows" in found.text
    labels = ["a", "b"] * 100
    no_c = Trial("holdout", labels, [None] * 200, answers(labels, labels), answers(labels, labels))
    only = Trial(
        "new", labels, [None] * 200, answers(labels, labels), answers(labels, ["c"] * 40 + labels[40:])
    )
    verdict = judge(no_c, only)
    assert verdict.passed
    assert "label: c" not in {one.name for one in verdict.checks}


def test_a_source_that_is_lost_rejects() -> None:
    sources = ["mail"] * 250 + ["web"] * 250
    old = trial("holdout", 0, 45, 45, 410, sources=sources)
    # Rows 0..44 are lost and 45..89 won, all of "mail"; put the won rows into "web".
    moved = replace(old, sources=["mail"] * 45 + ["web"] * 45 + ["mail"] * 205 + ["web"] * 205)
    verdict = judge(moved, BETTER)
    assert not check(verdict, "source: mail").passed and check(verdict, "source: web").passed
    assert all(not one.name.startswith("source: ") for one in judge(SAME, BETTER).checks)


def test_many_small_slices_are_cut_short() -> None:
    labels = [f"l{i:03}" for i in range(200)]
    names = tuple(labels)
    same = answers(labels, labels, names)
    verdict = gate.judge([Trial("holdout", labels, [None] * 200, same, same)], names, names, POLICY)
    assert sum(one.name.startswith("label: ") for one in verdict.checks) == gate.MOST_SHOWN


def test_a_new_label_counts_as_gain_and_is_no_slice() -> None:
    labels = ["a", "b", "d", "d"] * 25
    candidate = answers(labels, labels, (*CLASSES, "d"))
    champion = answers(labels, ["a", "b", "c", "c"] * 25)
    old = replace(SAME, candidate=answers(SAME.labels, list(SAME.labels), (*CLASSES, "d")))
    new = Trial("new", labels, [None] * 100, candidate, champion)
    verdict = gate.judge([old, new], CLASSES, (*CLASSES, "d"), POLICY)
    assert verdict.passed
    assert check(verdict, "new").figure == pytest.approx(0.5)
    assert "label: d" not in {one.name for one in verdict.checks}


def test_forgetting_names_the_label_that_lost_most() -> None:
    found = check(judge(one_label_lost(40, 20), BETTER), "forgetting")
    assert "most on 'c' (50.0 points)" in found.text and not found.judged


# --- answers that cannot be judged ------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("who", ["champion", "candidate"])
def test_one_logit_that_is_not_finite_rejects(value: float, who: str) -> None:
    side = getattr(BETTER, who)
    logits = side.logits.copy()
    logits[7, 1] = value
    verdict = judge(SAME, replace(BETTER, **{who: replace(side, logits=logits)}))
    assert not verdict.passed and not verdict.harmful
    reason = "1 of 200 rows have a logit that is NaN or infinite"
    assert verdict.summary == f"Rejected: the {who}'s answers on the new rows are unusable: {reason}."
    assert [one.name for one in verdict.checks] == ["answers"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"logits": np.zeros((199, 3))}, "logits of shape (199, 3) instead of (200, 3)"),
        ({"logits": np.zeros((200, 2))}, "logits of shape (200, 2) instead of (200, 3)"),
        ({"scores": np.full(200, math.nan)}, "scores are missing or not within 0 and 1"),
        ({"scores": np.ones(3)}, "scores are missing or not within 0 and 1"),
        ({"metrics": {}}, "metrics are missing"),
        ({"metrics": {"accuracy": math.nan}}, "the metric 'accuracy' is not a finite number"),
    ],
)
def test_incomplete_answers_reject(change: dict[str, Any], reason: str) -> None:
    verdict = judge(SAME, replace(BETTER, candidate=replace(BETTER.candidate, **change)))
    assert not verdict.passed and reason in verdict.summary


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        (("b", "a", "c"), "in another order"),
        (("d", "a", "b", "c"), "in another order"),
        (("a", "b"), "does not know the champion's label 'c'"),
        (("a", "b", "c", "c"), "missing or not unique"),
        ((), "missing or not unique"),
    ],
)
def test_other_labels_than_the_champions_reject(classes: tuple[str, ...], reason: str) -> None:
    verdict = gate.judge([SAME, BETTER], CLASSES, classes, POLICY)
    assert not verdict.passed and reason in verdict.summary


def test_missing_champion_answers_reject() -> None:
    verdict = judge(SAME, replace(BETTER, champion=None))
    assert "the champion's answers on the new rows are missing" in verdict.summary


# --- version 1 ----------------------------------------------------------------------------------------


def first(right: int, rows: int, name: str = "new") -> Trial:
    labels = ["a" if i % 2 else "b" for i in range(rows)]
    said_so = said(labels, [i < right for i in range(rows)])
    return Trial(name, labels, [None] * rows, answers(labels, said_so), None)


def test_version_1_must_beat_the_most_frequent_label() -> None:
    verdict = gate.judge([first(55, 100)], None, CLASSES, POLICY)
    assert verdict.passed and verdict.champion == {} and "most frequent label" in verdict.summary
    assert check(verdict, "floor").figure == pytest.approx(0.05)
    verdict = gate.judge([first(54, 100)], None, CLASSES, POLICY)
    assert not verdict.passed and not verdict.harmful
    verdict = gate.judge([first(19, 19)], None, CLASSES, POLICY)
    assert not verdict.passed and "at least 20" in verdict.summary
    assert not gate.judge([], None, CLASSES, POLICY).passed


def test_version_1_answers_for_the_golden_set_too() -> None:
    verdict = gate.judge([first(90, 100), first(20, 100, "golden")], None, CLASSES, POLICY, golden_sha="f00")
    assert not verdict.passed and verdict.golden_sha == "f00"


# --- values -----------------------------------------------------------------------------------------


def test_a_verdict_survives_json() -> None:
    for verdict in (judge(SAME, BETTER), judge(), gate.judge([first(90, 100)], None, CLASSES, POLICY)):
        text = json.dumps(verdict.to_json(), allow_nan=False)
        assert Verdict.from_json(json.loads(text) | {"flipped": {}}) == verdict


def test_a_verdict_never_writes_nan() -> None:
    odd = Verdict(
        False, False, "x", (Check("new", False, "x", figure=math.nan, high=math.inf),), {"a": {"b": math.nan}}
    )
    value = odd.to_json()
    assert value["checks"][0]["figure"] is None and value["checks"][0]["high"] is None
    assert value["champion"] == {"a": {"b": None}}


def test_hostile_labels_stay_one_short_line() -> None:
    labels = ["x\r\nBcc: y" + "z" * 5000] * 100
    names = (labels[0], "b")
    same = answers(labels, labels, names)
    bad = answers(labels, ["b"] * 100, names)
    verdict = gate.judge([Trial("holdout", labels, [None] * 100, bad, same)], names, names, POLICY)
    for one in verdict.checks:
        assert one.text.isprintable() and len(one.text) < 400 and len(one.name) < 70


def test_importing_the_gate_is_light() -> None:
    heavy = {"numpy", "scipy", "pyarrow", "torch"}
    code = f"import sys, keeperd.gate, keeperd.probation; print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


# --- what holds for any answers ---------------------------------------------------------------------

ROWS = st.lists(st.tuples(st.sampled_from(CLASSES), st.booleans(), st.booleans()), min_size=12, max_size=60)


def from_rows(name: str, rows: list[tuple[str, bool, bool]]) -> Trial:
    labels = [label for label, _, _ in rows]
    return Trial(
        name,
        labels,
        ["even" if i % 2 else "odd" for i in range(len(rows))],
        answers(labels, said(labels, [after for _, _, after in rows])),
        answers(labels, said(labels, [before for _, before, _ in rows])),
    )


def swapped(rows: list[tuple[str, bool, bool]]) -> list[tuple[str, bool, bool]]:
    return [(label, after, before) for label, before, after in rows]


@settings(max_examples=40, deadline=None)
@given(ROWS, ROWS)
def test_swapping_the_models_turns_every_difference_round(
    old: list[tuple[str, bool, bool]], new: list[tuple[str, bool, bool]]
) -> None:
    one = judge(from_rows("holdout", old), from_rows("new", new), policy=LOW)
    other = judge(from_rows("holdout", swapped(old)), from_rows("new", swapped(new)), policy=LOW)
    names = ("holdout", "new", "label: a", "label: b", "label: c", "source: odd", "forgetting", "calibration")
    mine, theirs = ({found.name: found for found in v.checks if found.name in names} for v in (one, other))
    assert mine.keys() == theirs.keys()
    for name, found in mine.items():
        turned = theirs[name]
        assert found.figure == pytest.approx(-(turned.figure or 0.0), abs=1e-12)
        if found.low is not None and turned.high is not None:
            assert found.low == pytest.approx(-turned.high, abs=1e-12)
    assert check(one, "flips").figure == check(other, "gains").figure
    assert not (one.passed and other.passed)


@settings(max_examples=40, deadline=None)
@given(ROWS, ROWS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(
    old: list[tuple[str, bool, bool]], new: list[tuple[str, bool, bool]], random: Random
) -> None:
    def mixed(trial: Trial) -> Trial:
        order = list(range(len(trial.labels)))
        random.shuffle(order)

        def side(found: Answers | None) -> Answers:
            assert found is not None
            return Answers(found.logits[order], found.scores[order], found.metrics)

        pick = [trial.labels[i] for i in order], [trial.sources[i] for i in order]
        return Trial(trial.name, *pick, side(trial.candidate), side(trial.champion))

    sets = from_rows("holdout", old), from_rows("new", new)
    one, other = judge(*sets, policy=LOW).to_json(), judge(*map(mixed, sets), policy=LOW).to_json()
    assert [c | {"figure": None} for c in one["checks"]] == [c | {"figure": None} for c in other["checks"]]
    for mine, theirs in zip(one["checks"], other["checks"], strict=True):
        assert mine["figure"] == pytest.approx(theirs["figure"], abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(ROWS, ROWS, st.data())
def test_one_more_right_answer_never_hurts(
    old: list[tuple[str, bool, bool]], new: list[tuple[str, bool, bool]], data: st.DataObject
) -> None:
    rows = data.draw(st.sampled_from([old, new]))
    at = data.draw(st.integers(0, len(rows) - 1))
    before = judge(from_rows("holdout", old), from_rows("new", new), policy=LOW)
    rows[at] = (rows[at][0], rows[at][1], True)
    after = judge(from_rows("holdout", old), from_rows("new", new), policy=LOW)
    passed = {found.name for found in before.checks if found.passed}
    assert passed <= {found.name for found in after.checks if found.passed}
