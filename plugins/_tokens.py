"""Terms of many texts at once, counted by hash.

Terms are words and pairs of neighbouring words; in scripts without spaces (Chinese, Japanese, Thai ...)
runs of 2 to 4 characters; punctuation, digits and tags count too, and there are no stop words: they
are often what changed. A thousand Chinese rows have half a million different terms. As strings they
cost a second to count; hashed and sorted they cost a tenth of it, and only those that are told get a name.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, groupby
from typing import TYPE_CHECKING

import numpy as np

from keeperd_plugins import _ngrams

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]
    Ints = NDArray[np.int64]

LONGEST = 64
"""Characters that a name has at most: the text is not to be trusted."""
ROW_BITS = np.uint64(20)
"""The low bits of a key number the row, the others are the term's hash."""

PREFIX = np.uint64(20)
"""Bits of a hash that are looked at first."""

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003fffd"
)
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters."""


@cache
def _pattern() -> re.Pattern[str]:
    """One character of an unspaced script with its marks, the start of a link, a word or number, or one
    sign. The first three alternatives are there for speed: most tokens need no look at the marks."""
    last = 0x20000  # there are none above, save for variation selectors
    marks = [code for code in range(last) if unicodedata.category(chr(code)).startswith("M")]
    runs = [list(run) for _, run in groupby(enumerate(marks), lambda pair: pair[1] - pair[0])]
    mark = "".join(f"{re.escape(chr(run[0][1]))}-{re.escape(chr(run[-1][1]))}" for run in runs)
    spaced = rf"(?![{UNSPACED}])[^\W_]"
    letters = rf"{spaced}(?:{spaced}|[{mark}\u200c\u200d])*"  # Persian and Indic words have joiners
    plain = r"[a-z0-9]++(?![^\x00-\x7f])"
    return re.compile(
        rf"https?://|{plain}(?:'{plain})?|[\u4e00-\u9fff]"
        rf"|[{UNSPACED}][{mark}]*|{letters}(?:['’]{letters})?|[^\w\s]|_+"
    )


_unspaced = re.compile(f"[{UNSPACED}]")


@dataclass(frozen=True)
class Documents:
    """The terms of n texts.

    Attributes:
        count: n.
        words: the different tokens.
        tokens: int64 (t,) numbers in `words` of the tokens of all texts, one after another.
        ends: int64 (n,) where in `tokens` each text ends.
        hashes: uint64 (g,) of every occurrence of a term, the low `ROW_BITS` bits zero.
        starts, lengths: int64 (g,) where in `tokens` it stands, and how many tokens it has.
        keys: uint64, hash and row number of every term of every row, each pair once, sorted.
        unspaced: bool, of each token in `words`.
    """

    count: int
    words: Sequence[str]
    tokens: Ints
    ends: Ints
    hashes: Hashes
    starts: Ints
    lengths: Ints
    keys: Hashes
    unspaced: NDArray[np.bool_]

    def frequencies(self, among: NDArray[np.bool_] | None = None) -> tuple[Hashes, Ints]:
        """Hashes of all terms, sorted, and in how many texts each is; of these texts (n,) alone where
        they are given."""
        keys = self.keys if among is None else self.keys[among[_rows(self.keys)]]
        hashes = keys >> ROW_BITS << ROW_BITS
        starts = np.flatnonzero(np.r_[True, hashes[1:] != hashes[:-1]]) if len(hashes) else np.zeros(0, int)
        return hashes[starts], np.diff(np.r_[starts, len(hashes)]).astype(np.int64)

    def rows(self, term: np.uint64) -> frozenset[int]:
        """Numbers of the texts with this term."""
        first, last = np.searchsorted(self.keys, [term, term + (np.uint64(1) << ROW_BITS)])
        return frozenset(_rows(self.keys[first:last]).tolist())

    def signatures(self) -> list[bytes]:
        """Of each text its tokens, equal for texts with the same ones in the same order."""
        return [part.tobytes() for part in np.split(self.tokens, self.ends[:-1])] if self.count else []

    def places(self, terms: Hashes) -> dict[int, tuple[int, int]]:
        """Where in `tokens` each of these terms first stands, and how many tokens it has."""
        if not len(terms) or not len(self.hashes):
            return {}
        wanted = np.sort(terms)
        # Most occurrences are of other terms: a look at the first bits leaves them out.
        there = np.zeros(2 ** int(PREFIX), bool)
        there[wanted >> (np.uint64(64) - PREFIX)] = True
        near = np.flatnonzero(there[self.hashes >> (np.uint64(64) - PREFIX)])
        hashes = self.hashes[near]
        nearest = wanted[np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)]
        found = near[nearest == hashes]
        first: dict[int, tuple[int, int]] = {}
        for place in found[np.argsort(self.starts[found], kind="stable")].tolist():
            first.setdefault(int(self.hashes[place]), (int(self.starts[place]), int(self.lengths[place])))
        return first

    def pair(self, start: int) -> np.uint64 | None:
        """The term of the token here and the next one; None where they make none."""
        first, last = np.searchsorted(self.lengths, [2, 3])
        at = first + np.searchsorted(self.starts[first:last], start)
        return self.hashes[at] if at < last and self.starts[at] == start else None

    def name(self, start: int, length: int) -> str:
        """These tokens as people read them, at most `LONGEST` characters; what cannot be seen is
        written as its code point."""
        numbers = self.tokens[start : start + length].tolist()
        text, spaced = "", False
        for number in numbers:
            gap = " " if spaced and not self.unspaced[number] else ""
            text, spaced = text + gap + self.words[number], not self.unspaced[number]
        shown = "".join(sign if sign.isprintable() else f"<U+{ord(sign):04X}>" for sign in text[:LONGEST])
        return shown[:LONGEST]


def read(texts: Sequence[str]) -> Documents:
    """All terms of these texts (of the part that is looked at, in lower case)."""
    find = _pattern().findall
    found = [find(_ngrams.cut(text).lower()) for text in texts]
    words = list(dict.fromkeys(chain.from_iterable(found)))
    number = {word: at for at, word in enumerate(words)}
    sizes = np.array([len(tokens) for tokens in found], np.int64)
    tokens = np.fromiter(map(number.__getitem__, chain.from_iterable(found)), np.int64, int(sizes.sum()))
    unspaced = np.fromiter((_unspaced.match(word) is not None for word in words), np.bool_, len(words))
    own = np.fromiter(map(_hash, words), np.uint64, len(words))
    row = np.repeat(np.arange(len(texts)), sizes)
    hashes, starts, lengths = _terms(own[tokens], unspaced[tokens], row)
    keys = np.sort(hashes | row[starts].astype(np.uint64))
    if len(keys):
        keys = keys[np.r_[True, keys[1:] != keys[:-1]]]
    return Documents(len(texts), words, tokens, np.cumsum(sizes), hashes, starts, lengths, keys, unspaced)


def _terms(own: Hashes, unspaced: NDArray[np.bool_], row: Ints) -> tuple[Hashes, Ints, Ints]:
    """Hash, first token and length of every term, from each token's hash, script and row."""
    beside = row[1:] == row[:-1]
    pair = beside & ~unspaced[1:] & ~unspaced[:-1]
    run = beside & unspaced[1:] & unspaced[:-1]
    alone = unspaced & ~np.r_[False, run] & ~np.r_[run, False]
    kinds = [(own, ~unspaced | alone, 1), (_mixed(own[:-1], own[1:]), pair | run, 2)]
    for length in (3, 4):
        run = run[:-1] & run[1:]
        before = kinds[-1][0]
        kinds.append((_mixed(before[: len(run)], own[length - 1 :]), run, length))
    places = [np.flatnonzero(there) for _, there, _ in kinds]
    hashes = np.concatenate([made[at] for (made, _, _), at in zip(kinds, places, strict=True)])
    lengths = np.repeat([length for _, _, length in kinds], [len(at) for at in places])
    return hashes >> ROW_BITS << ROW_BITS, np.concatenate(places), lengths


def _rows(keys: Hashes) -> Ints:
    return (keys & ((np.uint64(1) << ROW_BITS) - np.uint64(1))).astype(np.int64)


def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8"), digest_size=8).digest(), "little")


def _mixed(one: Hashes, other: Hashes) -> Hashes:
    """A hash of two hashes in this order (the finaliser of SplitMix64; Steele, Lea and Flood 2014)."""
    mixed = one * np.uint64(0x9E3779B97F4A7C15) + (other ^ (other >> np.uint64(29)))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
