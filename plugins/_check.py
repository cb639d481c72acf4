"""A window's rows laid beside the reference's: can a classifier tell them apart, and by what? Shared by the
detectors of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from keeperd.api import JSON, PluginError, Slice, Term, Window
from keeperd_plugins import _ngrams, _permutation, _reference, _shares, _slices, _terms, _tokens
from keeperd_plugins._check_options import CheckOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_ROWS = 20


def fit(window: Window, options: CheckOptions, seed: int, name: str) -> _reference.Reference:
    """The reference of a detector of text.

    Raises:
        PluginError: there are too few rows.
    """
    if len(window) < LEAST_ROWS:
        raise PluginError(f"{name}: a reference of {len(window)} rows says too little; give it {LEAST_ROWS}")
    return _reference.fit(window, options.rows, seed)


def sampled(window: Window, rows: int, seed: int) -> Window:
    """At most `rows` rows, drawn fairly, in an order that does not depend on theirs."""
    return window.take(_ngrams.canonical_order(window.texts, window.ids, seed)[:rows])


# --- side by side ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sides:
    """A window's rows laid beside the reference's.

    Attributes:
        m, n: rows of the reference and of the window.
        counts: uint8 (m + n, columns) their hashed n-grams.
        scores: float32 (m + n,) leave-one-out, larger for rows more like the window.
        p: by permutation of the rows; 1.0 where it was not asked for.
        auc: how well they can be told apart, 0.5..1.
    """

    m: int
    n: int
    counts: Any
    scores: NDArray[np.float32]
    p: float
    auc: float


def side_by_side(reference: _reference.Reference, sample: Window, permutations: int, seed: int) -> Sides:
    """Lay them side by side; without permutations there is no p-value, and it costs a third."""
    m, n = reference.counts.shape[0], len(sample)
    counts = sparse.vstack([reference.counts, _ngrams.count(sample.texts)]).tocsr()
    kernel = _ngrams.kernel(counts, reference.beside(sample))
    if kernel is None:
        return Sides(m, n, counts, np.zeros(m + n, np.float32), 1.0, 0.5)
    members = _permutation.splits(m, n, permutations, seed)
    scores = _permutation.smoother(kernel).left_out(members)
    p = _permutation.p_value(_permutation.margins(scores, members)) if permutations else 1.0
    return Sides(m, n, counts, scores[0], p, max(_permutation.auc(scores[0], members[0] > 0), 0.5))


@dataclass(frozen=True)
class Told:
    """What changed: words, slices, and ids of rows least like the other side."""

    words: tuple[Term, ...]
    slices: tuple[Slice, ...]
    examples: list[str]
    examples_before: list[str]

    def facts(self) -> dict[str, JSON]:
        """For a signal."""
        return {"examples": self.examples, "examples_before": self.examples_before}


NOTHING = Told((), (), [], [])


def explain(reference: _reference.Reference, sample: Window, sides: Sides, seed: int) -> Told:
    """Say what changed; asked only after an alarm."""
    documents = _tokens.read(sample.texts)
    features = reference.beside(sample)
    if features is None:
        features = _ngrams.sketch(_ngrams.features(sides.counts), _reference.SKETCH, seed)
    predicted = None
    if reference.answers is not None and sample.logits is not None:
        predicted = reference.answers + _shares.answers(sample.logits, sample.classes)
    ids = reference.values["ids"]
    examples, before = _slices.typical(sides.scores, sides.m, [*ids, *sample.texts], [*ids, *sample.ids])
    return Told(
        _terms.changed(documents, reference.known_terms, sides.scores[sides.m :]),
        _slices.changed(features, sides.m, predicted, documents, sample.ids, seed),
        list(examples),
        list(before),
    )
