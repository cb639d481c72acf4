"""Near duplicates among sketches, by locality-sensitive hashing (Indyk and Motwani, 1998).

Two rows are near duplicates when they share at least `needed` of their bands. Such rows share one
of the first BANDS - needed + 1, so only rows that agree in one of these are compared.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from keeperd.fingerprint import BANDS, Bands, Hashes

NEIGHBOURS = 4
BLOCK = 50_000

Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


def _keys(bands: Bands, band: int) -> Hashes:
    """Sort by one band, and within its equal values by the next: most near duplicates agree in
    that one too and come to lie side by side, even in a large group of merely similar texts."""
    return (bands[:, band].astype(np.uint64) << np.uint64(32)) | bands[:, (band + 1) % BANDS]


def like_any(old: Bands, new: Bands, needed: int) -> Flags:
    """For each of the new rows, whether it is a near duplicate of an old row."""
    found = np.zeros(len(new), bool)
    if not len(old) or not len(new):
        return found
    for band in range(BANDS - needed + 1):
        keys = _keys(old, band)
        order = np.argsort(keys, kind="stable")
        place = np.searchsorted(keys[order], _keys(new, band))
        for step in range(-NEIGHBOURS, NEIGHBOURS):
            inside = (place + step >= 0) & (place + step < len(old)) & ~found
            rows = np.flatnonzero(inside)
            others = order[place[rows] + step]
            agree = old[others, band] == new[rows, band]
            _mark(found, rows[agree], new, others[agree], old, needed)
    return found


def like_before(new: Bands, needed: int) -> Flags:
    """For each row, whether it is a near duplicate of a row before it.

    In each group of rows that agree in a band, every row is compared with the first of the group,
    which settles clusters of any size in linear time, and with its neighbours, which finds pairs
    inside a large group of merely similar texts.
    """
    found = np.zeros(len(new), bool)
    for band in range(BANDS - needed + 1 if len(new) else 0):
        order = np.argsort(_keys(new, band), kind="stable")
        values = new[order, band]
        begins = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
        sizes = np.diff(np.append(begins, len(new)))
        _mark_pairs(found, order, np.repeat(np.minimum.reduceat(order, begins), sizes), new, needed)
        for step in range(1, NEIGHBOURS + 1):
            agree = values[step:] == values[:-step]
            _mark_pairs(found, order[step:][agree], order[:-step][agree], new, needed)
    return found


def _mark_pairs(found: Flags, one: Places, other: Places, new: Bands, needed: int) -> None:
    later, sooner = np.maximum(one, other), np.minimum(one, other)
    still = (later != sooner) & ~found[later]
    _mark(found, later[still], new, sooner[still], new, needed)


def _mark(found: Flags, rows: Places, new: Bands, others: Places, old: Bands, needed: int) -> None:
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        shared = (new[rows[block]] == old[others[block]]).sum(axis=1)
        found[rows[block][shared >= needed]] = True


class Overlap:
    """Which old rows need to be looked at: those that share one of the first bands with some new
    row. For old rows that come in chunks and do not fit into memory."""

    def __init__(self, new: Bands, needed: int) -> None:
        self._values = [np.unique(new[:, band]) for band in range(BANDS - needed + 1)]

    def of(self, old: Bands) -> Bands:
        """These of the old rows."""
        shares = np.zeros(len(old), bool)
        for band, values in enumerate(self._values):
            if len(values):
                place = np.searchsorted(values, old[:, band])
                shares |= values[np.minimum(place, len(values) - 1)] == old[:, band]
        return old[shares]
