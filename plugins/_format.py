"""Figures of the format of texts: how much of it is new, its case, its length, what repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from keeperd_plugins import _characters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Doubles = NDArray[np.float64]
    Flags = NDArray[np.bool_]

NAMES = (
    "new characters", "new character pairs", "non-ASCII share", "upper-case share", "length", "duplicates",
    "repeated new characters",
)  # fmt: skip
"""Columns of the figures. Share of rows with a character that the reference has nowhere; different pairs
of neighbouring characters that it has nowhere, per character; two shares of characters; characters of
the whole text; share of rows that repeat another; share of rows that all have the same new character or
pair, such as a letter of another script, a tag or one wrongly decoded letter."""
OF_ROWS = 5
"""The first figures are means over rows, the others belong to all rows together."""
LENGTH = NAMES.index("length")
CLIP = 0.1
"""New pairs count up to this share of a row's characters: a few rows of another language must not hide
that many others have some."""


@dataclass(frozen=True)
class Measured:
    """Figures of n texts.

    Attributes:
        rows: float64 (n, 5) the first columns of `NAMES`; of the length the logarithm.
        hashes: uint64 (n,) of each text.
        new, new_rows: int64, each new character and pair of characters once a row that has it, and that
            row.
    """

    rows: Doubles
    hashes: NDArray[np.uint64]
    new: Ints
    new_rows: Ints

    def figures(self, among: Flags, size: int) -> Doubles:
        """float64 (7,) of these rows, flags (n,) with at least one set; duplicates as in `size` rows."""
        counts = np.unique(self.new[among[self.new_rows]], return_counts=True)[1]
        most = (int(counts.max(initial=1)) - 1) / int(among.sum())  # the first time it repeats nothing
        repeated = _characters.repeated(self.hashes[among], size)
        return np.array([*self.rows[among].mean(0), repeated, most])


def measure(texts: Sequence[str], read: _characters.Characters, new: Flags, new_pairs: Flags) -> Measured:
    """The figures of texts.

    Args:
        read: their characters.
        new, new_pairs: flags of each character, and of each pair of neighbours, that is not in the
            reference.
    """
    pairs, row = read.pairs()
    odd, odd_rows = _characters.once(pairs[new_pairs], row[new_pairs])
    share = np.bincount(odd_rows, minlength=len(texts)) / np.maximum(read.sizes, 1)
    upper, cased = read.case()
    rows = [
        read.share(new) > 0,
        np.minimum(share, CLIP),
        read.share(read.codes > 127),
        read.share(upper, cased),
        np.log1p([len(text) for text in texts]),
    ]
    signs, sign_rows = _characters.once(read.codes[new] + _characters.PAIRS, read.row[new])
    both = np.r_[odd, signs], np.r_[odd_rows, sign_rows]
    return Measured(np.column_stack(rows), _characters.digests(texts), *both)


def even(figures: Doubles) -> Doubles:
    """Figures (..., 7) on a scale where their scatter depends little on their size: the root of shares."""
    rooted = np.sqrt(np.maximum(figures, 0.0))
    return np.asarray(np.where(np.arange(len(NAMES)) == LENGTH, figures, rooted), np.float64)


def plain(figures: Doubles) -> Doubles:
    """Figures (7,) as people read them: the length in characters."""
    return np.array([*figures[:LENGTH], np.expm1(figures[LENGTH]), *figures[LENGTH + 1 :]])


def told(now: Doubles, before: Doubles, new: Sequence[str], new_pairs: Sequence[str]) -> tuple[str, ...]:
    """A sentence about each figure (7,), both as `plain` gives them.

    Args:
        new, new_pairs: the most frequent new characters and pairs, as code points.
    """
    shares = (
        f"The {NAMES[column]} of texts has changed: {now[column]:.1%} on average, in the reference"
        f" {before[column]:.1%}."
        for column in (2, 3)
    )
    return (
        f"{now[0]:.1%} of the rows have characters that the reference has nowhere"
        f"{_listed(new)}; of its own rows {before[0]:.1%} had such.",
        f"{100 * now[1]:.1f} of 100 characters begin a pair that the reference has nowhere"
        f"{_listed(new_pairs)}; of its own {100 * before[1]:.1f} did.",
        *shares,
        f"The length of texts has changed: typically {now[LENGTH]:.0f} characters, in the reference"
        f" {before[LENGTH]:.0f}.",
        f"{now[5]:.1%} of the rows repeat another row; in the reference {before[5]:.1%}.",
        f"{now[6]:.1%} of the rows have the same characters that the reference has nowhere"
        f"{_listed([*new[:1], *new_pairs[:1]])}; in its own days {before[6]:.1%}.",
    )


def _listed(codes: Sequence[str]) -> str:
    return f" ({', '.join(codes)})" if codes else ""
