"""The pieces of the n-gram detector, against plain computations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeperd_plugins import _blocks, _channels, _ngrams, _permutation


def test_leave_one_out_scores_are_those_of_refitting_without_each_row() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(24, 6))
    rows -= rows.mean(0)
    kernel = (rows @ rows.T).astype(np.float32)
    kernel /= np.trace(kernel) / len(kernel)
    members = _permutation.splits(15, 9, 3, 0)
    found = _permutation.smoother(kernel, 2.0).left_out(members)
    for split, member in enumerate(members):
        target = member - member.mean()
        for row in range(24):
            rest = np.arange(24) != row
            dual = np.linalg.solve(kernel[np.ix_(rest, rest)] + 2.0 * np.eye(23), target[rest])
            assert found[split, row] == pytest.approx(float(kernel[row, rest] @ dual), abs=1e-4)


def test_the_kernel_is_the_inner_product_of_all_features() -> None:
    counts = _ngrams.count(["the cat sat", "the dog sat down", "", "完全不同的文字", "the cat sat"])
    rows = _ngrams.features(counts).toarray()
    assert _ngrams.gram(_ngrams.features(counts)) == pytest.approx(rows @ rows.T, abs=1e-6)
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 1, 0, 1, 1])
    sketched = _ngrams.sketch(_ngrams.features(counts), 4096, 3)
    assert sketched @ sketched.T == pytest.approx(rows @ rows.T, abs=0.1)


def test_the_sketch_never_changes() -> None:
    rows = _ngrams.features(_ngrams.count(["drift"]))
    sketched = _ngrams.sketch(rows, 256, 0)
    assert np.flatnonzero(sketched)[:5].tolist() == [1, 5, 8, 10, 24]


def test_splits_keep_sizes_and_begin_with_the_real_one() -> None:
    members = _permutation.splits(7, 3, 50, 0)
    assert members[0].tolist() == [0] * 7 + [1] * 3
    assert (members.sum(1) == 3).all() and set(np.unique(members)) == {0.0, 1.0}
    assert len({tuple(row) for row in members.tolist()}) > 20


@given(st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=30), st.randoms())
def test_the_canonical_order_does_not_depend_on_the_order_given(texts: list[str], rng: object) -> None:
    ids = [str(i) for i in range(len(texts))]
    order = list(range(len(texts)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    one = [ids[i] for i in _ngrams.canonical_order(texts, ids, 1)]
    shuffled_ids = [ids[i] for i in order]
    other = _ngrams.canonical_order([texts[i] for i in order], shuffled_ids, 1)
    assert one == [shuffled_ids[i] for i in other]


def test_shares_that_are_alike_have_uniform_p_values() -> None:
    rng = np.random.default_rng(0)
    found = []
    for seed in range(200):
        old, new = rng.multinomial(300, [0.5, 0.3, 0.15, 0.05]), rng.multinomial(100, [0.5, 0.3, 0.15, 0.05])
        found.append(_permutation.compare_shares(old, new, 199, seed).p)
    assert 0.02 <= np.mean(np.array(found) <= 0.1) <= 0.2
    moved = _permutation.compare_shares(np.array([90, 10]), np.array([50, 50]), 199, 0)
    assert moved.p == 1 / 200 and moved.distance == pytest.approx(0.4)
    bursty = _permutation.compare_shares(np.array([90, 10]), np.array([50, 50]), 199, 0, 40.0, 15)
    assert bursty.p > 0.05


def days(count: int, rows: int) -> list[datetime | None]:
    first = datetime(2026, 3, 1, 12, tzinfo=UTC)
    return [first + timedelta(days=row // rows) for row in range(count * rows)]


def test_blocks_are_whole_days() -> None:
    split = _blocks.by_day(days(20, 60))
    assert split is not None and split.count == 20 and split.days_each == 1.0
    small = _blocks.by_day(days(60, 5))
    assert small is not None and small.count >= _blocks.LEAST
    assert small.days_each == pytest.approx(60 / small.count)
    assert _blocks.by_day(days(13, 60)) is None
    assert _blocks.by_day([None] * 500) is None
    with_gaps = [time if row % 50 else None for row, time in enumerate(days(20, 60))]
    gaps = _blocks.by_day(with_gaps)
    assert gaps is not None and (gaps.block == -1).sum() == 24


def test_rows_of_a_day_that_are_alike_inflate_the_variance() -> None:
    split = _blocks.by_day(days(20, 60))
    assert split is not None
    rng = np.random.default_rng(0)
    independent = rng.normal(size=(1200, 1))
    assert _blocks.intraclass(independent, split) < 0.02
    shared = independent + rng.normal(size=20)[split.block][:, None]
    alike = _blocks.intraclass(shared, split)
    assert 0.3 < alike < 0.7
    assert _blocks.inflation(0.0, 300, 1, 1000, 20) == 1.0
    assert _blocks.inflation(alike, 300, 1, 1000, 20) > 20
    assert _blocks.inflation(alike, 300, 10, 1000, 20) < _blocks.inflation(alike, 300, 1, 1000, 20)


def test_the_block_model_holds_its_level_under_bursts() -> None:
    split = _blocks.by_day(days(30, 40))
    assert split is not None
    alarms = found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(1200, 12)) + rng.normal(size=(30, 12))[split.block] * 0.5
        channel = _channels.fit(rows.astype(np.float32), split)
        assert channel is not None
        day = (rng.normal(size=(200, 12)) + rng.normal(size=12) * 0.5).astype(np.float32)
        alarms += channel.p(day, 1) <= 0.05
        found += channel.p(day + np.float32(3.0), 1) <= 0.01
    assert alarms <= 9  # binomial(60, .05)
    assert found == 60
