"""What drifted, in words: which terms there are, which are told, and what must never break."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from keeperd_plugins import _terms, _tokens
from tests.conftest import labelled_texts

KNOWN = ("food", "sport", "travel")


def terms(text: str) -> set[str]:
    documents = _tokens.read([text])
    return {documents.name(*place) for place in documents.places(documents.frequencies()[0]).values()}


def changed(before: list[str], now: list[str]) -> dict[str, float]:
    found = _terms.changed(_tokens.read(now), _terms.known(_tokens.read(before)))
    assert all(len(term.term) <= 64 and term.term.isprintable() for term in found)
    assert all(0 <= term.current <= 1 and 0 <= term.reference <= 1 for term in found)
    assert all((term.z > 0) == (term.current > term.reference) for term in found)
    return {term.term: term.z for term in found}


def test_terms_of_many_scripts() -> None:
    assert terms("Don't panic, it's 42!") >= {"don't", "panic", ",", "42", "!", "don't panic"}
    assert terms("<p>https://x.org") >= {"<", "p", ">", "https://"}
    assert terms("天气很好") == {"天气", "气很", "很好", "天气很", "气很好", "天气很好"}
    assert terms("好") == {"好"} and terms("好 ok 我们") == {"好", "ok", "我们"}
    assert terms("हिन्दी में") >= {"हिन्दी", "में"}
    assert terms("iPhone手机壳") >= {"iphone", "手机", "手机壳"}
    assert terms("error 0x80070057 naïve15") >= {"0x80070057", "naïve15"}
    assert terms("می‌خواهم") == {"می<U+200C>خواهم"}
    assert terms("a\u200bb") == {"a", "b", "<U+200B>", "a <U+200B>", "<U+200B> b"}
    assert terms("") == set()


def test_frequencies_are_those_of_plain_counting() -> None:
    texts = labelled_texts(60, KNOWN, 1)[0]
    documents = _tokens.read(texts)
    hashes, counts = documents.frequencies()
    places = documents.places(hashes)
    words = [set(text.lower().split()) for text in texts]
    for term, count in zip(hashes, counts.tolist(), strict=True):
        name = documents.name(*places[int(term)])
        where = documents.rows(term)
        assert len(where) == count
        if " " not in name and name.isalpha():
            assert where == {row for row, own in enumerate(words) if name in own}
    half = np.arange(60) < 30
    again = _tokens.read(texts[:30]).frequencies()
    assert all(np.array_equal(a, b) for a, b in zip(documents.frequencies(half), again, strict=True))


def test_deviations_are_roots_of_the_likelihood_ratio() -> None:
    now, before = np.array([15.0, 0.0, 30.0, 9.0]), np.array([1.0, 60.0, 100.0, 200.0])
    z = _terms.deviations(now, 300, before, 1000)
    for k, b, one in zip(now, before, z, strict=True):
        table = np.array([[k, 300 - k], [b, 1000 - b]])
        ratio = chi2_contingency(table, correction=False, lambda_="log-likelihood").statistic
        assert one**2 == pytest.approx(ratio, abs=1e-9)
    assert np.sign(np.round(z, 6)).tolist() == [1, -1, 0, -1]
    assert _terms.deviations(np.array([5.0]), 300, np.array([0.0]), 1000)[0] > 3.5


def test_deviations_of_like_windows_are_normal() -> None:
    rng = np.random.default_rng(0)
    z = _terms.deviations(rng.binomial(300, 0.2, 4000) * 1.0, 300, rng.binomial(1000, 0.2, 4000) * 1.0, 1000)
    assert abs(z.mean()) < 0.1 and z.std() == pytest.approx(1.0, abs=0.05)


PLANTS: list[tuple[Callable[[str], str], str]] = [
    (lambda text: text.replace(" ", " zorblax ", 1), "zorblax"),
    (lambda text: f"{text} error code 0x80070057", "error code 0x80070057"),
    (lambda text: "click here to claim your free prize now", "click here to claim your free prize now"),
    (lambda text: f"<br>{text}", "< br >"),
    (lambda text: text.replace("e", "Ã©"), "©"),
    (lambda text: "这本书的内容非常精彩", "这本书的内容非常精彩"),
    (lambda text: f"{text} \u202e", "<U+202E>"),
]


@pytest.mark.parametrize(("change", "cause"), PLANTS, ids=[cause for _, cause in PLANTS])
def test_a_cause_in_one_row_of_twenty_is_the_first_word(change: Callable[[str], str], cause: str) -> None:
    first = 0
    for run in range(5):
        rows = labelled_texts(1300, KNOWN, run)[0]
        now = [change(text) for text in rows[1000:1015]] + rows[1015:]
        found = changed(rows[:1000], now)
        assert cause in list(found)[:5]
        first += next(iter(found)) == cause
    assert first >= 4


def test_an_unseen_topic_is_named_by_its_words() -> None:
    rows = labelled_texts(1300, KNOWN, 3)[0]
    music, vocabulary = labelled_texts(30, ("music",), 4)[0], labelled_texts(3000, ("music",), 5)[0]
    others = {word for text in labelled_texts(3000, KNOWN, 6)[0] for word in text.split()}
    own = {word for text in vocabulary for word in text.split()} - others
    found = list(changed(rows[:1000], rows[1000:1270] + music))
    assert sum(bool(set(term.split()) & own) for term in found[:5]) >= 4


def test_a_vanished_word_has_a_negative_z_and_no_echo() -> None:
    before = [f"the parcel number {i} is late" for i in range(300)]
    now = [f"the new passkey number {i} is late" for i in range(100)]
    found = changed(before, now)
    assert any("parcel" in term and z < -4 for term, z in found.items())
    assert any("passkey" in term and z > 4 for term, z in found.items())
    assert len(found) <= 4


def test_the_same_rows_have_no_words() -> None:
    rows = labelled_texts(300, KNOWN, 0)[0]
    assert changed(rows, rows) == changed(rows, rows[:150]) == {}


def test_what_is_kept_names_no_rare_term_and_survives_storage() -> None:
    texts = ["common words"] * 5 + ["twice here"] * 2 + ["secret"]
    known = _terms.known(_tokens.read(texts))
    assert set(known.names) == {"common", "words", "common words"}
    assert len(known.hashes) == 6 and known.floor == 1 and known.documents == 8
    again = _terms.Known.load({**known.arrays(), "more": np.zeros(1)}, {**known.values(), "more": 1})
    assert again.names == known.names and np.array_equal(again.hashes, known.hashes)
    assert changed(texts, ["other thing"] * 20)
    stored = b"".join(array.tobytes() for array in known.arrays().values())
    assert b"secret" not in stored and b"twice" not in stored


def test_the_most_frequent_terms_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_terms, "MOST_TERMS", 2)
    known = _terms.known(_tokens.read(["a"] * 5 + ["b"] * 4 + ["c"] * 3))
    assert known.names == ("a",) and known.counts.tolist() == [5, 4] and known.floor == 3


def test_words_of_rows_unlike_the_reference_come_first() -> None:
    usual = labelled_texts(1000, KNOWN, 0)[0]
    now = labelled_texts(280, KNOWN, 1)[0] + ["zorblax came"] * 10 + ["quux went"] * 10
    documents, known = _tokens.read(now), _terms.known(_tokens.read(usual))
    scores = np.zeros(300, np.float32)
    assert _terms.changed(documents, known, scores) == _terms.changed(documents, known)
    for first, rows in (("zorblax came", slice(280, 290)), ("quux went", slice(290, 300))):
        leaning = scores.copy()
        leaning[rows] = 1.0
        found = _terms.changed(documents, known, leaning)
        assert found[0].term == first
        assert {term.term: term for term in found[:2]} == {
            term.term: term for term in _terms.changed(documents, known)[:2]
        }


def test_order_and_hash_seed_do_not_matter() -> None:
    before, now = labelled_texts(300, KNOWN, 0)[0], labelled_texts(80, ("music", "food"), 1)[0]
    mixed = random.Random(0).sample(now, len(now))
    assert changed(before, now) == changed(before, mixed)
    digest = int.from_bytes(hashlib.blake2b(b"drift", digest_size=8).digest(), "little")
    assert int(_tokens.read(["drift"]).hashes[0]) >> 20 == digest >> 20


BAD = [[], [""], ["one"], ["always the same"] * 60, ["x" * 2**20, "long " * 200_000, "字" * 10**6] * 3]
BAD += [["\ud800 broken", "\x00\x01", "🙂🙂", "\u200b\u202e", "صباح الخير", "हिन्दी 天气ไทย", "\u0301\u0301"]]


@pytest.mark.parametrize("texts", BAD, ids=["none", "empty", "one", "same", "1 MB", "odd"])
def test_odd_windows_and_references(texts: list[str]) -> None:
    usual = labelled_texts(40, KNOWN, 0)[0]
    for before, now in ((usual, texts), (texts, usual), (texts, texts)):
        found = changed(before, now)
        assert found == {} or before != now
    assert _terms.typical(_tokens.read(texts), np.ones(len(texts), bool)) is not None


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text(max_size=80), max_size=8), st.lists(st.text(max_size=80), max_size=8))
def test_any_two_windows_can_be_compared(before: list[str], now: list[str]) -> None:
    changed(before * 5, now * 5)


def test_typical_terms_tell_some_rows_from_the_others() -> None:
    texts = labelled_texts(100, ("food",), 0)[0] + labelled_texts(40, ("music",), 1)[0]
    inside = np.arange(140) >= 100
    own = {word for text in texts[100:] for word in text.split()} - {
        word for text in texts[:100] for word in text.split()
    }
    found = _terms.typical(_tokens.read(texts), inside)
    assert len(found) == 3 and all(set(term.split()) & own for term in found)
    assert _terms.typical(_tokens.read(texts), np.zeros(140, bool)) == ()
