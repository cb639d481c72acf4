"""Hashed n-grams of texts in any language, and the kernel of two windows.

Features: characters 1-4-grams and words, each hashed to 2^15 columns, log(1 + count), rows scaled to
length one. Nothing is learnt and nothing is segmented, so Chinese is no special case. The similarity
of two rows is the inner product over all columns: a sketch of 256 columns finds a 20 % mix of an unseen
domain in 3 to 5 of 10 windows of 300 rows at p <= .01, all columns in 7 to 8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from keeperd_plugins import _hashing

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    Counts = sparse.csr_matrix
    Floats = NDArray[np.float32]

SPECIFICATION = "characters 1-4 and words, 2 x 2^15 columns, 400 characters, 1"
"""Changes whenever the same text would get other features."""
COLUMNS = 2**15
CHARACTERS = 400
"""Longer texts are cut; what a text is about shows at its beginning, and cost stays bounded."""
AT_ONCE = 2000
"""Rows that are counted at a time; memory stays bounded."""
COMMON = 0.05
"""Columns in more than this share of rows are multiplied as a dense matrix, which is faster."""
BANDS = 4


def cut(text: str) -> str:
    """The part of a text that is looked at, as valid Unicode."""
    return text[:CHARACTERS].encode("utf-8", "replace").decode("utf-8")


def canonical_order(texts: Sequence[str], ids: Sequence[str], seed: int) -> list[int]:
    """Row numbers in an order that is as good as random but the same however the rows come: by a keyed
    hash of the text. The second of two equal texts gets a place of its own, so that the first k rows
    are a fair sample even where most rows are one text."""
    key = seed.to_bytes(8, "little", signed=True)
    digests = [
        hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16, key=key).digest() for text in texts
    ]
    seen: dict[bytes, int] = {}
    places: list[tuple[bytes, int]] = []
    for row in sorted(range(len(texts)), key=lambda row: (digests[row], ids[row])):
        copy = seen[digests[row]] = seen.get(digests[row], -1) + 1
        place = hashlib.blake2b(digests[row] + copy.to_bytes(8, "little"), digest_size=16).digest()
        places.append((place, row))
    return [row for _, row in sorted(places)]


def count(texts: Sequence[str]) -> Counts:
    """Counts of hashed n-grams, uint8 (n, 2 * COLUMNS), at most 255 each."""
    from scipy import sparse

    parts = [_count(texts[at : at + AT_ONCE]) for at in range(0, max(len(texts), 1), AT_ONCE)]
    return sparse.csr_matrix(sparse.vstack(parts)) if len(parts) > 1 else parts[0]


def _count(texts: Sequence[str]) -> Counts:
    from scipy import sparse

    lowered = [cut(text).lower() for text in texts]
    row, column = _hashing.characters(lowered, COLUMNS)
    word_row, word_column = _hashing.words(lowered, COLUMNS)
    # A column of n-grams, or one of words above them, takes 16 bits, and AT_ONCE rows fit into the others.
    keys = np.sort(np.concatenate([row << 16 | column, word_row << 16 | word_column | COLUMNS]))
    first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, np.int64)
    counts = np.minimum(np.diff(np.r_[first, len(keys)]), 255).astype(np.uint8)
    places = keys[first]
    starts = np.searchsorted(places >> 16, np.arange(len(texts) + 1, dtype=np.uint32))
    columns = (places & 0xFFFF).astype(np.int32)
    return sparse.csr_matrix((counts, columns, starts.astype(np.int32)), shape=(len(texts), 2 * COLUMNS))


def features(counts: Counts) -> Counts:
    """Counts -> float32 log(1 + count), each row scaled to length one; a row without any stays zero."""
    from scipy import sparse
    from sklearn.preprocessing import normalize

    weighted = counts.astype(np.float32)
    weighted.data = np.log1p(weighted.data)
    return sparse.csr_matrix(normalize(weighted, copy=False))


def gram(rows: Counts) -> Floats:
    """Inner products of all pairs of rows, float32 (n, n)."""
    shares = rows.getnnz(axis=0) / max(rows.shape[0], 1)
    common = rows[:, np.flatnonzero(shares > COMMON)].toarray()
    rare = rows[:, np.flatnonzero((shares > 0) & (shares <= COMMON))]
    found = np.asarray(common @ common.T, dtype=np.float32)
    others = rare.T.tocsr()
    cuts = np.linspace(0, rows.shape[0], BANDS + 1).astype(int).tolist()
    for first, last in pairwise(cuts):  # each pair of bands once: the products are symmetric
        products = (rare[first:last] @ others[:, first:]).toarray()
        found[first:last, first:] += products
        found[last:, first:last] += products[:, last - first :].T
    return found


def centred(kernel: Floats) -> Floats | None:
    """The kernel about the mean of its rows, scaled to a mean diagonal of one; None where all rows
    are alike."""
    middle = kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
    size = float(np.trace(middle)) / len(middle)
    scale = float(np.trace(kernel)) / len(kernel)
    return np.asarray(middle / size, dtype=np.float32) if size > 1e-6 * max(scale, 1e-6) else None


def kernel(counts: Counts, embeddings: Floats | None) -> Floats | None:
    """Similarity of all rows of both windows, float32 (n, n), centred, mean diagonal one: n-grams, and
    embeddings at the same scale where there are any. None where all rows are alike."""
    parts = [centred(gram(features(counts)))]
    if embeddings is not None:
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        directions = embeddings / np.maximum(lengths, 1e-12)
        parts.append(centred(directions @ directions.T))
    different = [part for part in parts if part is not None]
    return np.asarray(sum(different) / len(different), dtype=np.float32) if different else None


def sketch(rows: Counts, width: int, seed: int) -> Floats:
    """Signed sparse projection of feature rows to `width` columns, float32 (n, width); inner products
    are kept but for noise of about 1 / sqrt(width) (count sketch; Charikar, Chen and Farach-Colton 2002,
    "Finding frequent items in data streams", ICALP). Four non-zeros a column, made from the seed by
    integer arithmetic, the same in every release of every library."""
    from scipy import sparse

    number = np.arange(4 * rows.shape[1], dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed = (number + np.uint64(seed % 2**64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    columns = (mixed >> np.uint64(1)) % np.uint64(width)
    signs = np.where(mixed & np.uint64(1), 0.5, -0.5).astype(np.float32)
    starts = np.arange(0, len(number) + 1, 4)
    projection = sparse.csr_matrix((signs, columns.astype(np.int32), starts), shape=(rows.shape[1], width))
    return np.asarray((rows @ projection).todense(), dtype=np.float32)
