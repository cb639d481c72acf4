"""What the monitor follows from block to block: the text, the champion's answers, the labels. Each channel
turns rows into coordinates, and keeps how the blocks of the reference scatter in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from keeperd_plugins import _blocks, _sequence

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

MOST_IN_BLOCK = 500
"""Rows of a block beyond these are not counted: its mean is known well enough, and cost stays bounded."""
FOLDS = 5
LEAST_ROWS = 5
"""Blocks of the reference that are smaller on average say too little."""


@dataclass(frozen=True)
class Channel:
    """The reference's blocks in one channel.

    Attributes:
        axes: from features to coordinates.
        model: of the block means.
        own: (blocks,) score of each block against others that it had no part in.
        days_each: days in a block, on average.
    """

    axes: _blocks.Axes
    model: _blocks.BlockModel
    own: NDArray[np.float64]
    days_each: float

    @cached_property
    def baseline(self) -> _sequence.Baseline:
        """The reference's blocks, ready for comparison."""
        return _sequence.Baseline(self.model, self.own)

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """To be stored; `of` reads them again."""
        return {
            f"{name}.centre": self.axes.centre,
            f"{name}.directions": self.axes.directions,
            f"{name}.means": self.model.means,
            f"{name}.sizes": self.model.sizes,
            f"{name}.within": self.model.within,
            f"{name}.own": self.own,
            f"{name}.days_each": np.array([self.days_each]),
        }

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], name: str) -> Channel | None:
        """What was stored under this name, or None."""
        if f"{name}.means" not in arrays:
            return None
        kept = {part: arrays[f"{name}.{part}"] for part in _PARTS}
        return cls(
            _blocks.Axes(kept["centre"], kept["directions"]),
            _blocks.BlockModel(kept["means"], kept["sizes"], kept["within"]),
            kept["own"],
            float(kept["days_each"][0]),
        )

    def rules(self, budget: float) -> _sequence.Rules:
        """Blocks as large as the reference's, but no larger than they need to be."""
        rows = max(1, min(_blocks.ROWS, int(np.median(self.model.sizes))))
        return _sequence.Rules(budget, rows, max(1, round(self.days_each)))

    def p(self, features: Floats, blocks: float) -> float:
        """Probability that a further stretch of the reference, of so many rows (n, d) and blocks, would lie
        as far from it as these."""
        score = self.model.score(self.axes.project(features).mean(0), len(features), blocks)
        return _blocks.p_of_score(score, self.own)

    def parts(self, features: Floats, dates: Sequence[str]) -> list[_sequence.Part]:
        """Rows (n, d) with their days (n,) as sums by day; of each day at most `MOST_IN_BLOCK` rows, the
        first ones."""
        coordinates = self.axes.project(features)
        rows_of: dict[str, list[int]] = {}
        for row, date in enumerate(dates):
            rows_of.setdefault(date, []).append(row)
        chosen = {date: rows[:MOST_IN_BLOCK] for date, rows in rows_of.items()}
        return [
            _sequence.Part(date, len(rows), coordinates[rows].sum(0)) for date, rows in sorted(chosen.items())
        ]


_PARTS = ("centre", "directions", "means", "sizes", "within", "own", "days_each")


def fit(features: Floats, split: _blocks.Split | None) -> Channel | None:
    """The channel of reference rows (n, d); None without blocks, or where all rows are alike."""
    if split is None or len(features) < LEAST_ROWS * split.count:
        return None
    if float(features.std(axis=0).max(initial=0.0)) <= 1e-6:
        return None
    axes = _blocks.axes(features)
    model = _blocks.block_model(axes.project(features), split)
    return Channel(axes, model, _own_scores(features, split), split.days_each)


def _own_scores(features: Floats, split: _blocks.Split) -> NDArray[np.float64]:
    """(blocks,) score of each block against others that it had no part in, directions included: a block
    lies far out in directions that were found in its own rows."""
    scores = np.zeros(split.count)
    for fold in range(FOLDS):
        inside = (split.block >= 0) & (split.block % FOLDS != fold)
        axes = _blocks.axes(features[inside])
        kept = np.unique(split.block[inside])
        others = _blocks.Split(np.searchsorted(kept, split.block[inside]), len(kept), split.days_each)
        model = _blocks.block_model(axes.project(features[inside]), others)
        for block in range(fold, split.count, FOLDS):
            rows = axes.project(features[split.block == block])
            scores[block] = model.score(rows.mean(0), len(rows), 1)
    return scores


def first_rows(split: _blocks.Split | None, rows: int) -> NDArray[np.int64]:
    """Of all rows those that count: the first `MOST_IN_BLOCK` of each block."""
    if split is None:
        return np.arange(rows)
    order = np.argsort(split.block, kind="stable")
    starts = np.searchsorted(split.block[order], split.block[order])
    return np.sort(order[np.arange(rows) - starts < MOST_IN_BLOCK])


def classes(names: Sequence[str], known: Sequence[str], others: Floats | None = None) -> Floats:
    """Features of answers or labels: a column a class, one for all that are not known, and the columns
    of `others` (n, d), such as the confidence."""
    column = {name: number for number, name in enumerate(known)}
    rows = np.zeros((len(names), len(known) + 1), np.float32)
    rows[np.arange(len(names)), [column.get(name, len(known)) for name in names]] = 1.0
    return rows if others is None else np.hstack([rows, others]).astype(np.float32)
