"""Statistics of two models on the same rows, for the gate; no decisions here.

Throughout, *before* is the champion and *after* the candidate, a row is *lost* that only the
champion has right and *won* that only the candidate has right. numpy and scipy are imported inside
the functions, so that the daemon may import the gate's value types.
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
    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

CONFIDENCE = 0.9
"""Level of the two-sided intervals in a verdict."""
POWER = 0.8
"""How often `rows_needed` and `detectable` find what is there."""


@dataclass(frozen=True)
class Counts:
    """Paired outcomes on `rows` rows: how many each model has right, how many are lost and won."""

    rows: int
    before: int
    after: int
    lost: int
    won: int

    @property
    def difference(self) -> float:
        """Accuracy of the candidate less that of the champion, -1..1; 0 without rows."""
        return (self.won - self.lost) / self.rows if self.rows else 0.0

    @property
    def disagreement(self) -> float:
        """Share of rows that one of them has right and the other wrong, never quite 0: one such
        row is added, so that few rows do not pass for certainty."""
        return (self.won + self.lost + 1) / (self.rows + 2)

    @property
    def p_worse(self) -> float:
        """One-sided exact McNemar p-value of "the candidate is no worse" (small: it is worse)."""
        return float(mcnemar(self.lost, self.won))

    @property
    def p_better(self) -> float:
        """One-sided exact McNemar p-value of "the candidate is no better" (small: it is better)."""
        return float(mcnemar(self.won, self.lost))

    @property
    def interval(self) -> tuple[float, float]:
        """90 % interval of `difference`: adjusted Wald (Bonett and Price 2012, Adjusted Wald
        confidence interval for a difference of binomial proportions based on paired data), which
        stays honest where hardly a row is lost or won."""
        n = self.rows + 2
        lost, won = (self.lost + 1) / n, (self.won + 1) / n
        middle = won - lost
        half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt((lost + won - middle**2) / n)
        return max(middle - half, -1.0), min(middle + half, 1.0)


def count(before: Bools, after: Bools) -> Counts:
    """Counts of two boolean (n,) arrays: whether each model has each row right."""
    return Counts(
        rows=len(before),
        before=int(before.sum()),
        after=int(after.sum()),
        lost=int((before & ~after).sum()),
        won=int((after & ~before).sum()),
    )


def mcnemar(against: int | Ints, favour: int | Ints) -> Floats:
    """P(at least `against` of all discordant rows fall on that side, were both sides as likely):
    one-sided exact McNemar test (McNemar 1947, as a sign test). 1 where no row is discordant."""
    import numpy as np
    from scipy.stats import binom

    return np.asarray(binom.sf(np.asarray(against) - 1, np.asarray(against) + favour, 0.5), dtype=np.float64)


def holm(p_values: Floats) -> Floats:
    """Holm's (1979) adjusted p-values: reject where <= alpha and at most alpha of all families
    hold a false rejection."""
    import numpy as np

    order = np.argsort(p_values, kind="stable")
    steps = np.arange(len(p_values), 0, -1) * p_values[order]
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def rows_needed(change: float, disagreement: float, alpha: float) -> int:
    """About how many rows show a change of accuracy (0..1] at the one-sided level `alpha`, four
    times in five, where that share of rows is discordant (Connor 1987)."""
    share = max(disagreement, change)
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha), NormalDist().inv_cdf(POWER)
    root = z_alpha * math.sqrt(share) + z_power * math.sqrt(share - change**2)
    return math.ceil((root / change) ** 2)


def detectable(rows: int, disagreement: float, alpha: float) -> float:
    """About the smallest change of accuracy, at most 1, that so many rows show at the one-sided
    level `alpha` four times in five."""
    if rows == 0:
        return 1.0
    z = NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(POWER)
    # Of a change, at least as large a share of the rows is discordant; hence the second term.
    return min(max(z * math.sqrt(disagreement / rows), z**2 / rows), 1.0)


def macro_f1(truth: Ints, predicted: Ints, weights: Floats, size: int) -> Floats:
    """Mean F1 over the labels that occur in `truth`.

    Args:
        truth, predicted: (cells,) label codes in 0..size-1.
        weights: (draws, cells) how many rows each cell stands for in each draw.

    Returns:
        (draws,) macro-F1, 0..1; 0 where a draw has no rows.
    """
    import numpy as np

    labels = np.eye(size)
    hits = weights @ (labels[truth] * (truth == predicted)[:, None])
    support = weights @ labels[truth]
    both = support + weights @ labels[predicted]
    f1 = np.divide(2 * hits, both, out=np.zeros_like(both), where=both > 0)
    there = support > 0
    scores: Floats = (f1 * there).sum(1) / np.maximum(there.sum(1), 1)
    return scores


def f1_difference(
    truth: Ints, before: Ints, after: Ints, *, draws: int = 0, seed: int = 0
) -> tuple[float, float, float | None, float | None]:
    """Macro-F1 of champion and candidate, and the 90 % paired percentile bootstrap interval of
    candidate less champion (None, None without draws).

    Rows are counted by (truth, before, after) first: a draw of rows is then one multinomial draw
    of cells, and the order of rows cannot matter.
    """
    import numpy as np

    size = int(max(truth.max(), before.max(), after.max())) + 1
    keys, counts = np.unique((truth * size + before) * size + after, return_counts=True)
    cells = (keys // size**2, keys // size % size, keys % size)
    whole = counts[None].astype(np.float64)
    f1_before = float(macro_f1(cells[0], cells[1], whole, size)[0])
    f1_after = float(macro_f1(cells[0], cells[2], whole, size)[0])
    if not draws:
        return f1_before, f1_after, None, None
    drawn = np.random.default_rng(seed).multinomial(len(truth), counts / len(truth), draws).astype(np.float64)
    spread = macro_f1(cells[0], cells[2], drawn, size) - macro_f1(cells[0], cells[1], drawn, size)
    low, high = np.quantile(spread, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return f1_before, f1_after, float(low), float(high)


def calibration_error(confidence: Floats, right: Bools, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017), 0..1: the mean gap between confidence and
    accuracy over equal-width bins of confidence, weighted by rows; 0 without rows."""
    import numpy as np

    if not len(right):
        return 0.0
    which = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(which, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


def confidence(logits: NDArray[np.float32]) -> Floats:
    """(n,) largest softmax probability of each row of (n, classes) logits."""
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    largest: Floats = 1.0 / np.exp(shifted).sum(axis=1)
    return largest
