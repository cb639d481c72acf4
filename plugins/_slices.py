"""Which parts of the rows became more or less frequent, and which rows are typical of a change."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from keeperd.api import Slice
from keeperd_plugins import _terms, _tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Flags = NDArray[np.bool_]

CLUSTERS = 25
ROWS_EACH = 8
"""Rows that a cluster has at least on average; few rows are put into fewer clusters."""
LEAST_Z = 3.0
MOST = 5
LEAST_MIX = 0.06
"""Where the slices that grew have less than this share of the window too many, none is shown. Clusters of
embeddings show about half of a mixture: this is a mix of some 10 %, and with less of it the cluster that
seems to have grown is as often another."""
EXAMPLES = 5


def changed(
    rows: Floats,
    m: int,
    predicted: Sequence[str] | None,
    documents: _tokens.Documents,
    ids: Sequence[str],
    seed: int,
) -> tuple[Slice, ...]:
    """Predicted classes and clusters whose share of the rows changed by 3 standard errors or more, at
    most five, strongest first. None where they explain too little of the window (`LEAST_MIX`).

    Args:
        rows: float32 (m + n, d), m of the reference, then n of the current window: embeddings where there
            are any, else sketched n-grams.
        m: rows of the reference.
        predicted: the class that each of the m + n rows is answered with, where known.
        documents: terms of the n current texts.
        ids: n, of the current rows.
        seed: of the clustering (k-means; Lloyd 1982).
    """
    n = len(rows) - m
    if n < 1 or m < 1:
        return ()
    rows = np.nan_to_num(np.asarray(rows, np.float32), posinf=0.0, neginf=0.0)
    found: list[tuple[Slice, Flags]] = []
    if predicted is not None:
        classes = np.array(predicted)
        for name in sorted(set(predicted)):
            found += _moved(classes == name, m, Slice(name, "predicted class", 0.0, 0.0, 0.0))
    clusters = _clusters(rows, seed)
    for cluster in range(int(clusters.max(initial=-1)) + 1):
        found += _moved(clusters == cluster, m, Slice("", "cluster", 0.0, 0.0, 0.0))
    if _mix([one for one, _ in found]) < LEAST_MIX:
        return ()
    best = sorted(found, key=lambda pair: (-abs(pair[0].z), pair[0].kind, pair[0].name))[:MOST]
    told = []
    for one, inside in best:
        name = (
            one.name or ", ".join(_terms.typical(documents, inside[m:])) or "rows that are hardly there now"
        )
        told.append(replace(one, name=name, examples=_central(rows, inside, m, documents, ids)))
    return tuple(told)


def typical(
    scores: Floats, m: int, texts: Sequence[Hashable], ids: Sequence[str], most: int = EXAMPLES
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of the current rows least like the reference, and of the reference's rows least like the
    current window, each text once, the most typical first.

    Args:
        scores: float32 (m + n,), larger for rows more like the current window, each from a fit to all
            the other rows (`_permutation.Smoother.left_out`).
        m: rows of the reference.
        texts: m + n texts, or anything else that is equal where texts are (such as digests).
        ids: m + n ids.
    """
    scores = np.nan_to_num(np.asarray(scores, np.float64))
    now = np.argsort(-scores[m:], kind="stable") + m
    before = np.argsort(scores[:m], kind="stable")
    return _distinct(now.tolist(), texts, ids, most), _distinct(before.tolist(), texts, ids, most)


def _distinct(
    order: Sequence[int], texts: Sequence[Hashable], ids: Sequence[str], most: int
) -> tuple[str, ...]:
    first: dict[Hashable, str] = {}
    for row in order:
        first.setdefault(texts[row], ids[row])
        if len(first) == most:
            break
    return tuple(first.values())


def _clusters(rows: Floats, seed: int) -> NDArray[np.int64]:
    """The cluster of each row, by direction."""
    from sklearn.cluster import KMeans

    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    directions = np.round(rows / np.maximum(lengths, 1e-12), 5)
    different = len(np.unique(directions, axis=0))
    count = max(min(CLUSTERS, len(rows) // ROWS_EACH, different), 1)
    fitted = KMeans(count, n_init=1, max_iter=30, random_state=seed % 2**32).fit(directions)
    return np.asarray(fitted.labels_, np.int64)


def _moved(inside: Flags, m: int, empty: Slice) -> list[tuple[Slice, Flags]]:
    """The slice with its figures, where its share moved by `LEAST_Z` standard errors."""
    n = len(inside) - m
    before, now = int(inside[:m].sum()), int(inside[m:].sum())
    pooled = min((before + now + 1) / (m + n), 0.999)
    z = (now / n - before / m) / np.sqrt(pooled * (1 - pooled) * (1 / m + 1 / n))
    if abs(z) < LEAST_Z:
        return []
    return [(replace(empty, z=round(float(z), 2), current=now / n, reference=before / m), inside)]


def _mix(slices: Sequence[Slice]) -> float:
    """Share of the current rows that the slices which grew have too many, by classes or by clusters."""
    grown = [(one.kind, one.current - one.reference) for one in slices if one.z > 0]
    return max(
        (sum(more for kind, more in grown if kind == which) for which in {kind for kind, _ in grown}),
        default=0.0,
    )


def _central(
    rows: Floats, inside: Flags, m: int, documents: _tokens.Documents, ids: Sequence[str]
) -> tuple[str, ...]:
    """Ids of the current rows of a slice that are nearest to its middle, each text once."""
    current = np.flatnonzero(inside[m:])
    if not len(current):
        return ()
    own = rows[m + current]
    order = current[np.argsort(((own - own.mean(0)) ** 2).sum(1), kind="stable")]
    return _distinct(order.tolist(), documents.signatures(), ids, EXAMPLES)
