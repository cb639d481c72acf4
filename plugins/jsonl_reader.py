"""JSON Lines: an object a line, its columns by name."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from pydantic import Field

from keeperd.api import BadRow, Columns, Component, Options, Reader, Row, hookimpl
from keeperd_plugins._records import MAX_LINE, MAX_NUMBER, as_row, lines, opened_text


class JsonlOptions(Options):
    """Options of the JSON Lines reader."""

    max_line: int = Field(MAX_LINE, ge=1, description="most characters of a line that are held in memory")


class JsonlReader(Reader[JsonlOptions]):
    """A row with a label or an id may have them as strings or whole numbers."""

    name = "jsonl"
    suffixes = (".jsonl", ".ndjson")
    Options = JsonlOptions

    def read(self, file: BinaryIO, columns: Columns) -> Iterator[Row | BadRow]:
        """Blank lines are no rows; a line that is no object is a bad one."""
        decoder = json.JSONDecoder(
            object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_float, parse_int=_int
        )
        number = 0
        with opened_text(file, newline="\n") as text:
            for line in lines(text, self.options.max_line):
                if line is not None and not line.strip():
                    continue
                number += 1
                if line is None:
                    yield BadRow(number, f"a line of more than {self.options.max_line} characters (max_line)")
                else:
                    yield _row(decoder, number, line, columns)


def _row(decoder: json.JSONDecoder, number: int, line: str, columns: Columns) -> Row | BadRow:
    try:
        values = decoder.decode(line)
    except RecursionError:
        return BadRow(number, "nested too deeply")
    except json.JSONDecodeError as error:
        return BadRow(number, f"not valid JSON: {error.msg} at column {error.colno}")
    except ValueError as error:
        return BadRow(number, str(error))
    if not isinstance(values, dict):
        return BadRow(number, "not a JSON object")
    get = values.get
    return as_row(
        number, get(columns.text), get(columns.label), get(columns.id), get(columns.time), get(columns.source)
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("the same key twice in an object")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number too large")
    return value


def _int(digits: str) -> int:
    if len(digits) > MAX_NUMBER:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


@hookimpl
def keeperd_components() -> list[type[Component[JsonlOptions]]]:
    """The components of this plugin."""
    return [JsonlReader]
