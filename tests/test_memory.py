"""Replay memory, holdout and reference window of the next version."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeperd import memory, rows


def table(labels: Sequence[str | None], split: str = "train", start: int = 0) -> pa.Table:
    """Rows with these labels, each text different."""
    texts = [f"text {start + number}" for number in range(len(labels))]
    hashes = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") for text in texts]
    return pa.table(
        {
            "id": texts,
            "text": texts,
            "label": labels,
            "time": [None] * len(labels),
            "source": ["here"] * len(labels),
            "split": [split] * len(labels),
            "hash": hashes,
            "bands": [[value] for value in hashes],
        },
        schema=rows.SCHEMA,
    )


EMPTY = rows.SCHEMA.empty_table()


def counts(drawn: pa.Table) -> Counter[str]:
    return Counter(drawn.column("label").to_pylist())


def test_memory_is_even_over_the_labels() -> None:
    new = table(["ham"] * 900 + ["spam"] * 100)
    drawn = memory.next_memory(EMPTY, new, cap=5000, share=0.1)
    assert drawn.schema == rows.SCHEMA
    assert counts(drawn) == {"ham": 50, "spam": 50}


def test_memory_keeps_every_label_of_the_past() -> None:
    old = table([f"old {number}" for number in range(30)])
    new = table(["new"] * 1000, start=100)
    drawn = memory.next_memory(old, new, cap=31, share=0.5)
    assert len(drawn) == 31
    assert counts(drawn) == {**{f"old {number}": 1 for number in range(30)}, "new": 1}


def test_memory_of_no_rows_is_empty() -> None:
    assert len(memory.next_memory(EMPTY, table(["a", "b"] * 50), cap=0, share=0.2)) == 0
    assert len(memory.next_memory(EMPTY, EMPTY, cap=10, share=0.2)) == 0


def test_holdout_rows_never_enter_the_memory_nor_the_other_way_round() -> None:
    new = pa.concat_tables([table(["a", "b"] * 20), table(["a", "b"] * 20, split="holdout", start=40)])
    kept = memory.next_memory(EMPTY, new, cap=100, share=1.0)
    held = memory.next_holdout(EMPTY, new, cap=100)
    assert set(kept.column("split").to_pylist()) == {"train"}
    assert set(held.column("split").to_pylist()) == {"holdout"}
    assert len(kept) == len(held) == 40


def test_unlabelled_rows_are_not_remembered() -> None:
    new = table(["a", None, "b", None])
    assert counts(memory.next_memory(EMPTY, new, cap=10, share=1.0)) == {"a": 1, "b": 1}


def test_a_corrected_label_replaces_the_old_one() -> None:
    drawn = memory.next_memory(table(["wrong", "b"]), table(["right"]), cap=10, share=1.0)
    assert counts(drawn) == {"right": 1, "b": 1}


def test_holdout_follows_the_stream_but_keeps_rare_labels() -> None:
    new = table(["ham"] * 2000 + ["spam"] * 400 + ["rare"] * 6, split="holdout")
    drawn = counts(memory.next_holdout(EMPTY, new, cap=300))
    assert sum(drawn.values()) == 300
    assert drawn["rare"] >= memory.HOLDOUT_FLOOR
    assert drawn["ham"] / drawn["spam"] == pytest.approx(5, rel=0.4)


def test_old_and_new_holdout_rows_compete_on_equal_terms() -> None:
    past = table(["old"] * 3000, split="holdout")
    held = memory.next_holdout(EMPTY, past, cap=500)
    for start in range(3000, 6000, 500):
        held = memory.next_holdout(held, table(["new"] * 500, split="holdout", start=start), cap=500)
    assert counts(held)["old"] == pytest.approx(250, abs=50)


def test_reference_is_all_new_at_first_and_then_half_and_half() -> None:
    first = memory.next_reference(EMPTY, table([None] * 500), cap=100)
    assert len(first) == 100
    second = memory.next_reference(first, table(["new"] * 500, start=500), cap=100)
    assert counts(second) == {None: 50, "new": 50}


@pytest.mark.parametrize(
    ("old", "new", "expected"), [(100, 10, (90, 10)), (10, 500, (10, 90)), (0, 5, (0, 5)), (7, 0, (7, 0))]
)
def test_reference_fills_up_from_the_other_side(old: int, new: int, expected: tuple[int, int]) -> None:
    drawn = memory.next_reference(table(["old"] * old), table(["new"] * new, start=1000), cap=100)
    assert (counts(drawn)["old"], counts(drawn)["new"]) == expected


@given(st.lists(st.sampled_from("abc"), max_size=60), st.integers(0, 40), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(labels: list[str], cap: int, shuffle: Random) -> None:
    new = pa.concat_tables([table(list(labels)), table(list(labels), split="holdout", start=100)])
    order = list(range(len(new)))
    shuffle.shuffle(order)
    mixed = new.take(pa.array(order, pa.int64()))
    old = table(["a", "b"], start=500)
    draws: list[Callable[[pa.Table], pa.Table]] = [
        lambda rows: memory.next_memory(old, rows, cap, 0.5),
        lambda rows: memory.next_holdout(EMPTY, rows, cap),
        lambda rows: memory.next_reference(old, rows, cap),
    ]
    for draw in draws:
        assert draw(new).equals(draw(mixed))
        assert len(draw(new)) <= cap


def test_validation_is_a_fixed_share_of_texts_and_independent_of_the_memory() -> None:
    new = table(["a"] * 5000)
    hashes = new.column("hash").to_numpy()
    mask = memory.in_validation(hashes, 0.1)
    assert mask.mean() == pytest.approx(0.1, abs=0.02)
    assert np.array_equal(mask[::-1], memory.in_validation(hashes[::-1], 0.1))
    kept = memory.next_memory(EMPTY, new, cap=1000, share=1.0).column("hash").to_numpy()
    assert memory.in_validation(kept, 0.1).mean() == pytest.approx(0.1, abs=0.03)
