"""What changed, in words: terms whose document frequency differs most between two windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from keeperd.api import JSON, Term
from keeperd_plugins import _tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

LEAST_DOCUMENTS = 2
"""Terms of a single reference document are not kept: there are very many."""
MOST_TERMS = 40_000
LEAST_NAMED, MOST_NAMED = 5, 5_000
"""Terms of fewer reference documents are kept without a name: they may be personal, and cannot be told
to have vanished anyway."""
LEAST_RISEN, LEAST_VANISHED = 2.0, 4.0
"""Of z. A new kind of row adds terms, and takes only its share from all the others: where a term did
become much rarer, it shows clearly."""
LEAST_SEEN = 3
PAIR = 0.9
"""Weight of z of a pair of words: there are many more pairs than words, so chance makes more of them
large."""
LEAN = 0.25
"""How much a document's likeness to the reference may change what it counts for. The rows of a new topic
are alike in other ways too, which tells its words from those that are frequent now by chance: for
newspaper text among Chinese reviews .59 of the first five words are its own, else .42. With 1 instead of
.25 single odd rows bring in their words."""
ALIKE = 0.8
"""Terms that share this much of their documents with a stronger term say nothing new."""
CANDIDATES = 200
PHRASE = 12
"""Tokens of the longest phrase."""


@dataclass(frozen=True)
class Known:
    """Document frequencies of the reference.

    Attributes:
        hashes: uint64 (t,) terms, the most frequent first.
        counts: int32 (t,) documents with each.
        names: of the first terms.
        documents: how many documents there were.
        floor: a term that is not here was in at most this many documents.
    """

    hashes: NDArray[np.uint64]
    counts: NDArray[np.int32]
    names: tuple[str, ...]
    documents: int
    floor: int

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As they are stored, "terms", "term_counts" and "term_names" (UTF-8, one a line)."""
        names = np.frombuffer("\n".join(self.names).encode("utf-8"), np.uint8)
        return {"terms": self.hashes, "term_counts": self.counts, "term_names": names}

    def values(self) -> dict[str, JSON]:
        """The rest of what is stored, "term_documents" and "term_floor"."""
        return {"term_documents": self.documents, "term_floor": self.floor}

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, JSON]) -> Known:
        """What `arrays` and `values` gave; other keys are not looked at."""
        names = bytes(arrays["term_names"]).decode("utf-8").split("\n") if len(arrays["term_names"]) else []
        numbers = values["term_documents"], values["term_floor"]
        return cls(arrays["terms"], arrays["term_counts"], tuple(names), *numbers)


def known(documents: _tokens.Documents) -> Known:
    """The reference's frequencies, the most frequent `MOST_TERMS` terms."""
    hashes, counts = documents.frequencies()
    kept = np.flatnonzero(counts >= LEAST_DOCUMENTS)
    kept = kept[np.argsort(-counts[kept], kind="stable")]
    floor = LEAST_DOCUMENTS - 1 if len(kept) <= MOST_TERMS else int(counts[kept[MOST_TERMS]])
    kept = kept[:MOST_TERMS]
    named = hashes[kept[: min(int((counts[kept] >= LEAST_NAMED).sum()), MOST_NAMED)]]
    places = documents.places(named)
    names = tuple(documents.name(*places[int(term)]) for term in named)
    return Known(hashes[kept], counts[kept].astype(np.int32), names, documents.count, floor)


def deviations(current: Doubles, n: int, reference: Doubles, m: int) -> Doubles:
    """z of each term's document frequencies (t,) in two windows of n and m documents: the signed root
    of the likelihood ratio of "two frequencies" and "one" (Dunning 1993, "Accurate Methods for the
    Statistics of Surprise and Coincidence", Computational Linguistics 19). Positive: more frequent now.
    Unlike a ratio over its standard error it holds where one count is zero: that is how the new looks."""

    def part(seen: Doubles, expected: Doubles) -> Doubles:
        return seen * np.log(np.maximum(seen, 1e-12) / np.maximum(expected, 1e-12))

    share = (current + reference) / (n + m)
    with_it = part(current, share * n) + part(reference, share * m)
    without = part(n - current, (1 - share) * n) + part(m - reference, (1 - share) * m)
    z: Doubles = np.sign(current / n - reference / m) * np.sqrt(2 * np.maximum(with_it + without, 0.0))
    return z


@dataclass(frozen=True)
class _Candidate:
    """A term that may be told: its name, where it stands (None: nowhere now), and its documents."""

    name: str
    place: tuple[int, int] | None
    rows: frozenset[int]

    def repeats(self, other: _Candidate) -> bool:
        """True where a stronger term has said the same: it stands in the same documents, or is part of
        this one and of nearly all its documents."""
        shared = len(self.rows & other.rows)
        if self.rows and shared >= ALIKE * len(self.rows | other.rows):
            return True
        related = self.name in other.name or other.name in self.name
        return related and shared >= ALIKE * len(self.rows)


