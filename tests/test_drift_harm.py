"""Harm with and without labels, and labels that look wrong."""

from __future__ import annotations

import numpy as np
import pytest

from keeperd.api import Prediction
from keeperd.drift import Suspect, bets, harm, powered, suspect

CLASSES = ("a", "b", "c")


def between(before: float, before_rows: int, now: float, now_rows: int) -> tuple[float, float]:
    return powered.difference(powered.counted(before, before_rows), powered.counted(now, now_rows))


def test_intervals_are_those_of_the_papers() -> None:
    # Newcombe 1998, table II, row (a) 56/70 - 48/80 at 95 %: .0524 to .3339; here 90 % lies inside it.
    low, high = between(56 / 70, 70, 48 / 80, 80)
    assert 0.0524 < low < 0.2 < high < 0.3339
    assert powered.wilson(0, 10)[0] == pytest.approx(0.0, abs=1e-12)
    assert powered.wilson(10, 10)[1] == pytest.approx(1.0)
    exact = between(0.8, 0, 0.6, 80)
    assert exact[1] - exact[0] < high - low


def test_the_interval_of_counts_covers() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        before, now = rng.binomial(300, 0.9) / 300, rng.binomial(60, 0.8) / 60
        low, high = between(before, 300, now, 60)
        covered += low <= 0.1 <= high
    assert 0.85 <= covered / 400 <= 0.96


def test_measured_harm() -> None:
    fell = harm.of_labels(powered.counted(0.6, 100), 100, powered.counted(0.9, 1000))
    assert fell.how == "labels" and not fell.abstained and fell.rows == 100
    assert fell.accuracy == 0.6 and fell.estimate == pytest.approx(0.3)
    assert fell.low is not None and fell.high is not None and 0.2 < fell.low < 0.3 < fell.high
    assert fell.p_value is not None and fell.p_value < 0.001
    same = harm.of_labels(powered.counted(0.9, 100), 100, powered.counted(0.9, 1000))
    assert same.low is not None and same.low < 0 < (same.high or 0)
    assert same.p_value == pytest.approx(0.5, abs=0.05)


# --- a few labels, and confidence in all rows -------------------------------------------------------


@pytest.mark.parametrize("told", ["truth", "nothing", "the opposite", "too much"])
@pytest.mark.parametrize(("labels", "share"), [(10, 0.6), (50, 0.97), (50, 0.8), (50, 0.3)])
def test_intervals_cover_whatever_confidence_is_worth(told: str, labels: int, share: float) -> None:
    rng = np.random.default_rng(labels)
    covered, errors, plain = 0, [], []
    for _ in range(300):
        chance = rng.beta(share, 1 - share, 400)
        right = rng.random(400) < chance
        sure = {
            "truth": chance,
            "nothing": rng.permutation(chance),
            "the opposite": 1 - chance,
            "too much": 0.5 + chance / 2,
        }[told]
        some = rng.choice(400, labels, replace=False)
        found = powered.accuracy(right[some], sure[some], sure)
        covered += found.low <= share <= found.high
        errors.append(abs(found.share - right.mean()))
        plain.append(abs(right[some].mean() - right.mean()))
    assert covered / 300 >= 0.85
    assert np.mean(errors) < np.mean(plain) * (0.9 if told in {"truth", "too much"} else 1.15)


def test_labelled_rows_that_are_all_right_or_all_wrong_are_no_certainty() -> None:
    sure = np.linspace(0.5, 1.0, 400)
    for right in (True, False):
        found = powered.accuracy(np.full(50, right), sure[::8], sure)
        low, high = powered.wilson(50 * right, 50)
        assert found.share == float(right) and found.high - found.low >= high - low
    few = powered.accuracy(np.full(10, True), sure[::40], sure)
    assert few.low < 0.8


def test_a_window_that_is_labelled_throughout_gives_the_plain_share() -> None:
    rng = np.random.default_rng(1)
    right, sure = rng.random(80) < 0.7, rng.random(80)
    found = powered.accuracy(right, sure, sure)
    assert found.share == pytest.approx(right.mean()) and found.rows == pytest.approx(80)


