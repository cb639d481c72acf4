"""The Parquet reader, with real and with damaged files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keeperd.api import BadInputError, BadRow, Columns, Reader, Row
from keeperd_plugins.parquet_reader import ParquetReader


def read(reader: Reader[Any], content: bytes | str, columns: Columns | None = None) -> list[Row | BadRow]:
    data = content.encode() if isinstance(content, str) else content
    return list(reader.read(io.BytesIO(data), columns or Columns()))


def texts(rows: Sequence[Row | BadRow]) -> list[str]:
    return [row.text for row in rows if isinstance(row, Row)]


def reason(rows: Sequence[Row | BadRow], number: int = 1) -> str:
    (bad,) = [row for row in rows if isinstance(row, BadRow) and row.number == number]
    return bad.reason


# --- Parquet --------------------------------------------------------------------------------------


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_parquet_reads_every_kind_of_column() -> None:
    moment = datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    content = parquet(
        text=["one", "two", None],
        label=pa.array([1, None, 2]),
        id=pa.array(["a", "b", "c"]).dictionary_encode(),
        time=pa.array([moment, None, moment], pa.timestamp("ns", tz="Europe/Paris")),
        other=[[1], [2], [3]],
    )
    utc = datetime(2024, 5, 1, 10, tzinfo=UTC)
    assert read(ParquetReader(), content) == [
        Row("one", "a", "1", utc),
        Row("two", "b"),
        Row("", "c", "2", utc),
    ]


@pytest.mark.parametrize(
    "times",
    [
        pa.array([date(2024, 5, 1)]),
        pa.array([datetime(2024, 5, 1)], pa.timestamp("s")),
        pa.array(["2024-05-01"]),
        pa.array([1_714_521_600]),
        pa.array([1_714_521_600.0]),
        pa.array([datetime(2024, 5, 1)], pa.timestamp("us", tz="No/Such_Zone")),
    ],
)
def test_parquet_times(times: pa.Array) -> None:
    assert read(ParquetReader(), parquet(text=["a"], time=times)) == [
        Row("a", time=datetime(2024, 5, 1, tzinfo=UTC))
    ]


def test_parquet_times_beyond_the_calendar_are_bad_rows() -> None:
    content = parquet(text=["a", "b"], time=pa.array([2**62, 0], pa.timestamp("us")))
    rows = read(ParquetReader(), content)
    assert reason(rows).startswith("the time '4611686018427387904 microseconds")
    assert texts(rows) == ["b"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (parquet(text=[1, 2]), "column 'text' is of type int64"),
        (parquet(text=["a"], label=[1.5]), "column 'label' is of type double"),
        (parquet(text=[b"\xff"]), "column 'text' is of type binary"),
        (parquet(body=["a"]), "no column 'text' among: body"),
        (parquet(text=["hello"] * 1000)[:-20], "not a readable Parquet file"),
        (b"PAR1" + b"junk" * 100 + b"PAR1", "not a readable Parquet file"),
        (b"", "not a readable Parquet file"),
        (parquet(text=pa.array([b"\xff\xfe"]).view(pa.string())), "not a readable Parquet file"),
    ],
)
def test_parquet_refuses_the_file(content: bytes, expected: str) -> None:
    with pytest.raises(BadInputError, match=expected):
        read(ParquetReader(), content)


def test_parquet_survives_damage_anywhere() -> None:
    content = parquet(text=[f"text {i}" for i in range(500)], label=["a", "b"] * 250)
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        try:
            rows = read(ParquetReader(), bytes(damaged))
        except BadInputError:
            continue
        assert len(rows) <= 500


def test_parquet_repeats_a_large_text_without_repeating_it_in_memory(tmp_path: Path) -> None:
    text = "x" * 1_000_000
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array([text]))
    content = parquet(text=column)
    assert len(content) < 100_000
    rows = ParquetReader().read(io.BytesIO(content), Columns())
    first, second = next(rows), next(rows)
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert first.text is second.text
