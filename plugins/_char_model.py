"""A small language model of characters: how surprising is a text to one who knows the reference?

Counts of 1 to 5 neighbouring characters, hashed into arrays of fixed size, so that no text is kept and any
script will do. The estimate of each order is drawn towards that of the order below it (the hierarchical
Dirichlet language model; MacKay and Peto 1995, Natural Language Engineering 1); below the first stands a
character taken at random, at 8 bits a byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from keeperd_plugins import _ngrams

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]
    Places = NDArray[np.int64]

BITS = (12, 16, 18, 18, 18)
"""Of each order's array: 2^bits counts. Few characters and pairs occur at all."""
ORDER = len(BITS)
STRENGTH = 2.0
"""Characters that the estimate of the order below counts for."""
SPECIFICATION = f"characters 1-{ORDER}, {BITS} bits, {_ngrams.CHARACTERS} characters, 1"
"""Changes whenever the same text would be counted otherwise."""
PRIME = np.uint64(0x100000001B3)


@dataclass(frozen=True)
class CharModel:
    """Counts of each order, uint32 (2^bits,) each."""

    counts: tuple[NDArray[np.uint32], ...]

    def surprise(self, texts: Sequence[str]) -> Doubles:
        """Bits per byte (UTF-8) of each text's beginning, float64 (n,); NaN where a text is empty."""
        laid = _lay_out(texts)
        before = laid.targets - 1
        p = np.exp2(-8.0 * laid.bytes_each)
        usual = float(self.counts[0].sum())
        for order in range(ORDER):
            here = self.counts[order][laid.places[order][laid.targets]].astype(np.float64)
            context = (
                self.counts[order - 1][laid.places[order - 1][before]].astype(np.float64) if order else usual
            )
            # Two n-grams at one place must not make anything more than certain.
            p = (np.minimum(here, context) + STRENGTH * p) / (context + STRENGTH)
        bits = np.bincount(laid.rows, -np.log2(p), minlength=len(texts))
        lengths = np.bincount(laid.rows, laid.bytes_each, minlength=len(texts))
        found = np.full(len(texts), np.nan)
        np.divide(bits, lengths, out=found, where=lengths > 0)
        return found

    def arrays(self) -> dict[str, NDArray[np.uint32]]:
        """As it is stored."""
        return {f"characters {order}": counts for order, counts in enumerate(self.counts, 1)}


def fit(texts: Sequence[str]) -> CharModel:
    """Count the beginnings of texts."""
    laid = _lay_out(texts)
    # The place before a text is counted too: it is the context of the first character.
    counted = np.union1d(laid.targets, laid.starts - 1)
    return CharModel(
        tuple(
            np.bincount(places[counted], minlength=2**bits).astype(np.uint32)
            for places, bits in zip(laid.places, BITS, strict=True)
        )
    )


def load(arrays: Mapping[str, NDArray[np.uint32]]) -> CharModel:
    """What `CharModel.arrays` gave."""
    return CharModel(tuple(arrays[f"characters {order}"] for order in range(1, ORDER + 1)))


@dataclass(frozen=True)
class _Laid:
    """Texts one after the other, each behind a gap as long as a context.

    Attributes:
        places: for each order, where the n-gram that ends at each position is counted.
        targets: (k,) positions of characters; the rest is gaps.
        starts: positions of first characters, of texts that are not empty.
        rows: (k,) text of each target.
        bytes_each: (k,) length of each target in UTF-8.
    """

    places: list[Places]
    targets: Places
    starts: Places
    rows: Places
    bytes_each: Doubles


def _lay_out(texts: Sequence[str]) -> _Laid:
    parts = [_ngrams.cut(text) for text in texts]
    lengths = np.array([len(part) for part in parts], np.int64)
    rows = np.repeat(np.arange(len(parts)), lengths)
    starts = np.cumsum(lengths) - lengths + ORDER * np.arange(1, len(parts) + 1)
    targets = np.arange(len(rows)) + ORDER * (rows + 1)
    here = np.frombuffer("".join(parts).encode("utf-32-le"), "<u4").astype(np.uint64)
    codes = np.zeros(len(rows) + ORDER * len(parts), np.uint64)
    codes[targets] = here + np.uint64(1)  # 0 is a gap
    mixed = np.zeros_like(codes)
    places = []
    with np.errstate(over="ignore"):
        for bits in BITS:
            mixed = (np.r_[np.zeros(1, np.uint64), mixed[:-1]] + np.uint64(1)) * PRIME
            mixed = (mixed ^ codes) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(32)
            places.append((mixed >> np.uint64(64 - bits)).astype(np.int64))
    bytes_each = np.asarray(1.0 + (here > 0x7F) + (here > 0x7FF) + (here > 0xFFFF), np.float64)
    return _Laid(places, targets, starts[lengths > 0], rows, bytes_each)