def test_confidence_is_calibrated_on_the_holdout() -> None:
    rng = np.random.default_rng(2)
    logits = np.zeros((3000, 3), np.float32)
    logits[:, 0] = rng.uniform(0, 4, 3000)
    odds = powered.log_odds(logits)
    right = rng.random(3000) < 1 / (1 + np.exp(-(0.5 * odds - 0.5)))
    add, multiply = powered.calibrate(logits, right)
    assert add == pytest.approx(-0.5, abs=0.2) and multiply == pytest.approx(0.5, abs=0.1)
    assert powered.confidence(logits, (add, multiply)).mean() == pytest.approx(right.mean(), abs=0.01)
    assert powered.calibrate(logits[:19], right[:19]) == (0.0, 1.0)
    for rows in (logits, logits * 100):
        sure = powered.confidence(rows, powered.calibrate(rows, np.ones(3000, bool)))
        assert np.isfinite(sure).all() and sure.min() > 0.5
    broken = np.array([[np.nan, np.inf, 0], [np.nan] * 3, [5, 5, 5], [-np.inf, 0, 0]], np.float32)
    assert np.isfinite(powered.log_odds(broken)).all()
    assert powered.log_odds(np.zeros((2, 1), np.float32)).tolist() == [powered.SUREST] * 2


def answers(rows: int, sure: float, seed: int = 0, *, where: float = 0.0) -> Prediction:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, 3)) * 0.5
    logits[np.arange(rows), rng.integers(0, 3, rows)] += sure * rng.random(rows) * 2
    vectors = rng.normal(size=(rows, 8))
    vectors[:, 0] += 6 + where
    return Prediction(logits.astype(np.float32), vectors.astype(np.float32))


def test_without_labels_a_less_sure_champion_is_guessed_to_be_worse() -> None:
    right = np.arange(400) % 10 != 0
    usual = harm.estimated(answers(300, 3, 1), answers(400, 3), right, 0.9)
    unsure = harm.estimated(answers(300, 1, 2), answers(400, 3), right, 0.9)
    assert usual.how == unsure.how == "estimate"
    assert usual.accuracy == pytest.approx(0.9, abs=0.06)
    assert unsure.accuracy is not None and unsure.accuracy < 0.82
    for one in (usual, unsure):
        assert one.low is not None and one.high is not None and one.estimate is not None
        assert one.low < one.estimate < one.high and one.high - one.low > 0.15
        assert one.p_value is None and "only labels can tell" in one.why


def test_guesses_are_given_up() -> None:
    right = np.ones(400, bool)
    few = harm.estimated(answers(99, 3, 1), answers(400, 3), right, 0.9)
    untested = harm.estimated(answers(300, 3, 1), answers(299, 3), right[:299], 0.9)
    vectors = answers(300, 3, 1)
    turned = Prediction(vectors.logits, np.roll(vectors.embeddings, 3, axis=1))
    novel = harm.estimated(turned, answers(400, 3), right, 0.9)
    for one, why in ((few, "99 rows"), (untested, "299 held-out rows"), (novel, "unlike anything")):
        assert one.abstained and one.how == "unknown" and one.estimate is None and why in one.why


# --- a window and the stream ------------------------------------------------------------------------


def stream(rows: int, share: float, seed: int) -> tuple[Prediction, np.ndarray]:
    """Answers of which about this share are right; the sure ones more often."""
    rng = np.random.default_rng(seed)
    right = rng.random(rows) < share
    logits = np.zeros((rows, 3), np.float32)
    logits[:, 0] = np.where(right, rng.uniform(1, 5, rows), rng.uniform(0, 3, rows))
    return Prediction(logits, rng.normal(size=(rows, 8)).astype(np.float32)), right


def columns(answers: Prediction) -> tuple[np.ndarray, np.ndarray]:
    return answers.logits, answers.embeddings


def accepted(share: float = 0.9, rows: int = 1000) -> harm.Accepted:
    return harm.Accepted(*stream(rows, share, 99), accuracy=share, rows=rows)


