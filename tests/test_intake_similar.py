"""When two texts count as the same or nearly the same."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeperd.intake import fingerprint
from keeperd.intake.fingerprint import fold
from keeperd.intake.similar import Overlap, Texts, like_any, like_before
from tests.intake_kit import LONG, SCRIPTS

# --- the folded form --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello, World!", "  hello   world"),
        ("STRASSE", "straße"),
        ("ﬁne", "fine"),
        ("Ａｂｃ１２３", "abc123"),
        ("cafe\u0301", "café"),
        ("你好，世界！", "你好 世界"),
        ("مرحبا، بالعالم؟", "مرحبا بالعالم"),
        ("zero\u200bwidth", "zerowidth"),
        ("right \u202eto\u202c left", "right to left"),
        ("❤️", "❤"),
        ("a\tb\r\nc", "a b c"),
    ],
)
def test_texts_that_count_as_the_same(one: str, other: str) -> None:
    assert fold(one) == fold(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("कि", "की"),
        ("👍🏽", "👎🏽"),
        ("🎉", "😢"),
        ("c++", "c"),
        ("?", "!"),
        ("เก่า", "เก้า"),
        ("price 10", "price 100"),
    ],
)
def test_texts_that_differ(one: str, other: str) -> None:
    assert fold(one) != fold(other)


@pytest.mark.parametrize("text", ["", " \t\n", "\u200b\u2060", "\u3000"])
def test_texts_with_nothing_in_them(text: str) -> None:
    assert fold(text) == ""


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=400))
def test_folding_looks_through_unicode_forms(text: str) -> None:
    assert fold(unicodedata.normalize("NFD", text)) == fold(unicodedata.normalize("NFC", text))
    assert fold(f" {text}\n") == fold(text)


def test_a_run_of_marks_takes_no_quadratic_time() -> None:
    marks = "a" + "\u0301\u0316" * 260_000
    assert len(fold(marks)) > 100_000  # minutes, were it normalised in one piece


def test_the_holdout_share() -> None:
    hashes = np.array([fingerprint.digest(f"text {n}")[1] for n in range(20_000)], np.uint64)
    assert not fingerprint.in_holdout(hashes, 0.0).any()
    assert fingerprint.in_holdout(hashes, 1.0).all()
    assert abs(fingerprint.in_holdout(hashes, 0.2).mean() - 0.2) < 0.02


# --- sketches ---------------------------------------------------------------------------------------


def pairs(overlap: int, total: int, count: int = 300) -> tuple[list[str], list[str]]:
    """Pairs of texts whose sets of 5-grams have a Jaccard similarity of overlap / total."""
    random_ = random.Random(5)

    def letters(n: int) -> str:
        return "".join(random_.choices("abcdefghijklmnopqrstuvwxyz", k=n))

    first, second = [], []
    for _ in range(count):  # the ends of both, with padding, are 4 n-grams longer than their letters
        common, extra = letters(overlap), (total - overlap) // 2 - 4
        first.append(common + letters(extra))
        second.append(common + letters(extra))
    return first, second


def before(texts: list[str], similarity: float = 0.9) -> list[bool]:
    found: list[bool] = like_before(Texts.of(texts), similarity, np.zeros(len(texts), bool)).tolist()
    return found


def any_(old: list[str], new: list[str], similarity: float = 0.9) -> list[bool]:
    found: list[bool] = like_any(Texts.of(old), Texts.of(new), similarity).tolist()
    return found


def test_bands_estimate_jaccard_similarity() -> None:
    one, other = (fingerprint.sketch(texts) for texts in pairs(340, 400))
    shared = (one == other).mean(axis=1)
    assert abs(shared.mean() ** (1 / fingerprint.BAND_ROWS) - 0.85) < 0.01


@pytest.mark.parametrize(
    ("overlap", "least", "most"), [(380, 300, 300), (364, 290, 300), (352, 0, 0), (320, 0, 0)]
)
def test_near_duplicates_are_found_and_similar_texts_are_not(overlap: int, least: int, most: int) -> None:
    one, other = pairs(overlap, 400)
    assert least <= sum(any_(one, other)) <= most
    assert before(one + other) == [False] * 300 + any_(one, other)
    overlaps = Overlap(fingerprint.sketch(other), 0.9).shares(fingerprint.sketch(one))
    assert not np.any(np.array(any_(one, other)) & ~overlaps)


def test_many_similar_short_texts_do_not_drop_each_other() -> None:
    texts = [f"please wake me up at {hour:02} {minute:02}" for hour in range(24) for minute in range(60)]
    assert sum(before(texts)) == 0
    assert sum(any_(texts[::2], texts[1::2])) == 0


def test_a_large_cluster_is_settled_whole() -> None:
    random_ = random.Random(3)
    base = [random_.choice("abcdefgh ") for _ in range(300)]
    texts = []
    for _ in range(3000):
        copy = list(base)
        copy[random_.randrange(300)] = "x"
        texts.append("".join(copy))
    found = before(texts)
    assert not found[0]
    assert sum(found) > 0.99 * len(texts)


def test_pairs_are_found_among_many_texts_of_one_template() -> None:
    random_ = random.Random(4)
    begin = "dear customer, your order has left our house and will be with you in three days; its number is "
    texts = [begin + "".join(random_.choices("0123456789abcdef", k=80)) for _ in range(2000)]
    twins = [text[:-1] + "z" for text in texts[:200]]
    assert sum(before(texts)) == 0
    assert sum(before(texts + twins)[2000:]) > 190
    assert sum(any_(texts, twins)) > 190


def test_short_texts_are_near_duplicates_of_themselves_alone() -> None:
    assert before(["a", "b", "ab", "abc", "好", "好的", "👍", "a"]) == [False] * 7 + [True]


def test_texts_of_any_length_are_compared() -> None:
    random_ = random.Random(6)
    long = "".join(random_.choices("abcdefghijklmnopqrstuvwxyz ", k=300_000))
    assert before([long, long[:-9] + "something", long[::-1]]) == [False, True, False]
    assert before([]) == []
    assert any_([], ["a"]) == [False]
    assert any_(["a"], []) == []


def test_sketches_do_not_depend_on_company() -> None:
    texts = [*SCRIPTS.values(), *LONG.values(), "x"]
    together = fingerprint.sketch(texts)
    assert all(
        np.array_equal(together[i : i + 1], fingerprint.sketch([text])) for i, text in enumerate(texts)
    )