def changed(
    documents: _tokens.Documents,
    reference: Known,
    scores: NDArray[np.float32] | None = None,
    most: int = 10,
) -> tuple[Term, ...]:
    """The terms that changed most, strongest first, those that became rarer with a negative z. Of terms
    that stand in the same documents only the strongest is told, drawn out to the phrase that they make
    together, such as "click here to win"; the figures are the strongest term's.

    Args:
        scores: float32 (n,) of the documents, larger for those less like the reference, each from a fit
            to all the other rows (`_permutation.Smoother.left_out`). For the order of the terms such
            documents count up to `LEAN` more, and the most usual ones as much less.
    """
    n, m = documents.count, reference.documents
    if not n or not m:
        return ()
    hashes, now, before = _side_by_side(documents, reference)
    # A term that was not kept had at most `floor` documents; how many is not known.
    usual = np.where(np.isnan(before), min(reference.floor, m) / 2, before)
    z = deviations(now, n, usual, m)
    seen = now + np.nan_to_num(before) >= LEAST_SEEN
    vanished = (z <= -LEAST_VANISHED) & ~np.isnan(before)
    kept = np.flatnonzero(seen & ((z >= LEAST_RISEN) | vanished))
    kept = kept[np.argsort(-np.abs(z[kept]), kind="stable")][:CANDIDATES]
    candidates = _candidates(documents, hashes[kept], reference)
    weights = _weights(n, scores)
    counted = np.array([min(weights[sorted(one.rows)].sum(), n) for one in candidates])
    strength = np.abs(deviations(counted, n, usual[kept], m))
    chosen: list[_Candidate] = []
    told: list[Term] = []
    for at in _strongest(candidates, strength):
        one, whole = candidates[at], kept[at]
        if len(told) < most and one.name and not any(one.repeats(other) for other in chosen):
            chosen.append(one)
            risen = one.place is not None and z[whole] > 0
            name = _phrase(documents, one.place, one.rows) if one.place and risen else one.name
            share = float(np.nan_to_num(before[whole])) / m
            told.append(Term(name, round(float(z[whole]), 2), float(now[whole]) / n, share))
    return tuple(told)


def typical(documents: _tokens.Documents, inside: NDArray[np.bool_], most: int = 3) -> tuple[str, ...]:
    """Names of the terms that tell these documents, flags (n,), from the others, the best first; fewer
    where no more do."""
    n, m = int(inside.sum()), int((~inside).sum())
    if not n:
        return ()
    hashes, counts = documents.frequencies()
    own, own_counts = documents.frequencies(inside)
    here = np.zeros(len(hashes))
    here[np.searchsorted(hashes, own)] = own_counts
    z = deviations(here, n, counts - here, m) if m else here / n
    best = np.flatnonzero((z > 0) & (here >= min(2, n)))
    best = best[np.argsort(-z[best], kind="stable")][: 10 * most]
    candidates = _candidates(documents, hashes[best])
    chosen: list[_Candidate] = []
    for at in _strongest(candidates, z[best]):
        one = candidates[at]
        says = any(sign.isalnum() for sign in one.name)
        if len(chosen) < most and says and not any(one.repeats(other) for other in chosen):
            chosen.append(one)
    return tuple(one.name for one in chosen)


def _candidates(
    documents: _tokens.Documents, terms: NDArray[np.uint64], reference: Known | None = None
) -> list[_Candidate]:
    """The terms with their names, which a term that is nowhere now has from the reference, if at all."""
    names = dict(zip(reference.hashes.tolist(), reference.names, strict=False)) if reference else {}
    places = documents.places(terms)
    found = []
    for term in terms:
        place = places.get(int(term))
        name = documents.name(*place) if place else names.get(int(term), "")
        found.append(_Candidate(name, place, documents.rows(term)))
    return found


def _strongest(candidates: Sequence[_Candidate], strength: Doubles) -> list[int]:
    """Places of the candidates, the strongest first, of equal ones the longest."""

    def rank(at: int) -> tuple[float, int, str]:
        name = candidates[at].name
        return -float(strength[at]) * (PAIR if " " in name else 1.0), -len(name), name

    return sorted(range(len(candidates)), key=rank)


def _weights(n: int, scores: NDArray[np.float32] | None) -> Doubles:
    """What each of n documents counts for, 1 on average, by the rank of its score."""
    if scores is None:
        return np.ones(n)
    from scipy.stats import rankdata

    middle = (rankdata(np.nan_to_num(scores)) - (n + 1) / 2) / n
    return np.asarray(1 + 2 * LEAN * middle, np.float64)


def _side_by_side(documents: _tokens.Documents, reference: Known) -> tuple[Any, Doubles, Doubles]:
    """All terms of both windows, and their documents now and before (NaN: not known)."""
    own, counts = documents.frequencies()
    hashes = np.union1d(own, reference.hashes)
    now, before = np.zeros(len(hashes)), np.full(len(hashes), np.nan)
    now[np.searchsorted(hashes, own)] = counts
    before[np.searchsorted(hashes, reference.hashes)] = reference.counts
    return hashes, now, before


def _phrase(documents: _tokens.Documents, place: tuple[int, int], where: frozenset[int]) -> str:
    """The term of these documents that stands here, with the tokens on either side of it that stand in the
    same documents."""
    start, length = place

    def alike(at: int) -> bool:
        pair = documents.pair(at)
        if pair is None:
            return False
        rows = documents.rows(pair)
        return len(rows & where) >= ALIKE * len(rows | where)

    while length < PHRASE and alike(start + length - 1):
        length += 1
    while length < PHRASE and start and alike(start - 1):
        start, length = start - 1, length + 1
    return documents.name(start, length)
