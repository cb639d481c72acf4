"""A dated file in blocks of days: what a replay goes through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from keeperd import config, intake, rows
from keeperd.api import BadInputError, Window
from keeperd.drift.window import Load

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_ROWS = 50
"""Days with fewer rows are joined."""
MOST_ROWS = 500
"""Rows of a block that are looked at, evenly spread."""
LEAST_BLOCKS = 14
"""Fewer blocks of a reference say nothing reliable about how days differ."""


@dataclass(frozen=True)
class Block:
    """Rows of one day or of a few days in a row.

    Attributes:
        first, last: the days (UTC), as "2026-11-26".
        days: different days with rows.
        rows: how many rows there were; the window has at most `MOST_ROWS` of them.
    """

    first: str
    last: str
    days: int
    rows: int
    window: Window


@dataclass(frozen=True)
class History:
    """A file in order of time.

    Attributes:
        reference: its first blocks.
        later: the blocks after them.
        rows: {"reference", "watched", "left" (after the last whole block), "bad" (refused by the
            reader), "undated" (without a time)}.
    """

    reference: list[Block]
    later: list[Block]
    rows: dict[str, int]


def read(path: Path, settings: config.Intake, load: Load, blocks: int) -> History:
    """The file's blocks, the first `blocks` of them as the reference. Rows without a time are left out,
    and rows that are not in order of time are put in order.

    Raises:
        BadInputError: the file cannot be read, no row has a time, or there are too few blocks.
    """
    table, bad = intake.read_file(path, settings, cast("Any", load))
    column = settings.columns.time
    dated = table.filter(table.column("time").is_valid()).sort_by("time")
    if not len(dated):
        first = f"; row {bad[0].number}: {bad[0].reason}" if bad else ""
        why = f"no usable row has a time in {column!r}{first}"
        raise BadInputError(f"{path}: {why}; name the column (--time)")
    days = [list(run) for _, run in groupby(enumerate(_dates(dated)), lambda pair: pair[1])]
    parts = [(run[0][1], run[0][0], len(run)) for run in days]
    before = list(_joined(parts, 1, blocks))
    used = sum(len(one) for one in before)
    each = max(1, round(used / max(len(before), 1)))
    later = list(_joined(parts[used:], each))
    if len(before) < blocks or not later:
        raise BadInputError(f"{path}: {_too_few(len(before) + len(later), len(parts), blocks)}")
    reference, watched = ([_block(dated, one) for one in some] for some in (before, later))
    counts = {"reference": sum(one.rows for one in reference), "watched": sum(one.rows for one in watched)}
    left = len(dated) - counts["reference"] - counts["watched"]
    undated = len(table) - len(dated)
    return History(reference, watched, {**counts, "left": left, "bad": len(bad), "undated": undated})


def window_of(blocks: Sequence[Block]) -> Window:
    """All their rows as one window."""
    parts = [one.window for one in blocks]
    return Window(
        texts=[value for one in parts for value in one.texts],
        labels=[value for one in parts for value in one.labels],
        times=[value for one in parts for value in one.times],
        sources=[value for one in parts for value in one.sources],
        ids=[value for one in parts for value in one.ids],
    )


def _dates(table: pa.Table) -> list[str]:
    times: list[datetime] = table.column("time").to_pylist()
    return [time.astimezone(UTC).date().isoformat() for time in times]


Part = tuple[str, int, int]
"""A day: its date, the number of its first row, and how many rows it has."""


def _joined(parts: Sequence[Part], days: int, most: int | None = None) -> Iterator[list[Part]]:
    """Days in order, joined until there are `BLOCK_ROWS` rows of so many days; what is left is no block."""
    block: list[Part] = []
    found = 0
    for part in parts:
        block.append(part)
        if len(block) >= days and sum(rows for _, _, rows in block) >= BLOCK_ROWS:
            yield block
            block, found = [], found + 1
            if found == most:
                return


def _block(table: pa.Table, parts: Sequence[Part]) -> Block:
    start, count = parts[0][1], sum(rows for _, _, rows in parts)
    kept = [start + number * count // MOST_ROWS for number in range(MOST_ROWS)]
    chosen = table.slice(start, count) if count <= MOST_ROWS else table.take(kept)
    return Block(parts[0][0], parts[-1][0], len(parts), count, rows.window(chosen))


def _too_few(blocks: int, days: int, wanted: int) -> str:
    """What is there, and what to do."""
    have = "one block" if blocks == 1 else f"{blocks} blocks"
    fits = blocks - 1
    fewer = f", or take fewer of them (--reference {fits})" if LEAST_BLOCKS <= fits < wanted else ""
    return (
        f"{have} of at least {BLOCK_ROWS} rows from {days} days; a replay needs {wanted + 1}: {wanted} as the"
        f" reference and one to watch, {LEAST_BLOCKS + 1} at the very least; give it more rows{fewer}"
    )
