"""Days: real text comes in bursts, so rows of one day are alike and a test that takes them as
independent alarms on days that are nothing special. What a window is compared with is therefore how
much the days of the reference differ from one another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    Ints = NDArray[np.int64]

LEAST = 14
"""Fewer blocks say nothing reliable about how blocks differ."""
ROWS = 50
"""Days with fewer rows are joined."""
ROWS_EACH = 12
"""Rows of the reference for each direction, at least: fewer, and the directions are those of its noise."""
LEAST_LEFT = 0.3
"""Of the variance between blocks, what is not taken for noise of their rows at the least."""
SHRINK = 0.5
"""Weight of the measured covariance between blocks; the rest is the same variance in all directions."""
USUAL_SPREAD, USUAL_BLOCKS = 0.35, 8
"""Standard deviation of blocks' scores as it often is in dated text, and how many blocks it counts for."""
AXES = 128
"""Directions that are kept. More find small changes sooner: with 48 of them a tenth of new rows was found
after 27 days, with 128 after 13; with 192 false alarms rose."""


def days(times: Sequence[datetime | None]) -> int:
    """Different days (UTC) among the times."""
    return len({day_of(time) for time in times} - {""})


@dataclass(frozen=True)
class Split:
    """Rows in blocks of whole days: the block of each row (-1: no time), and days in a block."""

    block: Ints
    count: int
    days_each: float


def by_day(times: Sequence[datetime | None], rows: int = ROWS) -> Split | None:
    """Blocks of consecutive days: each as many days as have `rows` rows together, or fewer rows where
    that would leave fewer than `LEAST` blocks. None where there are fewer than `LEAST` days with rows,
    or where a tenth of the rows has no time."""
    dates = [day_of(time) for time in times]
    counts = Counter(date for date in dates if date)
    dated = sum(counts.values())
    if len(counts) < LEAST or dated < 0.9 * len(dates):
        return None
    while len(blocks := _joined(counts, rows)) < LEAST:
        rows = min(rows - 1, dated // LEAST) if rows > dated // LEAST else rows * 2 // 3
    block_of = {date: number for number, days in enumerate(blocks) for date in days}
    rows_in = np.array([block_of.get(date, -1) for date in dates], np.int64)
    return Split(rows_in, len(blocks), len(counts) / len(blocks))


def day_of(time: datetime | None) -> str:
    """The day (UTC) as "2026-11-26", or ""."""
    return "" if time is None else time.astimezone(UTC).date().isoformat()


def _joined(counts: Counter[str], rows: int) -> list[list[str]]:
    """Days in order, joined until each block has so many rows; what is left over joins the last one."""
    blocks: list[list[str]] = []
    have = rows
    for date in sorted(counts):
        if have >= rows:
            blocks.append([])
            have = 0
        blocks[-1].append(date)
        have += counts[date]
    if have < rows and len(blocks) > 1:
        blocks[-2:] = [[*blocks[-2], *blocks[-1]]]
    return blocks


def intraclass(values: Floats | Doubles, split: Split) -> float:
    """How alike rows of one block are: intraclass correlation, 0..1, of values (n, d), by one-way
    analysis of variance summed over the columns (Donner 1986)."""
    known = split.block >= 0
    values = np.asarray(values, np.float64)[known]
    names, block = np.unique(split.block[known], return_inverse=True)
    count, total = len(names), len(values)
    if count < 2 or total <= count:
        return 0.0
    sizes = np.bincount(block).astype(np.float64)
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, block, values)
    means = sums / sizes[:, None]
    between = (sizes[:, None] * (means - values.mean(0)) ** 2).sum() / (count - 1)
    within = ((values - means[block]) ** 2).sum() / (total - count)
    typical = (total - (sizes**2).sum() / total) / (count - 1)
    spread = between + (typical - 1) * within
    return float(np.clip((between - within) / spread, 0.0, 1.0)) if spread > 0 else 0.0


def inflation(
    alike: float, current: int, current_blocks: float, reference: int, reference_blocks: int
) -> float:
    """How much larger the variance of a difference of two windows is than rows alone would make it,
    at least 1, for this intraclass correlation (Kish 1965)."""
    here = 1 + max(current / current_blocks - 1, 0) * alike
    there = 1 + max(reference / reference_blocks - 1, 0) * alike
    return (here / current + there / reference) / (1 / current + 1 / reference)


