"""Windows of rows as Parquet files (zstd), for workers; the daemon never imports this.

A batch file has the columns of `SCHEMA`. Rows are in the order of arrival.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from keeperd.api import Window

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # the operator's id, or sha256 hex of the normalised text
        ("text", pa.string()),
        ("label", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("source", pa.string()),
        ("split", pa.string()),  # "train" or "holdout", fixed by the text's hash
        ("hash", pa.uint64()),  # of the normalised text; equal texts have equal hashes
        ("bands", pa.list_(pa.uint64())),  # MinHash bands; near duplicates share at least one
    ]
)


def write(path: Path, table: pa.Table) -> None:
    """Write a table as Parquet; the caller makes it durable."""
    pq.write_table(table, path, compression="zstd")


def read(paths: Iterable[Path], columns: Sequence[str] | None = None) -> pa.Table:
    """Read and concatenate files in this order; `columns` limits what is loaded."""
    wanted = list(columns) if columns else SCHEMA.names
    tables = [pq.read_table(path, columns=wanted) for path in paths]
    if not tables:
        return pa.schema([SCHEMA.field(name) for name in wanted]).empty_table()
    return pa.concat_tables(tables)


def window(table: pa.Table) -> Window:
    """A table's rows as a Window."""
    return Window(
        texts=table.column("text").to_pylist(),
        labels=table.column("label").to_pylist(),
        times=table.column("time").to_pylist(),
        sources=table.column("source").to_pylist(),
        ids=table.column("id").to_pylist(),
    )


def split(table: pa.Table, name: str) -> pa.Table:
    """The rows of one split, "train" or "holdout"."""
    return table.filter(pc.equal(table.column("split"), name))


def labelled(table: pa.Table) -> pa.Table:
    """The rows that have a label."""
    return table.filter(pc.is_valid(table.column("label")))
