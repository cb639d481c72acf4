"""Format sentinels: cheap figures whose jump means that something upstream broke (a wrong encoding, a
flood of one text, capitals, another script). They warn and never count as drift.

Where the reference has enough days, a window is compared with how its days differ from one another: in
real text rows of one day are alike, and a test that takes rows as independent warns every other day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from keeperd.api import JSON, Signal
from keeperd_plugins import _blocks, _characters, _format

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

NAMES = _format.NAMES
ONE_SIDED = np.array([True, True, False, False, False, True, True])
LEAST = np.array([0.02, 0.005, 0.01, 0.02, 0.1, 0.03, 0.02])
"""Smaller changes are not worth a warning. That of the length is relative."""
LEAST_ROWS = np.array([3, 0, 0, 0, 0, 2, 2])
"""Fewer rows that have something new, or that repeat another, are not worth a warning either."""
LEAST_DISTANCE = 0.1
"""Of distributions (Kolmogorov-Smirnov), where rows are compared."""
SKEWED = 2.5
"""Figures of days have heavier tails than the normal law, so that their variance is known less well: as
from this many times fewer days (excess kurtosis 3)."""
MOST_ROWS = 4000
TOLD = 10


@dataclass(frozen=True)
class Usual:
    """What a reference of m rows looked like. Holds no text. Either the figures of its rows are kept, or
    those of its blocks, and the others are empty; figures are as if the row, or the block, were new to the
    rest.

    Attributes:
        characters: uint32, all code points.
        pairs: uint8 (`_characters.PAIRS` / 8,), a bit for each hashed pair of characters that it has.
        rows: float32 (r, 5), see `_format.Measured`, of at most `MOST_ROWS` rows.
        hashes: uint64 (r,) of each text.
        blocks: float64 (blocks, 7) figures of each block.
        sizes: float64 (blocks,) rows in each.
        within: float64 (7,) variance that one row adds to a figure, on the scale of `_format.even`.
    """

    characters: NDArray[np.uint32]
    pairs: NDArray[np.uint8]
    rows: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, _format.OF_ROWS), np.float32))
    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    blocks: Doubles = field(default_factory=lambda: np.zeros((0, len(NAMES))))
    sizes: Doubles = field(default_factory=lambda: np.zeros(0))
    within: Doubles = field(default_factory=lambda: np.zeros(len(NAMES)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As it is stored; all names begin with "sentinel_"."""
        return {f"sentinel_{name}": array for name, array in vars(self).items()}

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]]) -> Usual:
        """What `arrays` gave; other arrays are not looked at."""
        names = {f"sentinel_{name}": name for name in cls.__dataclass_fields__}
        return cls(**{names[name]: array for name, array in arrays.items() if name in names})


def fit(texts: Sequence[str], split: _blocks.Split | None) -> Usual:
    """What these texts look like: by the blocks of `split`, or by rows where there is none. What only
    one block (or one row) has counts as new for it, as it would have been."""
    read = _characters.read(texts)
    pairs, pair_rows = read.pairs()
    group = np.arange(len(texts)) if split is None else split.block
    new = np.isin(read.codes, _characters.lone(read.codes, group[read.row]))
    new_pairs = np.isin(pairs, _characters.lone(pairs, group[pair_rows]))
    measured = _format.measure(texts, read, new, new_pairs)
    bits = np.zeros(_characters.PAIRS, bool)
    bits[pairs] = True
    seen = _characters.distinct(read.codes).astype(np.uint32), np.packbits(bits)
    if split is None:
        kept = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), MOST_ROWS)).astype(np.int64))
        return Usual(*seen, rows=measured.rows[kept].astype(np.float32), hashes=measured.hashes[kept])
    names, block, sizes = np.unique(group[group >= 0], return_inverse=True, return_counts=True)
    blocks = np.array([measured.figures(group == name, int(np.median(sizes))) for name in names])
    within = _within(measured.rows[group >= 0], block, sizes.astype(np.float64))
    return Usual(*seen, blocks=blocks, sizes=sizes.astype(np.float64), within=within)


