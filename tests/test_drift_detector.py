"""Detector "two-sample": what it finds, what it must not find, and what it must survive."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keeperd.api import Context, PluginError, Signal, Statistics, Window
from keeperd.drift import reference
from keeperd_plugins._check_options import CheckOptions
from keeperd_plugins.two_sample_detector import TwoSampleDetector
from tests.conftest import TOPICS, labelled_texts

KNOWN = ("food", "sport", "travel")


def detector(**options: Any) -> TwoSampleDetector:
    return TwoSampleDetector(CheckOptions(permutations=499, **options))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path, seed=5)


def texts(rows: int, seed: int = 0, *, unseen: int = 0) -> list[str]:
    """Texts of the known topics, the last `unseen` of another topic."""
    old = labelled_texts(rows - unseen, KNOWN, seed)[0]
    return old + labelled_texts(unseen, ("music",), seed)[0]


def check(
    context: Context, before: Window, now: Window, **options: Any
) -> tuple[dict[str, Signal], Statistics]:
    """Signals by name."""
    one = detector(**options)
    statistics = one.fit(before, context)
    signals, state = one.detect(statistics, now, None, context)
    assert state is None
    assert len({signal.name for signal in signals}) == len(signals)
    json.dumps([dict(signal.facts) for signal in signals], allow_nan=False)
    return {signal.name: signal for signal in signals}, statistics


def test_a_fifth_of_an_unseen_topic_is_found_and_named(context: Context) -> None:
    found, _ = check(context, Window(texts(500)), Window(texts(200, 1, unseen=40)))
    text = found["text"]
    assert text.drifted and text.p_value == 1 / 500
    assert text.effect is not None and text.baseline is not None and text.effect > text.baseline
    music = set(TOPICS["music"])
    strongest = {term.term for term in text.words if term.z > 0}
    assert len(strongest & music) >= 5
    assert all(0 <= term.reference < term.current <= 1 for term in text.words if term.z > 0)
    assert len(text.facts["examples"]) == 5


def test_windows_drawn_alike_rarely_drift(context: Context) -> None:
    pool = texts(1200)
    p_values = []
    for seed in range(30):
        order = random.Random(seed).sample(range(1200), 240)
        rows = [pool[i] for i in order]
        found, _ = check(context, Window(rows[:150]), Window(rows[150:]))
        p_values.append(found["text"].p_value or 0.0)
    # Binomial(30, .05): more than 5 has probability .003; and the p-values must not be timid either.
    assert sum(p <= 0.05 for p in p_values) <= 5
    assert sum(p <= 0.5 for p in p_values) >= 6


@pytest.mark.parametrize(
    "rows",
    [
        texts(100),
        ["今天天气很好", "我们去吃饭吧", "这本书很有意思", "他在北京工作"] * 25,
        ["صباح الخير يا صديقي", "كيف حالك اليوم", "الكتاب على الطاولة"] * 30,
        [""] * 50,
        ["always the same"] * 60,
        ["x" * 2**20, "long " * 200_000] * 15,
        ["\ud800 broken", "fine", "\x00\x01", "🙂🙂"] * 10,
        ["สวัสดีครับ", "हिन्दी में लिखा", "ភាសាខ្មែរ", "한국어 문장입니다"] * 10,
    ],
    ids=["plain", "Chinese", "Arabic", "empty", "constant", "1 MB", "broken", "other scripts"],
)
def test_identical_windows_never_drift(context: Context, rows: list[str]) -> None:
    found, _ = check(context, Window(rows), Window(rows))
    assert not any(signal.drifted or signal.warning for signal in found.values())
    assert found["text"].p_value is not None and found["text"].p_value > 0.5


def test_another_script_is_found(context: Context) -> None:
    found, _ = check(context, Window(texts(200)), Window(texts(90, 1) + ["今天天气很好，我们去公园吧"] * 10))
    assert found["text"].drifted
    assert found["new characters"].warning and not found["new characters"].drifted
    assert any("天气" in term.term for term in found["text"].words)


def test_one_row_can_be_checked(context: Context) -> None:
    found, _ = check(context, Window(texts(60)), Window(["the bread was good"]))
    assert not found["text"].drifted


def test_the_order_of_rows_does_not_matter(context: Context) -> None:
    rng = np.random.default_rng(0)
    before = Window(texts(300), embeddings=rng.normal(size=(300, 8)).astype(np.float32))
    now = Window(
        texts(200, 1, unseen=30),
        ids=[f"row {i}" for i in range(200)],
        embeddings=rng.normal(size=(200, 8)).astype(np.float32),
        labels=[["a", "b", None][i % 3] for i in range(200)],
    )
    one = detector(rows=100)
    statistics = one.fit(before, context)
    mixed = now.take(rng.permutation(200).tolist())
    assert one.detect(statistics, now, None, context) == one.detect(statistics, mixed, None, context)


def test_same_seed_same_statistics_and_signals(context: Context) -> None:
    before, now = Window(texts(150)), Window(texts(80, 1))
    first, other = check(context, before, now), check(context, before, now)
    assert first[0] == other[0]
    assert first[1].values == other[1].values
    assert all(np.array_equal(array, other[1].arrays[name]) for name, array in first[1].arrays.items())


def test_statistics_are_small_hold_no_text_and_survive_storage(context: Context, tmp_path: Path) -> None:
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(20_000)]
    long = [" ".join(rng.choices(words, k=60)) for _ in range(1000)] + ["the secret is zanzibarquux"]
    vectors = np.random.default_rng(0).normal(size=(1001, 768)).astype(np.float32)
    one = detector()
    statistics = one.fit(Window(long, embeddings=vectors), context)
    assert sum(array.nbytes for array in statistics.arrays.values()) <= 8 * 2**20
    reference.save_statistics(tmp_path / "two-sample", statistics)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "two-sample").iterdir())
    assert b"zanzibarquux" not in stored
    again = reference.load_statistics(tmp_path / "two-sample")
    now = Window(long[:50], embeddings=vectors[:50])
    assert one.detect(again, now, None, context) == one.detect(statistics, now, None, context)


def test_too_little_and_other_features_are_refused(context: Context) -> None:
    one = detector()
    with pytest.raises(PluginError, match="19 rows"):
        one.fit(Window(texts(19)), context)
    statistics = one.fit(Window(texts(60)), context)
    with pytest.raises(PluginError, match="empty"):
        one.detect(statistics, Window([]), None, context)
    old = Statistics(statistics.arrays, {**statistics.values, "features": "others"})
    with pytest.raises(PluginError, match="fit the detector again"):
        one.detect(old, Window(texts(60)), None, context)


def test_embeddings_alone_can_show_drift(context: Context) -> None:
    rng = np.random.default_rng(2)
    before = Window(texts(200), embeddings=rng.normal(size=(200, 16)).astype(np.float32))
    moved = Window(texts(100, 1), embeddings=(rng.normal(size=(100, 16)) + 0.7).astype(np.float32))
    found, statistics = check(context, before, moved)
    assert found["text"].drifted
    without, _ = detector().detect(statistics, Window(texts(100, 1)), None, context)
    assert not without[0].drifted
    other = Window(texts(100, 1), embeddings=np.ones((100, 8), np.float32))
    with pytest.raises(PluginError, match="another encoder"):
        detector().detect(statistics, other, None, context)


def logits_of(names: list[str], sure: float) -> np.ndarray:
    rows = np.zeros((len(names), 2), np.float32)
    rows[np.arange(len(names)), [("a", "b").index(name) for name in names]] = sure
    return rows


def test_answers_confidence_and_labels_are_compared(context: Context) -> None:
    rows, answers = texts(200), ["a", "b"] * 100
    before = Window(rows, answers, logits=logits_of(answers, 3.0), classes=("a", "b"))
    shifted = ["a"] * 90 + ["b"] * 10
    now = Window(rows[:100], shifted, logits=logits_of(shifted, 1.0), classes=("a", "b"))
    found, _ = check(context, before, now)
    assert not found["text"].drifted
    assert all(found[name].drifted for name in ("predicted labels", "confidence", "labels"))
    assert found["labels"].effect == pytest.approx(0.4)
    assert "'a' +40 points" in found["labels"].summary
    same, _ = check(context, before, before.take(range(100)))
    assert not any(signal.drifted for signal in same.values())


def test_an_answer_that_is_no_number_does_not_end_the_check(context: Context) -> None:
    rows, answers = texts(60), ["a", "b"] * 30
    before = Window(rows, logits=logits_of(answers, 3.0), classes=("a", "b"))
    broken = Window(rows, logits=np.full((60, 2), np.nan, np.float32), classes=("a", "b"))
    found, _ = check(context, before, broken)
    assert found["confidence"].drifted and found["confidence"].effect == 0.0


@pytest.mark.parametrize(
    ("change", "sentinel"),
    [
        (str.upper, "upper-case share"),
        (lambda text: text.replace("e", "Ã©"), "non-ASCII share"),
        (lambda text: text[:6], "length"),
        (lambda text: "click here to win", "duplicates"),
        (lambda text: "\u200b" + text, "new characters"),
    ],
    ids=["upper case", "mojibake", "cut", "flood", "zero width"],
)
def test_format_sentinels_warn(context: Context, change: Any, sentinel: str) -> None:
    fresh = texts(150, 1)
    found, _ = check(context, Window(texts(300)), Window([change(text) for text in fresh[:50]] + fresh[50:]))
    assert found[sentinel].warning and not found[sentinel].drifted
    quiet, _ = check(context, Window(texts(300)), Window(fresh))
    assert set(quiet) == {"text"}
    assert set(quiet["text"].facts["sentinels"]) >= {sentinel}


def bursty(days: int, rows: int, seed: int) -> tuple[list[str], list[datetime]]:
    """Days that are each mostly about one topic: stationary, but rows of a day are alike."""
    rng = random.Random(seed)
    found: list[str] = []
    times: list[datetime] = []
    for day in range(days):
        topic = rng.choice(KNOWN)
        size = round(0.8 * rows)
        found += labelled_texts(size, (topic,), seed * 1000 + day)[0]
        found += labelled_texts(rows - size, KNOWN, seed * 1000 + day)[0]
        times += [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day, minutes=i) for i in range(rows)]
    return found, times


def test_bursts_of_single_days_are_not_drift_but_a_new_topic_is(context: Context) -> None:
    before, times = bursty(25, 30, 0)
    alarms = {True: 0, False: 0}
    by_rows = 0
    for seed in range(1, 6):
        now, when = bursty(1, 90, seed)
        when = [time + timedelta(days=60) for time in when]
        dated, _ = check(context, Window(before, times=times), Window(now, times=when))
        undated, _ = check(context, Window(before), Window(now))
        by_rows += dated["text"].facts["p_by_rows"] <= 0.01
        alarms[True] += dated["text"].drifted
        alarms[False] += undated["text"].drifted
        assert dated["text"].facts["calibrated_on"] == "days"
        assert undated["text"].facts["calibrated_on"] == "rows"
    assert alarms[False] >= 4 and by_rows >= 4
    assert alarms[True] <= 1
    new = labelled_texts(90, ("music",), 3)[0]
    found, _ = check(context, Window(before, times=times), Window(new))
    assert found["text"].drifted


def test_a_real_but_trivial_difference_does_not_count(context: Context) -> None:
    found, _ = check(context, Window(texts(500)), Window(texts(200, 1, unseen=30)), least_auc=0.99)
    assert not found["text"].drifted and "does not count" in found["text"].summary


def test_a_flood_does_not_fill_the_sample(context: Context) -> None:
    rows = texts(150, 1) + ["click here"] * 150
    found, _ = check(context, Window(texts(200)), Window(rows), rows=100)
    assert 0.3 < found["duplicates"].effect < 0.7  # type: ignore[operator]
