"""Kept rows -> one frozen batch file, chunk by chunk, the same bytes for the same rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from keeperd.intake import fingerprint
from keeperd.intake.earlier import EarlierRow
from keeperd.intake.fingerprint import Bands, Hashes
from keeperd.intake.spool import NO_LABEL, Spool
from keeperd.rows import SCHEMA

GROUP_ROWS = 50_000
GROUP_BYTES = 64 << 20


def tables(
    spool: Spool, kept: npt.NDArray[np.bool_], labels: npt.NDArray[np.int32], holdout: float
) -> Iterator[pa.Table]:
    """The kept rows of a spool as tables with `rows.SCHEMA`, in their order.

    Args:
        kept: one flag a row of the spool.
        labels: one label number a row.
        holdout: share of the holdout split, 0..1.
    """
    names = pa.array(spool.vocabulary.names, pa.string())
    for first, chunk in spool.chunks():
        here = slice(first, first + chunk.num_rows)
        keep = kept[here]
        if not keep.any():
            continue
        codes = labels[here][keep]
        columns = {name: chunk.column(name) for name in ("id", "text", "time", "source")}
        columns = {name: column.filter(pa.array(keep)) for name, column in columns.items()}
        columns["label"] = names.take(pa.array(codes, mask=codes == NO_LABEL))
        yield _table(columns, spool.hashes[here][keep], spool.bands[here][keep], holdout)


def joined_table(earlier: Sequence[EarlierRow], labels: Sequence[str], holdout: float) -> pa.Table:
    """Rows of earlier batches with the labels that came for them now."""
    columns = {
        name: pa.array([getattr(row, name) for row in earlier], SCHEMA.field(name).type)
        for name in ("id", "text", "time", "source")
    }
    columns["label"] = pa.array(labels, pa.string())
    hashes = np.array([row.hash for row in earlier], np.uint64)
    bands = fingerprint.sketch([fingerprint.fold(row.text) for row in earlier])
    return _table(columns, hashes, bands, holdout)


def _table(columns: dict[str, pa.Array], hashes: Hashes, bands: Bands, holdout: float) -> pa.Table:
    sides = fingerprint.in_holdout(hashes, holdout).astype(np.int8)
    offsets = np.arange(len(bands) + 1, dtype=np.int32) * bands.shape[1]
    columns["split"] = pa.array(["train", "holdout"]).take(pa.array(sides))
    columns["hash"] = pa.array(hashes)
    columns["bands"] = pa.ListArray.from_arrays(offsets, bands.reshape(-1).astype(np.uint64))
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def write(path: Path, parts: Iterable[pa.Table]) -> int:
    """Write tables as row groups of a bounded size; no file where there is no row.

    Returns:
        the number of rows.
    """
    rows = 0
    writer: pq.ParquetWriter | None = None
    group: list[pa.Table] = []
    schema = SCHEMA.with_metadata({fingerprint.RECIPE_KEY: fingerprint.recipe()})

    def flush() -> None:
        nonlocal writer
        if writer is None:
            writer = pq.ParquetWriter(
                path, schema, compression="zstd", use_dictionary=["label", "source", "split"]
            )
        writer.write_table(pa.concat_tables(group).cast(schema))
        group.clear()

    try:
        for part in parts:
            rows += part.num_rows
            group.append(part)
            if sum(t.num_rows for t in group) >= GROUP_ROWS or sum(t.nbytes for t in group) >= GROUP_BYTES:
                flush()
        if group:
            flush()
    finally:
        if writer is not None:
            writer.close()
    return rows
