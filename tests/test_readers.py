"""The reader plugins, with real files' bytes, and the length filter."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from keeperd.api import BadInputError, BadRow, Columns, Reader, Row
from keeperd_plugins.csv_reader import CsvOptions, CsvReader
from keeperd_plugins.jsonl_reader import JsonlOptions, JsonlReader
from keeperd_plugins.length_filter import LengthFilter, LengthOptions
from keeperd_plugins.text_reader import TextOptions, TextReader
from tests.intake_kit import SCRIPTS


def read(reader: Reader[Any], content: bytes | str, columns: Columns | None = None) -> list[Row | BadRow]:
    data = content.encode() if isinstance(content, str) else content
    return list(reader.read(io.BytesIO(data), columns or Columns()))


def texts(rows: Sequence[Row | BadRow]) -> list[str]:
    return [row.text for row in rows if isinstance(row, Row)]


def reason(rows: Sequence[Row | BadRow], number: int = 1) -> str:
    (bad,) = [row for row in rows if isinstance(row, BadRow) and row.number == number]
    return bad.reason


# --- text -----------------------------------------------------------------------------------------


def test_text_takes_a_line_as_a_document() -> None:
    rows = read(TextReader(), "one\r\n\n  \ntwo\u2028and more\n" + "\n".join(SCRIPTS.values()))
    assert texts(rows) == ["one", "two\u2028and more", *SCRIPTS.values()]


def test_text_takes_a_file_as_a_document() -> None:
    reader = TextReader(TextOptions(document="file"))
    assert texts(read(reader, "one\n\ntwo\n")) == ["one\n\ntwo\n"]
    assert read(reader, " \n") == []
    limited = TextReader(TextOptions(document="file", max_line=3))
    assert "more than 3" in reason(read(limited, "long"))


def test_a_line_too_long_is_one_bad_row() -> None:
    rows = read(TextReader(TextOptions(max_line=5)), "short\n" + "x" * 100 + "\nagain\n12345\n")
    assert texts(rows) == ["short", "again", "12345"]
    assert "more than 5" in reason(rows, 2)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(encoding: str) -> None:
    content = "\n".join(SCRIPTS.values()).encode(encoding)
    assert texts(read(TextReader(), content)) == list(SCRIPTS.values())


@pytest.mark.parametrize(
    "content", ["plain".encode("utf-16-le"), bytes(range(256)) * 0 + b"\x7fELF" + b"\0" * 50]
)
def test_binary_data_is_refused(content: bytes) -> None:
    with pytest.raises(BadInputError, match="binary data"):
        read(TextReader(), content)


def test_utf16_cut_short_is_refused() -> None:
    with pytest.raises(BadInputError, match="not valid utf-16"):
        read(TextReader(), "some text".encode("utf-16")[:-1])


# --- JSON Lines -----------------------------------------------------------------------------------


def test_jsonl_reads_every_column() -> None:
    line = {"text": "hello", "id": 7, "label": True, "time": "2024-05-01T12:00:00+02:00", "source": "web"}
    assert read(JsonlReader(), json.dumps(line)) == [
        Row("hello", "7", "true", datetime(2024, 5, 1, 10, tzinfo=UTC), "web")
    ]


def test_jsonl_uses_the_operators_column_names() -> None:
    columns = Columns(text="body", label="class")
    line = {"body": "hello", "class": "a", "text": 5}
    assert read(JsonlReader(), json.dumps(line), columns) == [Row("hello", label="a")]


def test_jsonl_takes_late_labels() -> None:
    assert read(JsonlReader(), '{"id": "x", "label": "a"}\n{"id": "y", "label": "b", "text": null}') == [
        Row("", "x", "a"),
        Row("", "y", "b"),
    ]


@pytest.mark.parametrize("ascii_only", [True, False])
def test_jsonl_reads_every_script(ascii_only: bool) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=ascii_only) for text in SCRIPTS.values()]
    assert texts(read(JsonlReader(), "\n".join(lines))) == list(SCRIPTS.values())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"text": ' * 50_000, "nested too deeply"),
        ('{"text": "a", "x": NaN}', "NaN is not valid JSON"),
        ('{"text": "a", "x": -Infinity}', "-Infinity is not valid JSON"),
        ('{"text": "a", "x": 1e999}', "a number too large"),
        ('{"text": "a", "x": ' + "9" * 5000 + "}", "a whole number of 5000 digits"),
        ('{"text": "a", "text": "b"}', "the same key twice"),
        ('{"text": "a", "x": {"y": 1, "y": 2}}', "the same key twice"),
        ('["a"]', "not a JSON object"),
        ('"a"', "not a JSON object"),
        ('{"text": "a"', "not valid JSON"),
        ('{"text": "a"} {"text": "b"}', "not valid JSON: Extra data"),
        ('{"text": "a\tb"}', "not valid JSON: Invalid control character"),
        ('{"text": 5}', "the text is a number, not a string"),
        ('{"text": ["a"]}', "the text is a list"),
        ('{"text": "a", "label": 1.5}', "the label is a number"),
        ('{"text": "a", "id": {}}', "the id is a object"),
        ('{"text": "a", "time": "yesterday"}', "the time 'yesterday'"),
        ('{"text": "a", "time": 1e30}', "the time '1e+30'"),
        ('{"text": "a", "time": true}', "the time 'True'"),
    ],
)
def test_jsonl_refuses_one_line_and_reads_on(line: str, expected: str) -> None:
    rows = read(JsonlReader(), f'{{"text": "before"}}\n{line}\n{{"text": "after"}}')
    assert texts(rows) == ["before", "after"]
    assert reason(rows, 2).startswith(expected)


def test_jsonl_limits_a_line() -> None:
    rows = read(JsonlReader(JsonlOptions(max_line=50)), '{"text": "' + "x" * 90 + '"}\n{"text": "after"}\n')
    assert texts(rows) == ["after"]
    assert "more than 50" in reason(rows)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-05-01", datetime(2024, 5, 1, tzinfo=UTC)),
        ("20240501", datetime(2024, 5, 1, tzinfo=UTC)),
        ("2024-05-01T10:00:00Z", datetime(2024, 5, 1, 10, tzinfo=UTC)),
        ("2024-05-01 10:00:00.5", datetime(2024, 5, 1, 10, 0, 0, 500_000, tzinfo=UTC)),
        (1_700_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("1700000000", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (1_700_000_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (1_700_000_000_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (1_700_000_000_000_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (1_700_000_000.25, datetime(2023, 11, 14, 22, 13, 20, 250_000, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("", None),
        (None, None),
    ],
)
def test_times(value: object, expected: datetime | None) -> None:
    (row,) = read(JsonlReader(), json.dumps({"text": "a", "time": value}))
    assert isinstance(row, Row), row
    assert row.time == expected


# --- CSV ------------------------------------------------------------------------------------------


def test_csv_reads_columns_in_any_order() -> None:
    content = 'label,extra,text,time\r\nspam,1,"hello, ""you""\nthere",2024-05-01\r\n\r\n,2,second,\r\n'
    assert read(CsvReader(), content) == [
        Row('hello, "you"\nthere', label="spam", time=datetime(2024, 5, 1, tzinfo=UTC)),
        Row("second"),
    ]


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_csv_finds_the_delimiter(separator: str) -> None:
    content = f"text{separator}label\nhello{separator}a\n"
    assert read(CsvReader(), content) == [Row("hello", label="a")]


def test_a_single_column_may_hold_commas() -> None:
    assert texts(read(CsvReader(), "text\nhello, world; and all\n")) == ["hello, world; and all"]


def test_csv_can_be_told_its_dialect() -> None:
    reader = CsvReader(CsvOptions(delimiter="tab", quotes=False))
    assert texts(read(reader, 'text\tlabel\n"Hello" he said\ta\n')) == ['"Hello" he said']


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_csv_reads_every_script_and_mark(encoding: str) -> None:
    content = "text,label\n" + "".join(f'"{text}",a\n' for text in SCRIPTS.values())
    assert texts(read(CsvReader(), content.encode(encoding))) == list(SCRIPTS.values())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x" * 131_073 + ",a", "a cell of 131073 characters"),
        ('"' + "x\n" * 70_000 + '",a', "a cell of 140000 characters"),
        ("one,two,three", "3 cells, where the header has 2"),
        ("one", "1 cells, where the header has 2"),
        ('"one" more,a', "not valid CSV"),
    ],
)
def test_csv_refuses_one_record_and_reads_on(line: str, expected: str) -> None:
    rows = read(CsvReader(), f"text,label\nbefore,a\n{line}\nafter,b\n")
    assert texts(rows) == ["before", "after"]
    assert reason(rows, 2).startswith(expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b\n1,2\n", "no column 'text' among: a, b"),
        ("text,text\n1,2\n", "two columns are called 'text'"),
        ('text,label\n"never closed,a\nb,c\n', "a quote in row 1 is never closed"),
        ('"text', "the header cannot be read"),
        ("text\nplain".encode("utf-16-le"), "binary data"),
    ],
)
def test_csv_refuses_the_file(content: str | bytes, expected: str) -> None:
    with pytest.raises(BadInputError, match=expected):
        read(CsvReader(), content)


def test_csv_takes_late_labels_and_an_empty_file() -> None:
    assert read(CsvReader(), "id,label\n1,a\n") == [Row("", "1", "a")]
    assert read(CsvReader(), "") == []


# --- length filter --------------------------------------------------------------------------------


def test_length_filter_passes_refuses_and_numbers() -> None:
    rows: list[Row | BadRow] = [
        Row("long enough"),
        BadRow(2, "bad before"),
        Row("  x  "),
        Row("", "id", "late"),
        Row("y" * 50),
    ]
    options = LengthOptions(min_characters=2, max_characters=40)
    assert list(LengthFilter(options).apply(rows)) == [
        Row("long enough"),
        BadRow(2, "bad before"),
        BadRow(3, "a text of 1 characters (min_characters 2)"),
        Row("", "id", "late"),
        BadRow(5, "a text of 50 characters (max_characters 40)"),
    ]
