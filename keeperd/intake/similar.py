"""Near duplicates, by locality-sensitive hashing (Indyk and Motwani, 1998).

Texts that are similar enough share at least `fingerprint.needed` of their bands. Such pairs share
one of the first BANDS - needed + 1, so only texts that agree in one of these are looked at; and as
bands only estimate, the texts of the few pairs that pass are then compared themselves: where many
texts are somewhat similar, one or the other would otherwise seem near by chance.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from keeperd.intake import fingerprint
from keeperd.intake.fingerprint import BANDS, Bands, Hashes

NEIGHBOURS = 4
BLOCK = 50_000
ENOUGH = 16
"""A text that was compared with so many others in vain counts as new. It bounds the time that
hundreds of thousands of rather similar texts take, such as messages of one form."""
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
        folded = fingerprint.fold(self.texts[int(self.places[row])].as_py())
        text, size = fingerprint.padded(folded[:PREFIX]), fingerprint.SHINGLE
        return frozenset(text[begin : begin + size] for begin in range(len(text) - size + 1))


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
        self._unlike = np.zeros(len(found), np.int16)
        # Texts that are compared lie side by side, and in a cluster all are compared with one.
        self._new_shingles = functools.lru_cache(256)(new.shingles)
        self._old_shingles = self._new_shingles if old is new else functools.lru_cache(256)(old.shingles)

    def compare(self, rows: Places, others: Places) -> None:
        """Compare new texts with old ones, pair by pair; pairs of one text best stand together."""
        for start in range(0, len(rows), BLOCK):
            row, other = rows[start : start + BLOCK], others[start : start + BLOCK]
            open_ = ~self.found[row] & (self._unlike[row] < ENOUGH)
            row, other = row[open_], other[open_]
            close = (self._new[row] == self._old[other]).sum(axis=1) >= self._needed
            for one, two in zip(row[close].tolist(), other[close].tolist(), strict=True):
                if not self.found[one] and self._unlike[one] < ENOUGH:
                    self._compare_texts(one, two)

    def _compare_texts(self, row: int, other: int) -> None:
        one, two = self._new_shingles(row), self._old_shingles(other)
        shared = len(one & two)
        if shared >= self._similarity * (len(one) + len(two) - shared):
            self.found[row] = True
        else:
            self._unlike[row] += 1


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
        near = place[:, None] + np.arange(-NEIGHBOURS, NEIGHBOURS)
        rows, column = np.nonzero((near >= 0) & (near < len(order)))
        others = order[near[rows, column]]
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
        grouped = np.flatnonzero(order != firsts)
        finder.compare(order[grouped], firsts[grouped])
        place = np.repeat(grouped, NEIGHBOURS)
        near = place - np.tile(np.arange(1, NEIGHBOURS + 1), len(grouped))
        agree = (near >= 0) & (values[np.maximum(near, 0)] == values[place])
        one, other = order[place[agree]], order[near[agree]]
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
