"""Which rows the next version keeps: replay memory, holdout and reference window.

All three are bounded samples of everything seen, drawn without any random state: each row's hash is
mixed into a key that is as good as random, and the smallest keys are kept. A row's key never changes,
so the kept rows of the past and the rows of today compete on equal terms, as in a reservoir (bottom-k
sampling; Cohen and Kaplan 2007, "Summarizing data using bottom-k sketches", PODC), and the same tables
always give the same draw. The three purposes use different keys, so that they do not pick alike.
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from keeperd import rows

MEMORY, HOLDOUT, REFERENCE, VALIDATION = range(1, 5)
HOLDOUT_FLOOR = 5
"""Rows of each label that the holdout keeps, where it has them, before it fills up as they come."""


def keys(hashes: np.ndarray, purpose: int) -> np.ndarray:
    """uint64 (n,) hashes -> uint64 (n,) keys, uniform and different for each purpose (the finaliser of
    splitmix64; Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators")."""
    with np.errstate(over="ignore"):
        mixed = hashes.astype(np.uint64) + np.uint64(purpose) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)


def in_validation(hashes: np.ndarray, share: float) -> np.ndarray:
    """bool (n,): rows that only validate a training. A text is in it always or never."""
    return np.asarray(keys(hashes, VALIDATION) < np.uint64(min(int(share * 2**64), 2**64 - 1)), dtype=bool)


def next_memory(old: pa.Table, new: pa.Table, cap: int, share: float) -> pa.Table:
    """The next replay memory: as even over the labels as the rows allow.

    It grows by `share` (0..1) of the new labelled training rows until it holds `cap`. Every label keeps
    a row as long as there are not more labels than `cap`. Holdout rows never enter.

    Returns:
        a table of `rows.SCHEMA`; the order of the rows given does not matter.
    """
    fresh = rows.labelled(rows.split(new, "train"))
    pool = latest(old, fresh)
    labels = pc.count_distinct(pool.column("label")).as_py()
    size = min(cap, max(len(old) + math.ceil(share * len(fresh)), labels))
    return _draw(pool, size, floor=size, purpose=MEMORY)


def next_holdout(old: pa.Table, new: pa.Table, cap: int) -> pa.Table:
    """The next memory holdout: labelled rows of split "holdout" as they come, at most `cap`, but at
    least `HOLDOUT_FLOOR` of each label where there are that many, so that a rare label stays tested.

    Returns:
        a table of `rows.SCHEMA`; the order of the rows given does not matter.
    """
    pool = latest(old, rows.labelled(rows.split(new, "holdout")))
    return _draw(pool, cap, floor=HOLDOUT_FLOOR, purpose=HOLDOUT)


def next_reference(old: pa.Table, new: pa.Table, cap: int) -> pa.Table:
    """The next reference window: half of it from the old one, half from the new rows (all of them new
    where there is no old one), with and without labels, as they come. Where one side is too small the
    other fills up.

    Returns:
        a table of `rows.SCHEMA`; the order of the rows given does not matter.
    """
    pool = latest(old, new)
    hashes = _hashes(pool)
    fresh = np.isin(hashes, _hashes(new))
    of_new = min(int(fresh.sum()), max(cap - cap // 2, cap - int((~fresh).sum())))
    order = np.argsort(keys(hashes, REFERENCE), kind="stable")
    chosen = [*order[fresh[order]][:of_new], *order[~fresh[order]][: cap - of_new]]
    return pool.take(pa.array(_by_key(pool, np.asarray(chosen, dtype=np.int64), REFERENCE)))


def _hashes(table: pa.Table) -> np.ndarray:
    return np.asarray(table.column("hash").to_numpy(), dtype=np.uint64)


def latest(*tables: pa.Table) -> pa.Table:
    """All rows of the tables, each text once: the last one counts, because its label may be a
    correction. In the order of their hashes."""
    both = pa.concat_tables([table.select(rows.SCHEMA.names).cast(rows.SCHEMA) for table in tables])
    _, last = np.unique(_hashes(both)[::-1], return_index=True)
    return both.take(pa.array(len(both) - 1 - last))


def _by_key(table: pa.Table, chosen: np.ndarray, purpose: int) -> np.ndarray:
    return np.asarray(chosen[np.argsort(keys(_hashes(table)[chosen], purpose), kind="stable")])


def _draw(pool: pa.Table, size: int, floor: int, purpose: int) -> pa.Table:
    """The rows with the smallest keys, after the first `floor` rows of each label, which come in turn."""
    key = keys(_hashes(pool), purpose)
    label = pool.column("label").combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    order = np.lexsort((key, label))
    starts = np.flatnonzero(np.r_[True, np.diff(label[order]) != 0]) if len(order) else order
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    chosen = np.lexsort((key, np.minimum(rank, floor)))[:size]
    return pool.take(pa.array(_by_key(pool, chosen, purpose)))
