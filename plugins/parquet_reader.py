"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, BinaryIO

from keeperd.api import BadInputError, BadRow, Columns, Component, Options, Reader, Row, hookimpl
from keeperd_plugins._records import as_row

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 2048
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ParquetReader(Reader[Options]):
    """Columns by name: text and source strings, label and id strings or whole numbers, time a
    timestamp, an ISO 8601 string or a number since 1970."""

    name = "parquet"
    suffixes = (".parquet",)

    def read(self, file: BinaryIO, columns: Columns) -> Iterator[Row | BadRow]:
        """Yield the rows in their order, a few thousand in memory at a time."""
        import pyarrow as pa

        # In the order of `as_row`. The copy in `file` is keeperd's own: an OSError here means
        # damaged bytes as well.
        wanted = (columns.text, columns.label, columns.id, columns.time, columns.source)
        try:
            yield from _rows(file, wanted, columns)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise BadInputError(f"not a readable Parquet file: {str(error)[:200]}") from error


def _rows(file: BinaryIO, wanted: tuple[str, ...], columns: Columns) -> Iterator[Row | BadRow]:
    import pyarrow.parquet as pq

    present = pq.read_schema(file)
    file.seek(0)
    if twice := [name for name in wanted if present.names.count(name) > 1]:
        raise BadInputError(f"two columns are called {twice[0]!r}")
    there = [name for name in wanted if name in present.names]
    if columns.text not in there and not {columns.id, columns.label} <= set(there):
        shown = ", ".join(present.names)[:200]
        raise BadInputError(f"no column {columns.text!r} among: {shown}; name yours in intake.columns")
    for name in there:
        _check_type(name, present.field(name).type, columns)
    # A million equal megabyte texts are one dictionary entry in the file: keep it one in memory.
    strings = [name for name in there if _is_string(present.field(name).type)]
    table = pq.ParquetFile(file, read_dictionary=strings, pre_buffer=False)
    number = 0
    for batch in table.iter_batches(BATCH, columns=there, use_threads=False):
        values = {name: _values(batch.column(name)) for name in there}
        missing = [None] * batch.num_rows
        for cells in zip(*(values.get(name, missing) for name in wanted), strict=True):
            number += 1
            yield as_row(number, *cells)


def _is_string(kind: pa.DataType) -> bool:
    import pyarrow.types as t

    return bool(t.is_string(kind) or t.is_large_string(kind))


def _check_type(name: str, kind: pa.DataType, columns: Columns) -> None:
    import pyarrow.types as t

    plain = kind.value_type if t.is_dictionary(kind) else kind
    fits = _is_string(plain) or t.is_null(plain)
    if name in (columns.label, columns.id):
        fits = fits or t.is_integer(plain) or t.is_boolean(plain)
    elif name == columns.time:
        fits = (
            fits or t.is_timestamp(plain) or t.is_date(plain) or t.is_integer(plain) or t.is_floating(plain)
        )
    if not fits:
        raise BadInputError(f"column {name!r} is of type {kind}; save it as strings")


def _values(column: pa.Array) -> list[Any]:
    """Plain values; repeated strings share one object."""
    import pyarrow as pa
    import pyarrow.types as t

    if t.is_dictionary(column.type):
        used = column.indices.unique().drop_null()
        entries = dict(zip(used.to_pylist(), _values(column.dictionary.take(used)), strict=True))
        return [entries.get(place) for place in column.indices.to_pylist()]
    if t.is_timestamp(column.type) or t.is_date(column.type):
        # Zones are of no use here, and a made-up one would fail; nor does every number fit a date.
        zone = "UTC" if t.is_timestamp(column.type) and column.type.tz else None
        instants = column.cast(pa.timestamp("us", tz=zone), safe=False).cast(pa.int64())
        return [None if value is None else _instant(value) for value in instants.to_pylist()]
    values: list[Any] = column.to_pylist()
    return values


def _instant(microseconds: int) -> datetime | str:
    try:
        return EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return f"{microseconds} microseconds since 1970"


@hookimpl
def keeperd_components() -> list[type[Component[Options]]]:
    """The components of this plugin."""
    return [ParquetReader]
