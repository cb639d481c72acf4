"""What changed, in words: terms whose document frequency differs most between two windows.

Terms are words and pairs of neighbouring words; in scripts without spaces (Chinese, Japanese, Thai ...)
runs of 2 to 4 characters; punctuation, digits and tags count too, and there are no stop words: they
are often what changed.
"""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby, pairwise

from keeperd.api import Term

LEAST_DOCUMENTS = 2
"""Terms of a single reference document are not kept: there are very many, and they may be personal."""
MOST_TERMS = 20_000
PRIOR = 50.0
"""Documents of the pooled frequencies that both sides are credited with, so that rare terms need more
evidence."""
LEAST_Z = 2.5
LEAST_SEEN = 3
ALIKE = 0.8
"""Terms that share this much of their documents with a stronger term say nothing new."""

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003fffd"
)
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters."""


@cache
def _tokens() -> re.Pattern[str]:
    """One character of an unspaced script with its marks, a word, a number, the start of a link, or
    one sign."""
    marks = [code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)).startswith("M")]
    runs = [list(run) for _, run in groupby(enumerate(marks), lambda pair: pair[1] - pair[0])]
    mark = "".join(f"{re.escape(chr(run[0][1]))}-{re.escape(chr(run[-1][1]))}" for run in runs)
    letters = rf"[^\W\d_](?:(?![{UNSPACED}])[^\W\d_]|[{mark}])*"
    word = rf"{letters}(?:['’]{letters})?"
    return re.compile(rf"(?P<unspaced>[{UNSPACED}][{mark}]*)|https?://|{word}|\d+|[^\w\s]|_+")


def terms(text: str) -> frozenset[str]:
    """All terms of one document."""
    found = [(match[0], match["unspaced"] is not None) for match in _tokens().finditer(text.lower())]
    words = {token for token, unspaced in found if not unspaced}
    words |= {f"{one} {two}" for (one, a), (two, b) in pairwise(found) if not a and not b}
    for unspaced, run in groupby(found, lambda pair: pair[1]):
        if unspaced:
            units = [token for token, _ in run]
            words |= {"".join(units[i : i + k]) for k in (2, 3, 4) for i in range(len(units) - k + 1)}
            if len(units) == 1:
                words.add(units[0])
    return frozenset(words)


def frequencies(documents: Iterable[frozenset[str]]) -> Counter[str]:
    """In how many documents each term is."""
    return Counter(term for document in documents for term in document)


@dataclass(frozen=True)
class Known:
    """Document frequencies of the reference.

    Attributes:
        counts: term -> documents.
        documents: how many documents there were.
        floor: terms that are not in `counts` were in at most this many documents.
    """

    counts: Mapping[str, int]
    documents: int
    floor: int


def known(documents: Sequence[frozenset[str]]) -> Known:
    """The reference's frequencies, the most frequent `MOST_TERMS` terms."""
    counted = frequencies(documents)
    common = sorted(
        ((term, n) for term, n in counted.items() if n >= LEAST_DOCUMENTS),
        key=lambda pair: (-pair[1], pair[0]),
    )
    floor = LEAST_DOCUMENTS - 1 if len(common) <= MOST_TERMS else common[MOST_TERMS][1]
    return Known(dict(common[:MOST_TERMS]), len(documents), floor)


def log_odds(current: float, n: int, reference: float, m: int) -> float:
    """z of the log-odds ratio of a term's document frequency in two windows of n and m documents, with
    the pooled frequency as prior (Monroe, Colaresi and Quinn 2008, "Fightin' Words", Political
    Analysis 16). Positive: more frequent now."""
    pooled = (current + reference + 0.5) / (n + m + 1)
    with_prior, without_prior = PRIOR * pooled, PRIOR * (1 - pooled)
    now, not_now = current + with_prior, n - current + without_prior
    before, not_before = reference + with_prior, m - reference + without_prior
    ratio = math.log(now / not_now) - math.log(before / not_before)
    return ratio / math.sqrt(1 / now + 1 / not_now + 1 / before + 1 / not_before)


def changed(documents: Sequence[frozenset[str]], reference: Known, most: int = 10) -> tuple[Term, ...]:
    """The terms that changed most, strongest first; of terms that stand in the same documents, and of
    a pair and its words, only the strongest."""
    counted, n, m = frequencies(documents), len(documents), reference.documents
    scored = []
    for term in counted.keys() | reference.counts.keys():
        before = reference.counts.get(term)
        now = counted.get(term, 0)
        if now + (before or 0) < LEAST_SEEN:
            continue
        # A term that was not kept had at most `floor` documents; how many is not known.
        z = log_odds(now, n, reference.floor / 2 if before is None else before, m)
        if abs(z) >= LEAST_Z and not (before is None and z < 0):
            scored.append((-abs(z), -len(term), term, Term(term, round(z, 2), now / n, (before or 0) / m)))
    chosen: list[Term] = []
    places: dict[str, set[int]] = {}
    for _, _, term, one in sorted(scored, key=lambda item: item[:3]):
        where = {row for row, document in enumerate(documents) if term in document}
        if not any(_repeats(term, where, other.term, places[other.term]) for other in chosen):
            chosen.append(one)
            places[term] = where
        if len(chosen) == most:
            break
    return tuple(chosen)


def _repeats(term: str, where: set[int], other: str, others: set[int]) -> bool:
    if where or others:
        return len(where & others) >= ALIKE * len(where | others)
    return other in term or term in other
