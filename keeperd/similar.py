"""Near duplicates, by locality-sensitive hashing (Indyk and Motwani, 1998).

Texts that are similar enough share on average `fingerprint.needed` of their bands. Such pairs share
one of the first BANDS - needed + 1, so only texts that agree in one of these are compared; and as
bands only estimate, the texts of the few pairs that pass are then compared themselves: many similar
short texts ("an alarm for 6", "an alarm for 7") would otherwise drop each other by chance.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from keeperd import fingerprint
from keeperd.fingerprint import BANDS, Bands, Hashes

NEIGHBOURS = 4
BLOCK = 50_000
PREFIX = 20_000
"""Longer texts are compared up to this many characters."""

Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Texts:
    """Texts with their sketches: `bands` has a row for each of `places` in the column `texts`."""

    bands: Bands
    texts: pa.ChunkedArray
    places: Places

    @classmethod
    def of(cls, texts: list[str]) -> Texts:
        """Sketched anew."""
        bands = fingerprint.sketch([fingerprint.fold(text) for text in texts])
        return cls(bands, pa.chunked_array([texts], pa.string()), np.arange(len(texts)))

    def shingles(self, row: int) -> frozenset[str]:
        """The character n-grams of one text's folded form."""
        folded = fingerprint.fold(self.texts[int(self.places[row])].as_py())[:PREFIX]
        size = fingerprint.SHINGLE
        return frozenset(folded[begin : begin + size] for begin in range(max(1, len(folded) - size + 1)))


class _Finder:
    """Marks those of the new texts that are near duplicates of old texts.

    Attributes:
        found: a flag for each new text.
    """

    def __init__(self, old: Texts, new: Texts, similarity: float, found: Flags) -> None:
        self._old, self._new = old.bands, new.bands
        self._similarity = similarity
        self._needed = fingerprint.needed(similarity)
        self.bands = range(BANDS - self._needed + 1)
        self.found = found
        # In a cluster, one text is compared with many.
        self._old_shingles = functools.lru_cache(256)(old.shingles)
        self._new_shingles = functools.lru_cache(256)(new.shingles)

    def compare(self, rows: Places, others: Places) -> None:
        """Compare new texts with old ones, pair by pair."""
        open_ = ~self.found[rows]
        rows, others = rows[open_], others[open_]
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            shared = (self._new[rows[block]] == self._old[others[block]]).sum(axis=1)
            close = shared >= self._needed
            for row, other in zip(rows[block][close].tolist(), others[block][close].tolist(), strict=True):
                if not self.found[row]:
                    one, two = self._new_shingles(row), self._old_shingles(other)
                    self.found[row] = len(one & two) >= self._similarity * len(one | two)


def _keys(bands: Bands, band: int) -> Hashes:
    """Sort by one band, and within its equal values by the next: most near duplicates agree in
    that one too and come to lie side by side, even in a large group of merely similar texts."""
    return (bands[:, band].astype(np.uint64) << np.uint64(32)) | bands[:, (band + 1) % BANDS]


def like_any(old: Texts, new: Texts, similarity: float) -> Flags:
    """For each of the new texts, whether it is a near duplicate of an old one.

    Args:
        similarity: Jaccard similarity of the sets of character n-grams, 0..1.
    """
    finder = _Finder(old, new, similarity, np.zeros(len(new.bands), bool))
    for band in finder.bands if len(old.bands) else ():
        keys = _keys(old.bands, band)
        order = np.argsort(keys, kind="stable")
        place = np.searchsorted(keys[order], _keys(new.bands, band))
        for step in range(-NEIGHBOURS, NEIGHBOURS):
            rows = np.flatnonzero((place + step >= 0) & (place + step < len(order)))
            others = order[place[rows] + step]
            agree = old.bands[others, band] == new.bands[rows, band]
            finder.compare(rows[agree], others[agree])
    return finder.found


def like_before(new: Texts, similarity: float, found: Flags) -> Flags:
    """For each text, whether it is a near duplicate of a text before it, or was `found` already.

    In each group of texts that agree in a band, every one is compared with the first of the group,
    which settles clusters of any size in linear time, and with its neighbours, which finds pairs
    inside a large group of merely similar texts.
    """
    finder = _Finder(new, new, similarity, found.copy())
    for band in finder.bands if len(found) else ():
        order = np.argsort(_keys(new.bands, band), kind="stable")
        values = new.bands[order, band]
        begins = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
        sizes = np.diff(np.append(begins, len(order)))
        firsts = np.repeat(np.minimum.reduceat(order, begins), sizes)
        others = order != firsts
        finder.compare(order[others], firsts[others])
        for step in range(1, NEIGHBOURS + 1):
            agree = values[step:] == values[:-step]
            one, other = order[step:][agree], order[:-step][agree]
            finder.compare(np.maximum(one, other), np.minimum(one, other))
    return finder.found


class Overlap:
    """Which old texts need to be looked at: those that share one of the first bands with some new
    text. For old ones that come in chunks and do not fit into memory."""

    def __init__(self, new: Bands, similarity: float) -> None:
        bands = range(BANDS - fingerprint.needed(similarity) + 1)
        self._values = [np.unique(new[:, band]) for band in bands] if len(new) else []

    def shares(self, old: Bands) -> Flags:
        """A flag for each of the old texts."""
        shares = np.zeros(len(old), bool)
        for band, values in enumerate(self._values):
            place = np.searchsorted(values, old[:, band])
            shares |= values[np.minimum(place, len(values) - 1)] == old[:, band]
        return shares