def look(usual: Usual, texts: Sequence[str], level: float) -> tuple[list[Signal], dict[str, JSON]]:
    """Warnings about a window, and the figures {name: {"current", "reference", ...}} of all sentinels,
    whether they warn or not.

    Args:
        level: chance of any false warning, shared evenly by the sentinels; by blocks it is that of one
            look at one block.
    """
    if not texts:
        return [], {}
    read = _characters.read(texts)
    new = ~np.isin(read.codes, usual.characters.astype(np.int64))
    new_pairs = np.unpackbits(usual.pairs)[read.pairs()[0]] == 0
    measured = _format.measure(texts, read, new, new_pairs)
    everything = np.ones(len(texts), bool)
    if len(usual.blocks):
        now = measured.figures(everything, int(np.median(usual.sizes)))
        before, p = usual.blocks.mean(0), _by_blocks(usual, now, len(texts))
    else:
        now = measured.figures(everything, len(usual.hashes))
        repeated = _characters.repeated(usual.hashes, len(texts))
        before = np.r_[usual.rows.mean(0), repeated, 0.0]
        p = _by_rows(usual.rows, measured, now, before)
    changes = np.abs(now - before)
    changes[_format.LENGTH] = np.expm1(changes[_format.LENGTH])
    warn = (p <= level / len(NAMES)) & (changes >= LEAST)
    warn &= now * len(texts) >= LEAST_ROWS - 0.5
    shown = _most(read.codes[new], read.row[new]), _most_pairs(read, new_pairs)
    return _signals(_format.plain(now), _format.plain(before), p, warn, shown)


def _within(rows: Doubles, block: NDArray[np.int64], sizes: Doubles) -> Doubles:
    """What one row adds to the variance of `_format.even` figures: the variance of rows about their
    block's mean, by the delta method; of a share of rows that have something it is 1/4."""
    sums = np.zeros((len(sizes), rows.shape[1]))
    np.add.at(sums, block, rows)
    middle = rows - (sums / np.maximum(sizes, 1)[:, None])[block]
    variance = (middle**2).sum(0) / max(len(rows) - len(sizes), 1)
    rooted = variance / (4 * np.maximum(rows.mean(0), 1e-9))
    found = np.full(len(NAMES), 0.25)
    found[1 : _format.OF_ROWS] = rooted[1:]
    found[_format.LENGTH] = variance[_format.LENGTH]
    return found


def _by_blocks(usual: Usual, now: Doubles, rows: int) -> Doubles:
    """p of each figure (7,): Student's prediction interval for one further block of `rows` rows. Never
    less than one in all where a block of the reference was as far out."""
    from scipy.stats import t

    own, one = _format.even(usual.blocks), _format.even(now)
    count = len(own)
    scatter = own.var(axis=0, ddof=1)
    between = np.maximum(scatter - usual.within * (1 / usual.sizes).mean(), 0.0)
    # The part between blocks is not known well enough to take less than half of their scatter.
    spread = np.sqrt(np.maximum(between + usual.within / rows, scatter / 2) + scatter / count + 1e-12)
    z, freedom = (one - own.mean(0)) / spread, (count - 1) / SKEWED
    p = np.where(ONE_SIDED, t.sf(z, freedom), 2 * t.sf(np.abs(z), freedom))
    inside = (one <= own.max(0)) & (ONE_SIDED | (one >= own.min(0)))
    return np.asarray(np.where(inside, np.maximum(p, 1 / (count + 1)), p), np.float64)


