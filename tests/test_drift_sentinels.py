"""Format sentinels: what they warn of, how seldom they do so for nothing, and what they must survive."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeperd_plugins import _blocks, _characters, _format, _sentinels
from tests.conftest import TOPICS, labelled_texts

LEVEL = 12 / 365
CYRILLIC = {ord(a): ord(b) for a, b in zip("aeioutnsr", "аеиоутнср", strict=True)}


def day(rows: int, seed: int) -> list[str]:
    """Rows of one day: mostly of one topic, some with an accent or in capitals, more on some days."""
    rng = random.Random(seed)
    topic, loud, foreign = rng.choice(list(TOPICS)), rng.random() * 0.3, rng.random() * 0.1
    found = labelled_texts(rows, (topic,), seed)[0]
    found = [f"{text} {rng.randrange(10**6)}" for text in found]
    found = [text.upper() if rng.random() < loud else text for text in found]
    return [text.replace("e", "é", 1) if rng.random() < foreign else text for text in found]


def usual(days: int = 30, rows: int = 60, first: int = 0) -> _sentinels.Usual:
    texts = [text for number in range(days) for text in day(rows, first + number)]
    return _sentinels.fit(texts, _blocks.Split(np.repeat(np.arange(days), rows), days, 1.0))


def names(one: _sentinels.Usual, texts: list[str], level: float = LEVEL) -> set[str]:
    return {signal.name for signal in _sentinels.look(one, texts, level)[0]}


SHOCKS = pytest.mark.parametrize(
    ("change", "sentinel"),
    [
        (lambda text: text.replace("a", "Ã©").replace("o", "Ã©"), "repeated new characters"),
        (lambda text: text.translate(CYRILLIC), "new characters"),
        (lambda text: text.translate(CYRILLIC), "non-ASCII share"),
        (lambda text: "click here to claim your prize", "duplicates"),
        (lambda text: f"<p>{text}</p>", "repeated new characters"),
        (lambda text: text.replace(" ", " \u200b", 2), "new characters"),
        (lambda text: text[::-1], "new character pairs"),
    ],
    ids=["mojibake", "script", "share", "flood", "tags", "zero width", "reversed"],
)


@SHOCKS
def test_a_tenth_of_a_day_is_found(change: Callable[[str], str], sentinel: str) -> None:
    fresh = day(200, 5000)
    assert sentinel in names(usual(), [change(text) for text in fresh[:20]] + fresh[20:])


@SHOCKS
def test_a_third_of_a_window_is_found_by_rows(change: Callable[[str], str], sentinel: str) -> None:
    old, fresh = day(400, 1), day(150, 1)
    one = _sentinels.fit(old, None)
    assert names(one, day(150, 1), 0.01) == set()
    assert sentinel in names(one, [change(text) for text in fresh[:50]] + fresh[50:], 0.01)


@pytest.mark.parametrize(
    ("change", "sentinel"),
    [(str.upper, "upper-case share"), (lambda text: text[:9], "length"), (lambda text: text * 3, "length")],
)
def test_all_rows_in_capitals_cut_or_longer_are_found(change: Callable[[str], str], sentinel: str) -> None:
    fresh = [change(text) for text in day(200, 5000)]
    assert sentinel in names(usual(), fresh)
    assert sentinel in names(_sentinels.fit(day(400, 1), None), fresh, 0.01)


def test_days_like_those_of_the_reference_rarely_warn() -> None:
    warnings = looks = 0
    for run in range(8):
        one = usual(first=1000 * run)
        for number in range(40):
            warnings += len(names(one, day(60, 1000 * run + 100 + number)))
            looks += 1
    assert 365 * warnings / looks <= 20


def test_rows_would_warn_of_days_that_are_nothing_special() -> None:
    def loud(rows: int, seed: int) -> list[str]:
        """A day on which up to three fifths of the rows are in capitals."""
        share = round(random.Random(seed).random() * 0.6 * rows)
        texts = labelled_texts(rows, seed=seed)[0]
        return [text.upper() for text in texts[:share]] + texts[share:]

    texts = [text for number in range(30) for text in loud(60, number)]
    by_rows = _sentinels.fit(texts, None)
    by_blocks = _sentinels.fit(texts, _blocks.Split(np.repeat(np.arange(30), 60), 30, 1.0))
    days = [loud(200, 100 + number) for number in range(40)]
    rows_warn, blocks_warn = (sum(bool(names(one, day)) for day in days) for one in (by_rows, by_blocks))
    assert rows_warn >= 8
    assert blocks_warn <= 4


def test_what_one_block_alone_has_is_new_to_it() -> None:
    texts = ["plain text"] * 140
    texts[3] = "plain ж text"
    one = _sentinels.fit(texts, _blocks.Split(np.repeat(np.arange(14), 10), 14, 1.0))
    assert one.blocks[:, 0].tolist() == [0.1] + [0.0] * 13
    texts[25] = "ж plain text"
    two = _sentinels.fit(texts, _blocks.Split(np.repeat(np.arange(14), 10), 14, 1.0))
    assert two.blocks[:, 0].tolist() == [0.0] * 14


def test_figures_are_told_whether_they_warn_or_not() -> None:
    one = usual()
    warnings, figures = _sentinels.look(one, day(100, 9999), LEVEL)
    assert tuple(figures) == _format.NAMES and not warnings
    assert figures["length"]["current"] == pytest.approx(figures["length"]["reference"], rel=0.5)
    warnings, figures = _sentinels.look(one, [f"{text}\u202e" for text in day(100, 9999)], LEVEL)
    found = {signal.name: signal for signal in warnings}
    assert figures["new characters"]["characters"] == ["U+202E"]
    assert "U+202E" in found["new characters"].summary and "\u202e" not in found["new characters"].summary
    assert all(signal.warning and not signal.drifted for signal in warnings)


def test_what_is_kept_is_small_holds_no_text_and_survives_storage() -> None:
    rng = random.Random(0)
    signs = [chr(code) for code in range(0x4E00, 0x9000)]
    texts = ["".join(rng.choices(signs, k=400)) for _ in range(1000)]
    for split in (None, _blocks.Split(np.repeat(np.arange(20), 50), 20, 1.0)):
        one = _sentinels.fit(texts, split)
        arrays = one.arrays()
        assert sum(array.nbytes for array in arrays.values()) < 400_000
        stored = b"".join(array.tobytes() for array in arrays.values())
        assert texts[0][:2].encode() not in stored
        again = _sentinels.Usual.load({**arrays, "another": np.zeros(3)})
        assert _sentinels.look(again, texts[:40], 0.1) == _sentinels.look(one, texts[:40], 0.1)


def test_the_order_of_rows_does_not_matter() -> None:
    fresh = day(100, 4000) + ["same"] * 10
    mixed = random.Random(1).sample(fresh, len(fresh))
    by_rows = _sentinels.fit(day(200, 1), None)
    for one in (usual(14), by_rows):
        (warned, figures), (others, other_figures) = (
            _sentinels.look(one, texts, LEVEL) for texts in (fresh, mixed)
        )
        assert [signal.name for signal in warned] == [signal.name for signal in others]
        for name in figures:
            assert figures[name]["current"] == pytest.approx(other_figures[name]["current"])


def test_repeats_are_compared_at_one_size() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 300, 1000).astype(np.uint64)
    drawn = [1 - len(set(rng.choice(hashes, 100, replace=False).tolist())) / 100 for _ in range(400)]
    assert _characters.repeated(hashes, 100) == pytest.approx(np.mean(drawn), abs=0.01)
    assert _characters.repeated(hashes, 5000) == 1 - len(set(hashes.tolist())) / 1000
    assert _characters.repeated(hashes[:0], 10) == 0.0


BAD = [
    ["one"],
    ["always the same"] * 60,
    [""] * 40,
    ["x" * 2**20, "long " * 200_000],
    ["\ud800 broken", "\x00\x01", "🙂🙂", "\u200b\u202e", "صباح الخير", "हिन्दी 天气"],
]


@pytest.mark.parametrize("texts", BAD, ids=["one", "same", "empty", "1 MB", "odd"])
def test_odd_windows_and_references(texts: list[str]) -> None:
    references = [_sentinels.fit(texts, None), _sentinels.fit(day(50, 0), None), usual(14, 5)]
    many = (texts * 28)[:28]
    references.append(_sentinels.fit(many, _blocks.Split(np.repeat(np.arange(14), 2), 14, 1.0)))
    for one in references:
        _, figures = _sentinels.look(one, texts, LEVEL)
        assert all(np.isfinite([figure["current"], figure["reference"]]).all() for figure in figures.values())
    assert names(references[0], texts) == set()
    assert _sentinels.look(references[0], [], LEVEL) == ([], {})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(codec=None), max_size=60), min_size=1, max_size=20))
def test_any_text_can_be_looked_at(texts: list[str]) -> None:
    for one in (_sentinels.fit(texts, None), usual(14, 3)):
        warnings, figures = _sentinels.look(one, texts, LEVEL)
        assert set(figures) == set(_format.NAMES)
        assert all(0.0 <= (signal.p_value or 0.0) <= LEVEL for signal in warnings)