@dataclass(frozen=True)
class Axes:
    """A projection to the directions in which the reference varies most.

    Attributes:
        centre: (d,) mean of the reference.
        directions: (d, k).
    """

    centre: Floats
    directions: Floats

    def project(self, rows: Floats) -> Doubles:
        """(n, d) -> (n, k)."""
        return np.asarray((rows - self.centre) @ self.directions, dtype=np.float64)


def axes(rows: Floats, most: int = AXES) -> Axes:
    """Principal axes of rows (n, d), at most `most`, scaled so that all vary about equally."""
    centre = rows.mean(0)
    middle = (rows - centre).astype(np.float64)
    variances, directions = np.linalg.eigh(middle.T @ middle / len(rows))
    kept = slice(None, -1 - max(min(most, len(rows) // ROWS_EACH, rows.shape[1]), 1), -1)
    variances, directions = np.maximum(variances[kept], 0.0), directions[:, kept]
    scale = np.sqrt(variances + 0.05 * variances.mean() + 1e-12)
    return Axes(centre, (directions / scale).astype(np.float32))


@dataclass(frozen=True)
class BlockModel:
    """How block means of the reference scatter.

    Attributes:
        means: (blocks, k) mean of each block.
        sizes: (blocks,) rows in each.
        within: (k, k) covariance of rows about their block's mean.
    """

    means: Doubles
    sizes: Doubles
    within: Doubles

    def score(self, mean: Doubles, rows: float, blocks: float) -> float:
        """Log of the squared distance of a window's mean (k,) from the reference, in units of what
        `rows` rows spread over `blocks` blocks scatter by themselves."""
        count = len(self.means)
        between = self.between()
        scatter = self.within * (1 / rows + 1 / self.sizes.sum()) + between * (1 / blocks + 1 / count)
        scatter[np.diag_indices(len(scatter))] += 1e-9 + 1e-6 * np.trace(scatter) / len(scatter)
        step = mean - self.means.mean(0)
        distance = step @ np.linalg.solve(scatter, step)
        # One is added because the log of a distance in few directions scatters widely near zero.
        return float(np.log((distance + 1) / len(step)))

    def between(self) -> Doubles:
        """Covariance (k, k) of block means beyond what their rows explain. Its positive part alone would be
        far too large where blocks are few or small: it is scaled to the trace that is left, but not to less
        than `LEAST_LEFT` of itself; and half of it is shrunk to the same variance in all directions."""
        covariance = np.atleast_2d(np.cov(self.means.T)) - self.within * (1 / self.sizes).mean()
        values, directions = np.linalg.eigh(covariance)
        left = max(float(values.sum()), LEAST_LEFT * float(np.maximum(values, 0.0).sum()))
        values = np.maximum(values, 0.0)
        values *= left / max(float(values.sum()), 1e-12)
        measured = (directions * values) @ directions.T
        return np.asarray(
            SHRINK * measured + (1 - SHRINK) * values.mean() * np.eye(len(values)), dtype=np.float64
        )

    def without(self, block: int) -> BlockModel:
        """The model of all other blocks."""
        return BlockModel(np.delete(self.means, block, 0), np.delete(self.sizes, block), self.within)


def block_model(rows: Doubles, split: Split) -> BlockModel:
    """The model of projected reference rows (n, k)."""
    known = split.block >= 0
    rows, block = rows[known], split.block[known]
    sizes = np.bincount(block, minlength=split.count).astype(np.float64)
    sums = np.zeros((split.count, rows.shape[1]))
    np.add.at(sums, block, rows)
    means = sums / sizes[:, None]
    middle = rows - means[block]
    return BlockModel(means, sizes, middle.T @ middle / max(len(rows) - split.count, 1))


def p_of_score(score: float, own: Doubles, most_freedom: int = 10**6) -> float:
    """Probability that a further block of the reference would score as high: Student's prediction
    interval from the reference's own scores, whose spread is drawn towards the `USUAL_SPREAD`: days that
    happened to be alike say too little of the odd ones. Never less than one in all where a block of the
    reference scores higher.

    Args:
        most_freedom: degrees of freedom at the most; fewer of them expect odd blocks more often.
    """
    from scipy.stats import t

    count = len(own)
    freedom = count - 1 + USUAL_BLOCKS
    variance = ((count - 1) * float(own.var(ddof=1)) + USUAL_BLOCKS * USUAL_SPREAD**2) / freedom
    spread = np.sqrt(variance * (1 + 1 / count))
    p = float(t.sf((score - float(own.mean())) / spread, min(count - 1, most_freedom)))
    return p if score > float(own.max()) else max(p, 1 / (count + 1))