def _by_rows(
    reference: NDArray[np.float32], measured: _format.Measured, now: Doubles, before: Doubles
) -> Doubles:
    """p of each figure (7,), as if rows were independent: binomial of rows with new characters,
    Kolmogorov-Smirnov of the other figures of rows, two proportions of duplicates, binomial of rows with
    the same new characters. A distance that is too small to warn gets p = 1."""
    from scipy.stats import binom, kstwobign, norm

    m, n = len(reference), len(measured.rows)
    found = [float(binom.sf(measured.rows[:, 0].sum() - 1, n, (before[0] * m + 1) / (m + 2)))]
    for column in range(1, _format.OF_ROWS):
        larger, either = _distances(reference[:, column], measured.rows[:, column].astype(np.float32))
        if ONE_SIDED[column]:
            p, enough = np.exp(-2 * m * n / (m + n) * larger**2), larger >= LEAST_DISTANCE / 2
        else:
            p = kstwobign.sf(np.sqrt(m * n / (m + n)) * either)
            enough = either >= LEAST_DISTANCE
        found.append(float(p) if enough else 1.0)
    size, (repeats, usually) = min(m, n), (now[5], before[5])
    pooled = (size * (repeats + usually) + 1) / (2 * size + 2)
    found.append(float(norm.sf((repeats - usually) / np.sqrt(2 * pooled * (1 - pooled) / size))))
    different = len(np.unique(measured.new))
    # Of m rows none had it, so that it is in about one of m + 1; any of the new could be the one.
    found.append(min(different * float(binom.sf(round(now[6] * n), n, 1 / (m + 1))), 1.0))
    return np.array(found)


def _distances(before: NDArray[np.float32], now: NDArray[np.float32]) -> tuple[float, float]:
    """Largest distance of the distribution functions: where the window's values are larger, and in all
    (Smirnov 1939)."""
    places = np.concatenate([before, now])
    shares = [np.searchsorted(np.sort(one), places, side="right") / len(one) for one in (before, now)]
    apart = shares[0] - shares[1]
    return float(apart.max()), float(np.abs(apart).max())


def _most(codes: NDArray[np.int64], row: NDArray[np.int64]) -> list[str]:
    """The code points that most rows have."""
    different, counts = np.unique(_characters.once(codes, row)[0], return_counts=True)
    best = np.argsort(-counts, kind="stable")[:TOLD]
    return [f"U+{code:04X}" for code in different[best].tolist()]


def _most_pairs(read: _characters.Characters, new: NDArray[np.bool_]) -> list[str]:
    """The new pairs that most rows have."""
    beside = np.flatnonzero(read.row[1:] == read.row[:-1])[new]
    one, other = read.codes[beside].tolist(), read.codes[beside + 1].tolist()
    each = {*zip(one, other, read.row[beside].tolist(), strict=True)}
    counted = Counter((a, b) for a, b, _ in each)
    most = sorted(counted, key=lambda pair: (-counted[pair], pair))[:TOLD]
    return [f"U+{a:04X} U+{b:04X}" for a, b in most]


def _signals(
    now: Doubles, before: Doubles, p: Doubles, warn: NDArray[np.bool_], shown: tuple[list[str], list[str]]
) -> tuple[list[Signal], dict[str, JSON]]:
    """The warnings, and the figures of all."""
    told = _format.told(now, before, *shown)
    facts: list[dict[str, JSON]] = [{} for _ in NAMES]
    facts[0], facts[1] = {"characters": shown[0]}, {"pairs": shown[1]}
    warnings = [
        Signal(
            name=NAMES[column],
            drifted=False,
            summary=told[column],
            p_value=float(p[column]),
            effect=float(now[column]),
            effect_unit="characters" if column == _format.LENGTH else "share",
            baseline=float(before[column]),
            warning=True,
            facts=facts[column],
        )
        for column in np.flatnonzero(warn).tolist()
    ]
    figures: dict[str, JSON] = {
        name: {"current": float(now[column]), "reference": float(before[column]), **facts[column]}
        for column, name in enumerate(NAMES)
    }
    return warnings, figures
