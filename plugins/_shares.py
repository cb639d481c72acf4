"""Drift of what the champion answers, and of what the labels say: shares of classes, and confidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from keeperd.api import JSON, Signal
from keeperd_plugins import _permutation

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST = 10
"""Fewer labelled rows on either side are not compared."""
TOLD = 5


def confidence(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest softmax probability of each row, float32 (n,); 0 where a logit is not finite."""
    sound = np.asarray(np.isfinite(logits).all(axis=1))
    shifted = np.where(sound[:, None], logits - logits.max(axis=1, keepdims=True), 0.0)
    largest = 1.0 / np.exp(shifted.astype(np.float64)).sum(axis=1)
    return np.where(sound, largest, 0.0).astype(np.float32)


def answers(logits: NDArray[np.float32], classes: Sequence[str]) -> list[str]:
    """The class that each row is answered with."""
    return [classes[column] for column in np.nan_to_num(logits, nan=-np.inf).argmax(axis=1).tolist()]


@dataclass(frozen=True)
class Level:
    """How strict to be: level of the test, its permutations and seed, and the design effect with its
    degrees of freedom (0: rows are taken as independent)."""

    alpha: float
    permutations: int
    seed: int
    inflation: float = 1.0
    freedom: int = 0


def compare(
    name: str, before: Mapping[str, int], now: Sequence[str], level: Level, *, what: str
) -> Signal | None:
    """Shares of classes in two windows; None where there are too few rows.

    Args:
        before: class -> rows of the reference.
        now: class of each row of the window.
        what: what the classes are, for the summary: "labels", "answers".
    """
    counted = Counter(now)
    classes = sorted(before.keys() | counted.keys())
    old = np.array([before.get(one, 0) for one in classes], np.int64)
    new = np.array([counted[one] for one in classes], np.int64)
    if old.sum() < LEAST or new.sum() < LEAST:
        return None
    shares = _permutation.compare_shares(
        old, new, level.permutations, level.seed, level.inflation, level.freedom
    )
    drifted = shares.p <= level.alpha
    change = moved(before, now)
    return Signal(
        name=name,
        drifted=drifted,
        summary=f"The {what} are in other proportions: {change.told} (p = {shares.p:.2g})."
        if drifted
        else f"The {what} are in the usual proportions (p = {shares.p:.2g}).",
        p_value=shares.p,
        effect=shares.distance,
        effect_unit="total variation",
        baseline=shares.usual,
        facts=change.facts,
    )


@dataclass(frozen=True)
class Moved:
    """What moved between two windows: total variation distance 0..1, the largest changes in words, and
    facts {"shares": {class: {"current", "reference"}}, "rows"}."""

    distance: float
    told: str
    facts: Mapping[str, JSON]


def moved(before: Mapping[str, int], now: Sequence[str]) -> Moved:
    """Shares of classes before (class -> rows) and now (class of each row), at least one row each."""
    counted = Counter(now)
    old, new = sum(before.values()), len(now)
    shares = {
        one: (counted[one] / new, before.get(one, 0) / old) for one in sorted(before.keys() | counted.keys())
    }
    most = sorted(shares, key=lambda one: (-abs(shares[one][0] - shares[one][1]), one))[:TOLD]
    steps = {one: shares[one][0] - shares[one][1] for one in most}
    told = ", ".join(
        f"{one!r} {steps[one] * 100:+.0f} points" for one in most[:3] if abs(steps[one]) >= 0.005
    )
    facts = {one: {"current": shares[one][0], "reference": shares[one][1]} for one in most}
    distance = sum(abs(a - b) for a, b in shares.values()) / 2
    return Moved(distance, told, {"shares": facts, "rows": new})


def compare_confidence(before: NDArray[np.float32], now: NDArray[np.float32], level: Level) -> Signal:
    """Rank-sum test of the champion's confidence (Mann and Whitney 1947) with the design effect."""
    from scipy.stats import norm, t

    current = np.r_[np.zeros(len(before), bool), np.ones(len(now), bool)]
    effect = _permutation.auc(np.r_[before, now], current)
    variance = (len(before) + len(now) + 1) / (12 * len(before) * len(now)) * level.inflation
    z = abs(effect - 0.5) / np.sqrt(variance)
    p = 2 * float(t.sf(z, level.freedom) if level.freedom else norm.sf(z))
    means = f"{now.mean():.2f} on average, in the reference {before.mean():.2f} (p = {p:.2g})"
    drifted = p <= level.alpha
    word = "less" if effect < 0.5 else "more"
    return Signal(
        name="confidence",
        drifted=drifted,
        summary=f"The champion is {word} sure of its answers: {means}."
        if drifted
        else f"The champion is as sure of its answers as usual: {means}.",
        p_value=p,
        effect=float(now.mean()),
        effect_unit="confidence",
        baseline=float(before.mean()),
        facts={"auc": effect},
    )
