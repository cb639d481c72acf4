"""The columns of n-grams are scikit-learn's."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer

from keeperd_plugins import _ngrams
from tests.conftest import labelled_texts

ODD = [
    "", " ", "a", "  a   b \n\n c", "中文字符测试", "é́ 🙂🙂👍🏽 ok", "\x00\x01", "\ud800x",
    "İstanbul" * 200, "a" * 1000,
    "𠀀𠀁 𠀂𠀃", "\u2028\u2028x", "line\u2028\tnext",
]  # fmt: skip


def by_scikit_learn(texts: list[str]) -> sparse.csr_matrix:
    lowered = [_ngrams.cut(text).lower() for text in texts]
    shared = {"n_features": _ngrams.COLUMNS, "alternate_sign": False, "norm": None, "lowercase": False}
    characters = HashingVectorizer(analyzer="char", ngram_range=(1, 4), **shared).transform(lowered)
    pattern = r"(?u)\w+|[^\w\s]"
    words = HashingVectorizer(token_pattern=pattern, **shared).transform(lowered)
    both = sparse.csr_matrix(sparse.hstack([characters, words]))
    both.data = np.minimum(both.data, 255)
    return both


def any_text(rng: random.Random) -> str:
    """Characters of one to four bytes."""
    spans = ((32, 127), (0x100, 0x800), (0x4E00, 0x9FFF), (0x10000, 0x20000))
    return "".join(chr(rng.randrange(*rng.choice(spans))) for _ in range(rng.randrange(80)))


@pytest.mark.parametrize("at_once", [2000, 7])
def test_counts_are_those_of_scikit_learn(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ngrams, "AT_ONCE", at_once)
    rng = random.Random(0)
    texts = [*ODD, *labelled_texts(50)[0], *(any_text(rng) for _ in range(100))]
    counts, theirs = _ngrams.count(texts), by_scikit_learn(texts)
    assert counts.dtype == np.uint8 and counts.shape == theirs.shape
    assert counts.has_sorted_indices and counts.nnz == theirs.nnz
    assert (counts != theirs).nnz == 0


def test_no_texts_have_no_counts() -> None:
    assert _ngrams.count([]).shape == (0, 2 * _ngrams.COLUMNS)
    assert _ngrams.count(["", ""]).nnz == 0
