"""Slices that grew or shrank, and typical rows."""

from __future__ import annotations

import numpy as np
import pytest

from keeperd.api import Slice
from keeperd_plugins import _ngrams, _permutation, _slices, _tokens
from tests.conftest import labelled_texts

KNOWN = ("food", "sport", "travel")
M, N = 600, 200


def windows(unseen: int, seed: int = 0) -> tuple[list[str], np.ndarray, list[str]]:
    """Texts of both windows, one embedding each (topics apart), and the class each is answered with."""
    old, topics = labelled_texts(M + N - unseen, KNOWN, seed)
    new, _ = labelled_texts(unseen, ("music",), seed)
    names = [*topics, *["music"] * unseen]
    rng = np.random.default_rng(seed)
    centres = dict(zip(("food", "sport", "travel", "music"), rng.normal(size=(4, 32)), strict=True))
    rows = np.array([centres[name] for name in names]) + rng.normal(size=(M + N, 32))
    answers = [name if name != "music" else "food" for name in names]
    return old + new, rows.astype(np.float32), answers


def slices(unseen: int, seed: int = 0, *, answered: bool = True) -> tuple[Slice, ...]:
    texts, rows, answers = windows(unseen, seed)
    ids = [str(number) for number in range(N)]
    return _slices.changed(rows, M, answers if answered else None, _tokens.read(texts[M:]), ids, seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_new_topic_is_a_slice_with_its_words_and_rows(seed: int) -> None:
    found = slices(50, seed)
    assert 1 <= len(found) <= 5
    assert [abs(one.z) for one in found] == sorted((abs(one.z) for one in found), reverse=True)
    grown = next(one for one in found if one.kind == "cluster" and one.z > 0)
    assert grown.z >= 3 and grown.current > grown.reference
    assert 1 <= len(grown.examples) <= 5
    assert all(int(row) >= N - 50 for row in grown.examples)
    music = {word for text in labelled_texts(500, ("music",), 9)[0] for word in text.split()}
    others = {word for text in labelled_texts(3000, KNOWN, 9)[0] for word in text.split()}
    assert set(grown.name.replace(",", "").split()) & (music - others)


def test_a_class_that_grew_is_named() -> None:
    found = [one for one in slices(60) if one.kind == "predicted class"]
    assert found[0].name == "food" and found[0].z > 3
    assert not [one for one in slices(60, answered=False) if one.kind == "predicted class"]


@pytest.mark.parametrize("unseen", [0, 6])
def test_nothing_is_shown_without_a_large_mix(unseen: int) -> None:
    assert sum(bool(slices(unseen, seed)) for seed in range(6)) <= 1


def test_a_slice_that_vanished_is_told() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(3, 0.1, (300, 8)), rng.normal(-3, 0.1, (500, 8))]).astype(np.float32)
    rows[:, 0] = -rows[:, 0]
    answers = ["gone"] * 300 + ["stays"] * 500
    documents = _tokens.read(["some words"] * 200)
    found = _slices.changed(rows, 600, answers, documents, [str(i) for i in range(200)], 0)
    gone = next(one for one in found if one.name == "gone")
    assert gone.z < -3 and gone.current == 0.0 and gone.examples == ()


def test_same_seed_same_slices() -> None:
    assert slices(50) == slices(50)


def test_odd_windows() -> None:
    one = np.ones((1, 4), np.float32)
    nothing = _tokens.read([])
    assert _slices.changed(one, 1, None, nothing, [], 0) == ()
    assert _slices.changed(one, 0, None, _tokens.read(["a"]), ["a"], 0) == ()
    assert _slices.changed(np.zeros((0, 4), np.float32), 0, None, nothing, [], 0) == ()
    for rows in (np.ones((60, 4)), np.zeros((60, 4)), np.full((60, 4), np.nan), np.full((60, 4), np.inf)):
        same = _tokens.read(["always the same"] * 20)
        found = _slices.changed(rows.astype(np.float32), 40, ["a"] * 60, same, [str(i) for i in range(20)], 0)
        assert found == ()
    two = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    _slices.changed(two, 1, ["a", "b"], _tokens.read(["\ud800"]), ["x"], -1)
    texts = ["🙂\u202e", "x" * 2**20, "天气", ""] * 10
    rows = np.repeat(np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32), 40, axis=0)
    found = _slices.changed(rows, 40, None, _tokens.read(texts), [str(i) for i in range(40)], 0)
    assert {one.z > 0 for one in found} == {True, False}
    assert all(one.name and one.name.isprintable() for one in found)


def test_typical_rows_are_those_of_the_change() -> None:
    texts, _, _ = windows(40)
    kernel = _ngrams.kernel(_ngrams.count(texts), None)
    assert kernel is not None
    members = _permutation.splits(M, N, 1, 0)
    scores = _permutation.smoother(kernel).left_out(members)[0]
    ids = [str(number) for number in range(M + N)]
    now, before = _slices.typical(scores, M, texts, ids)
    assert len(now) == len(before) == 5
    assert sum(int(row) >= M + N - 40 for row in now) >= 4
    assert all(int(row) < M for row in before)


def test_typical_rows_are_of_different_texts() -> None:
    scores = np.array([-1, -2, -3, 3, 3, 2, np.nan], np.float32)
    found = _slices.typical(scores, 3, ["a", "b", "b", "x", "x", "y", "z"], [*"abcdefg"])
    assert found == (("d", "f", "g"), ("c", "a"))
    assert _slices.typical(scores[:0], 0, [], []) == ((), ())
