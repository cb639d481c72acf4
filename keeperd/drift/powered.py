"""Accuracy from a few labelled rows and the champion's own confidence in all of them.

Prediction-powered inference (Angelopoulos et al. 2023, Science 382), with power tuning (Angelopoulos,
Duchi and Zrnic 2023, "PPI++"), which for a random sample of a window is the regression estimator of
survey statistics (Cochran 1977, "Sampling techniques", chapter 7). Confidence says which rows are hard,
labels say how far it can be believed: wrong confidence makes the interval wider, never the answer wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

LEVEL = 0.9
"""Of the two-sided intervals."""
LEAST_CALIBRATED = 20
"""Fewer held-out rows, and confidence is taken as it is."""
SUREST = 20.0
"""Largest log-odds; beyond it all answers are as sure as each other."""


@dataclass(frozen=True)
class Accuracy:
    """Share of rows that are right, 0..1, with the ends of its interval; `rows`: how many labelled rows
    would tell as much without any confidence."""

    share: float
    low: float
    high: float
    rows: float


def wilson(right: float, rows: float, wide: float | None = None) -> tuple[float, float]:
    """Interval of a share, right out of rows (Wilson 1927); `wide`: standard errors to each side."""
    z = wide or NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle = (right + z * z / 2) / (rows + z * z)
    half = z / (rows + z * z) * math.sqrt(max(right * (rows - right), 0.0) / rows + z * z / 4)
    return middle - half, middle + half


def accuracy(right: Bools, confidence: Doubles, everywhere: Doubles) -> Accuracy:
    """Accuracy on the stream that a window came from.

    The estimate is the mean of `weight * confidence` over all rows plus that of `right - weight *
    confidence` over the labelled ones; the weight, 0 to 1, is the one with the least variance. For
    variances a right and a wrong row of middling confidence are added: what looks like perfect knowledge
    in a few rows is luck, and where all rows are right, or all wrong, the confidence counts for nothing.
    The interval is Wilson's for so many independent rows as have this variance, with Student's t.

    Where all rows of the window are labelled it is the plain interval of their share. The window's own
    luck is part of it: the question is about rows to come.

    Args:
        right: (n,) of a random sample of the window, two rows or more.
        confidence: (n,) of the same rows, 0..1, as `calibrate` and `confidence` give it.
        everywhere: (m,) of all rows of the window, those in the sample too.
    """
    import numpy as np
    from scipy.special import stdtrit

    rows, window = len(right), max(len(everywhere), len(right))
    middle = float(confidence.mean())
    truth, sure = np.append(right, (1.0, 0.0)), np.append(confidence, (middle, middle))
    truth, sure = truth - truth.mean(), sure - middle
    weight = min(max(float(truth @ sure) / max(float(sure @ sure), 1e-12), 0.0), 1.0)
    rest = truth - weight * sure
    plain, left = float(truth @ truth) / (rows + 1), float(rest @ rest) / rows
    variance = left * (1 / rows - 1 / window) + plain / window
    worth = max(plain / variance, 1.0)
    share = float(np.mean(right)) + weight * (float(everywhere.mean()) - middle)
    share = min(max(share, 0.0), 1.0)
    wide = float(stdtrit(rows - 1, (1 + LEVEL) / 2))
    return Accuracy(share, *wilson(share * worth, worth, wide), worth)


def difference(before: Accuracy, now: Accuracy) -> tuple[float, float]:
    """Interval of before - now, from the intervals of both (Newcombe 1998, method 10; Zou and Donner 2008
    for intervals of any kind)."""
    step = before.share - now.share
    return (
        step - math.hypot(before.share - before.low, now.high - now.share),
        step + math.hypot(before.high - before.share, now.share - now.low),
    )


def counted(share: float, rows: float) -> Accuracy:
    """A share of so many independent rows; without rows it is exact."""
    low, high = wilson(share * rows, rows) if rows else (share, share)
    return Accuracy(share, low, high, rows)


def p_worse(before: Accuracy, now: Accuracy) -> float:
    """One-sided p-value of "accuracy has not fallen", by the normal approximation."""
    share = (before.share * before.rows + now.share * now.rows + 1) / (before.rows + now.rows + 2)
    variance = share * (1 - share) * (1 / now.rows + (1 / before.rows if before.rows else 0.0))
    return 1 - NormalDist().cdf((before.share - now.share) / math.sqrt(variance))


def log_odds(logits: Floats) -> Doubles:
    """Of each row's answer against all others, (n,), at most `SUREST`."""
    import numpy as np

    known = np.nan_to_num(logits.astype(np.float64), nan=0.0, posinf=1e9, neginf=-1e9)
    known -= known.max(axis=1, keepdims=True)
    others = np.exp(known)
    np.put_along_axis(others, known.argmax(axis=1)[:, None], 0.0, axis=1)
    return np.asarray(-np.log(np.maximum(others.sum(axis=1), np.exp(-SUREST))))


def calibrate(logits: Floats, right: Bools) -> tuple[float, float]:
    """What the log-odds of an answer are worth: a logistic regression of being right on them (Platt 1999),
    drawn a little to (0, 1), which takes them as they are.

    Args:
        logits: (n, classes) of held-out rows.
        right: (n,).

    Returns:
        what to add to, and by what to multiply, the log-odds.
    """
    import numpy as np

    fit = np.array([0.0, 1.0])
    if len(right) < LEAST_CALIBRATED:
        return 0.0, 1.0
    rows = np.column_stack([np.ones(len(right)), log_odds(logits)])
    for _ in range(25):
        share = 1 / (1 + np.exp(-np.clip(rows @ fit, -30, 30)))
        slope = rows.T @ (right - share) - (fit - (0.0, 1.0))
        bend = (rows * (share * (1 - share))[:, None]).T @ rows + np.eye(2)
        step = np.linalg.solve(bend, slope)
        fit = fit + step / max(1.0, float(np.abs(step).max()))
    return float(fit[0]), float(fit[1])


def confidence(logits: Floats, calibration: tuple[float, float]) -> Doubles:
    """Chance that each answer is right, (n,), 0..1."""
    import numpy as np

    add, multiply = calibration
    return np.asarray(1 / (1 + np.exp(-np.clip(add + multiply * log_odds(logits), -30, 30))))