def test_fifty_labels_measure_and_nine_do_not() -> None:
    answers, right = stream(400, 0.7, 1)
    found = harm.loss(harm.Asked(answers, np.arange(400) < 50, right), accepted())
    assert found.how == "labels" and found.rows == 50 and not found.abstained
    assert found.low is not None and found.high is not None and found.low < 0.2 < found.high
    assert found.accuracy == pytest.approx(right.mean(), abs=0.1) and found.accepted == 0.9
    assert found.p_value is not None and found.p_value < 0.01 and "picked" in found.why
    plain = harm.of_labels(powered.counted(right[:50].mean(), 50), 50, powered.counted(0.9, 1000))
    assert plain.low is not None and plain.high is not None
    assert found.high - found.low < plain.high - plain.low
    guessed = harm.loss(harm.Asked(answers, np.arange(400) < 9, right), accepted())
    assert guessed.how in {"estimate", "unknown"}


def test_rows_that_are_there_for_their_label_only_do_not_stand_for_the_window() -> None:
    sure, fine = stream(300, 1.0, 2)
    unsure, wrong = stream(300, 0.0, 3)
    both = Prediction(
        np.vstack([sure.logits, unsure.logits]), np.vstack([sure.embeddings, unsure.embeddings])
    )
    right, labelled = np.append(fine, wrong), np.arange(600) % 6 == 0
    newest = np.arange(600) < 300
    half = harm.loss(harm.Asked(both, labelled, right), accepted()).accuracy
    only = harm.loss(harm.Asked(both, labelled, right, sampled=newest), accepted()).accuracy
    assert half == pytest.approx(0.5, abs=0.02) and only is not None and only > 0.6


def test_without_anything_to_compare_with_nothing_is_said() -> None:
    answers, right = stream(50, 0.7, 4)
    nothing = harm.Accepted(Prediction(answers.logits[:0], answers.embeddings[:0]), right[:0])
    found, state, watch = harm.judge(harm.Asked(answers, right | True, right), nothing, {"kept": 1})
    assert found.abstained and "not known" in found.why and state == {"kept": 1}
    assert watch == bets.LabelWatch()
    of_holdout = harm.Accepted(*stream(200, 0.9, 5))
    assert harm.loss(harm.Asked(answers, right | True, right), of_holdout).accepted == of_holdout.right.mean()


