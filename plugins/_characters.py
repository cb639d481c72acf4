"""Characters of many texts at once, as arrays: which are there, which pairs of neighbours, which case."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from keeperd_plugins import _ngrams

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Doubles = NDArray[np.float64]

PAIRS = 2**20
"""Pairs of characters are hashed to this many; a thousand Chinese rows have a tenth of it."""


@dataclass(frozen=True)
class Characters:
    """The characters of n texts (of the part that is looked at), one text after another.

    Attributes:
        codes: int64 (t,) code points.
        row: int64 (t,) the text that each belongs to.
        sizes: int64 (n,) characters of each text.
    """

    codes: Ints
    row: Ints
    sizes: Ints

    def pairs(self) -> tuple[Ints, Ints]:
        """Hash, 0 to `PAIRS` - 1, and row of each pair of neighbouring characters of one text."""
        beside = np.flatnonzero(self.row[1:] == self.row[:-1])
        one, other = self.codes[beside].astype(np.uint64), self.codes[beside + 1].astype(np.uint64)
        mixed = (one * np.uint64(2**21) + other) * np.uint64(0x9E3779B97F4A7C15)
        return (mixed >> np.uint64(44)).astype(np.int64), self.row[beside]

    def share(self, flags: NDArray[np.bool_], among: NDArray[np.bool_] | None = None) -> Doubles:
        """Of each text, the share of its characters with this flag (t,), of those that are `among`."""
        rows = len(self.sizes)
        whole = self.sizes if among is None else np.bincount(self.row[among], minlength=rows)
        return np.bincount(self.row[flags], minlength=rows) / np.maximum(whole, 1)

    def case(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Flags (t,): capitals, and letters that have a case."""
        different = distinct(self.codes)
        signs = [chr(code) for code in different.tolist()]
        upper, lower = np.zeros((2, int(self.codes.max(initial=0)) + 1), bool)
        upper[different] = [sign.isupper() for sign in signs]
        lower[different] = [sign.islower() for sign in signs]
        return upper[self.codes], (upper | lower)[self.codes]


def read(texts: Sequence[str]) -> Characters:
    """The characters of these texts; what is not valid Unicode counts as "?"."""
    cut = [_ngrams.cut(text) for text in texts]
    sizes = np.array([len(text) for text in cut], np.int64)
    codes = np.frombuffer("".join(cut).encode("utf-32-le"), "<u4").astype(np.int64)
    return Characters(codes, np.repeat(np.arange(len(texts)), sizes), sizes)


def distinct(codes: Ints) -> Ints:
    """The different code points, sorted; without sorting them all."""
    there = np.zeros(int(codes.max(initial=0)) + 1, bool)
    there[codes] = True
    return np.flatnonzero(there)


def lone(values: Ints, group: Ints) -> Ints:
    """The values, sorted, that stand in one group alone."""
    different, groups = np.unique(once(values, group)[0], return_counts=True)
    return np.asarray(different[groups == 1], np.int64)


def once(values: Ints, group: Ints) -> tuple[Ints, Ints]:
    """Every value (below 2^32) once a group that it is in, and that group."""
    both = np.sort((values << 24) | (group + 1))  # a group may be -1
    both = both[np.r_[True, both[1:] != both[:-1]]] if len(both) else both
    return both >> 24, (both & (2**24 - 1)) - 1


def digests(texts: Sequence[str]) -> NDArray[np.uint64]:
    """uint64 (n,): equal for texts that are equal but for case and white space."""
    found = [
        hashlib.blake2b(" ".join(text.lower().split()).encode("utf-8", "replace"), digest_size=8).digest()
        for text in texts
    ]
    return np.frombuffer(b"".join(found), dtype="<u8").astype(np.uint64)


def repeated(hashes: NDArray[np.uint64], size: int) -> float:
    """Share of rows that repeat another one, to be expected in `size` rows drawn from these: the share
    grows with the number of rows, so windows are compared at one size (rarefaction; Hurlbert 1971,
    Ecology 52)."""
    from scipy.special import gammaln

    rows = len(hashes)
    size = min(size, rows)
    if not size:
        return 0.0
    copies = np.unique(hashes, return_counts=True)[1]
    rest = rows - copies
    drawn = rest >= size
    missed = np.zeros(len(copies))
    missed[drawn] = np.exp(
        gammaln(rest[drawn] + 1) - gammaln(rest[drawn] - size + 1)
        - gammaln(rows + 1) + gammaln(rows - size + 1)
    )  # fmt: skip
    return float(min(max(1.0 - (1.0 - missed).sum() / size, 0.0), 1.0))
