"""Harm with and without labels, and labels that look wrong."""

from __future__ import annotations

import numpy as np
import pytest

from keeperd.api import Prediction
from keeperd.drift import Suspect, harm, suspect

CLASSES = ("a", "b", "c")


def test_intervals_are_those_of_the_papers() -> None:
    # Newcombe 1998, table II, row (a) 56/70 - 48/80 at 95 %: .0524 to .3339; here 90 % lies inside it.
    low, high = harm.difference(56 / 70, 70, 48 / 80, 80)
    assert 0.0524 < low < 0.2 < high < 0.3339
    assert harm.wilson(0, 10)[0] == pytest.approx(0.0, abs=1e-12)
    assert harm.wilson(10, 10)[1] == pytest.approx(1.0)
    exact = harm.difference(0.8, 0, 0.6, 80)
    assert exact[1] - exact[0] < high - low


def test_the_interval_covers() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        before, now = rng.binomial(300, 0.9) / 300, rng.binomial(60, 0.8) / 60
        low, high = harm.difference(before, 300, now, 60)
        covered += low <= 0.1 <= high
    assert 0.85 <= covered / 400 <= 0.96


def test_measured_harm() -> None:
    fell = harm.measured(60, 100, 0.9, 1000)
    assert fell.how == "labels" and not fell.abstained and fell.rows == 100
    assert fell.accuracy == 0.6 and fell.estimate == pytest.approx(0.3)
    assert fell.low is not None and fell.high is not None and 0.2 < fell.low < 0.3 < fell.high
    assert fell.p_value is not None and fell.p_value < 0.001
    same = harm.measured(90, 100, 0.9, 1000)
    assert same.low is not None and same.low < 0 < (same.high or 0)
    assert same.p_value == pytest.approx(0.5, abs=0.05)


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