def days(share: float, number: int, seed: int) -> harm.Asked:
    """Days of 240 rows, ten of them labelled."""
    answers, right = stream(240 * number, share, seed)
    rows = np.arange(240 * number)
    return harm.Asked(answers, rows % 240 < 10, right, batch=rows // 240)


def test_a_trickle_of_labels_ends_in_an_alarm_only_where_it_hurts() -> None:
    for share, hurts in ((0.9, False), (0.7, True)):
        state, seen = None, []
        for number in range(20):
            found, state, watch = harm.judge(days(share, 1, number), accepted(), state, at=f"day {number}")
            seen.append(watch)
            assert found.rows == 10
        assert seen[-1].alarmed == hurts and not seen[0].alarmed
        assert seen[-1].rows == 200 and seen[-1].since == "day 0"
        assert seen[-1].error == pytest.approx(1 - share, abs=0.07)


def test_rows_count_once() -> None:
    window = days(0.7, 20, 1)
    _, state, watch = harm.judge(window, accepted())
    assert watch.alarmed and watch.rows == 200
    stale = harm.Asked(window.answers, window.labelled, window.right, fresh=window.labelled & False)
    assert harm.judge(stale, accepted(), state)[1:] == (state, watch)


def test_confidence_makes_the_bets_less_noisy_but_not_wrong() -> None:
    window = days(0.8, 200, 2)
    blocks = harm.blocks(window, accepted())
    losses = np.concatenate([block.losses for block in blocks])
    assert losses.mean() == pytest.approx(1 - window.right.mean(), abs=0.02)
    assert losses.std() < 0.9 * (~window.right[window.labelled]).std()
    assert all(min(block.losses) >= block.least for block in blocks)
    crowded = harm.Asked(window.answers, window.labelled | (np.arange(48000) % 3 == 0), window.right)
    assert set(harm.blocks(crowded, accepted())[0].losses) == {0.0, 1.0}


def test_picking_hard_rows_to_label_is_no_loss() -> None:
    alarms = 0
    for seed in range(20):
        window = days(0.9, 30, seed)
        doubt = 1 - harm.confidence(window.answers, accepted())
        hard = np.zeros(len(doubt), bool)
        for number in range(30):
            start = 240 * number
            hard[start + np.argsort(-doubt[start : start + 120])[:10]] = True
        picked = harm.Asked(window.answers, hard, window.right, batch=window.batch)
        alarms += harm.judge(picked, accepted())[2].alarmed
    assert alarms <= 1


def test_novel_share() -> None:
    usual, other = answers(400, 3).embeddings, answers(200, 3, 1).embeddings
    assert harm.novel_share(other, usual) < 0.05
    half = np.vstack([other[:100], np.roll(other[100:], 3, axis=1)])
    assert 0.4 < harm.novel_share(half, usual) < 0.6
    assert harm.familiar(half, usual[:3]).all()


# --- suspect labels ---------------------------------------------------------------------------------


def batch(rows: int, confidence: float, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Logits of this confidence, and labels that bear it out."""
    rng = np.random.default_rng(seed)
    logits = np.zeros((rows, 3), np.float32)
    answer = rng.integers(0, 3, rows)
    logits[np.arange(rows), answer] = np.log(2 * confidence / (1 - confidence))
    wrong = rng.random(rows) > confidence
    truth = np.where(wrong, (answer + rng.integers(1, 3, rows)) % 3, answer)
    return logits, [CLASSES[one] for one in truth]


def judge(
    logits: np.ndarray, labels: list[str], threshold: float = 0.2, texts: tuple[str, ...] = ()
) -> Suspect:
    return suspect.judge(labels, logits, CLASSES, suspect.Calibration(), threshold, texts)


@pytest.mark.parametrize("confidence", [0.95, 0.64, 0.45])
def test_honest_labels_are_not_suspect_however_hard_the_rows(confidence: float) -> None:
    for seed in range(20):
        found = judge(*batch(100, confidence, seed))
        assert not found.suspect, found.why
        assert found.expected == pytest.approx(1 - confidence, abs=0.02)


def flipped(labels: list[str], share: float) -> list[str]:
    cut = round(share * len(labels))
    return [CLASSES[(CLASSES.index(one) + 1) % 3] for one in labels[:cut]] + labels[cut:]


def test_poison_is_found() -> None:
    logits, labels = batch(300, 0.8)
    forty = judge(logits, flipped(labels, 0.4))
    assert forty.suspect and "80% was to be expected" in forty.why
    assert not judge(logits, flipped(labels, 0.1)).suspect
    one_class = judge(logits, ["a"] * 300)
    assert one_class.suspect
    targeted = ["b" if one == "a" else one for one in labels]
    assert judge(logits, targeted).suspect
    assert not judge(logits, flipped(labels, 0.4), threshold=1.0).suspect


def test_an_honest_batch_of_one_class_is_not_suspect() -> None:
    logits, labels = batch(2000, 0.8)
    only = [row for row, label in enumerate(labels) if label == "a"]
    assert not judge(logits[only], [labels[row] for row in only]).suspect


def test_new_classes_and_few_rows_are_no_poison() -> None:
    logits, labels = batch(300, 0.8)
    assert not judge(logits, ["new"] * 150 + labels[150:]).suspect
    assert not judge(logits[:19], ["a"] * 19).suspect


def test_a_flood_of_one_text_is_suspect() -> None:
    logits, labels = batch(100, 0.9)
    assert judge(logits, labels, texts=("Buy now", "buy  NOW") * 50).suspect
    assert not judge(logits, labels, texts=tuple(f"text {i}" for i in range(100))).suspect


def test_an_overconfident_champion_is_discounted() -> None:
    logits, labels = batch(600, 0.7)
    columns = [CLASSES.index(label) for label in labels]
    boasting = logits * 4
    calibration = suspect.calibrate(boasting, columns)
    assert calibration.temperature == pytest.approx(4.0, rel=0.2)
    assert judge(boasting, labels).suspect
    assert not suspect.judge(labels, boasting, CLASSES, calibration, 0.2).suspect
    assert suspect.calibrate(boasting[:5], columns[:5]) == suspect.Calibration()
    assert suspect.calibrate(boasting, [None] * 600) == suspect.Calibration()
