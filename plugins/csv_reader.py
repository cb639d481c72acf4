"""Tables as text, .csv and .tsv: a header line, then a row a record."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Literal

from pydantic import Field

from keeperd.api import BadInputError, BadRow, Columns, Component, Options, Reader, Row, hookimpl
from keeperd_plugins._records import MAX_LINE, as_row, opened_text

DELIMITERS = {"comma": ",", "tab": "\t", "semicolon": ";"}


class CsvOptions(Options):
    """Options of the CSV reader."""

    delimiter: Literal["auto", "comma", "tab", "semicolon"] = Field(
        "auto", description="what separates columns; auto: the one that splits the header into known columns"
    )
    quotes: bool = Field(True, description='whether a cell may be quoted ("a, b")')
    max_field: int = Field(131_072, ge=1, description="most characters of a cell")


class CsvReader(Reader[CsvOptions]):
    """Rows of a table with a header."""

    name = "csv"
    suffixes = (".csv", ".tsv")
    Options = CsvOptions

    def read(self, file: BinaryIO, columns: Columns) -> Iterator[Row | BadRow]:
        """Blank lines are no rows; a record with more or fewer cells than the header is a bad one."""
        with opened_text(file, newline="") as text, _field_limit():
            first = text.readline(MAX_LINE)
            text.seek(0)
            delimiter = self._delimiter(first, columns)
            if self.options.quotes:
                records = csv.reader(text, delimiter=delimiter, strict=True)
            else:
                records = csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
            try:
                header = next(records, None)
            except csv.Error as error:
                raise BadInputError(f"the header cannot be read: {error}") from error
            if header is not None:
                places = _places(header, columns)
                yield from self._rows(records, len(header), places)

    def _delimiter(self, first: str, columns: Columns) -> str:
        if self.options.delimiter != "auto":
            return DELIMITERS[self.options.delimiter]
        known = {columns.text, columns.id, columns.label, columns.time, columns.source}

        def hits(delimiter: str) -> int:
            return len(known & {cell.strip().strip('"') for cell in first.split(delimiter)})

        # One column alone: its text is full of commas, but hardly of tabs.
        alone = first.strip().strip('"') in known
        return "\t" if alone else max(DELIMITERS.values(), key=hits)

    def _rows(
        self, records: Iterator[list[str]], width: int, places: Sequence[int]
    ) -> Iterator[Row | BadRow]:
        number = 0
        while True:
            try:
                cells = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                number += 1
                if "unexpected end of data" in str(error):
                    raise BadInputError(f"a quote in row {number} is never closed") from error
                if "field larger than" in str(error):
                    size = f"more than {MAX_LINE} characters"
                    raise BadInputError(f"a cell of {size} in row {number}; a quote never closed?") from error
                yield BadRow(number, f"not valid CSV: {error}")
                continue
            if not cells:
                continue
            number += 1
            if len(cells) != width:
                yield BadRow(number, f"{len(cells)} cells, where the header has {width}")
            elif (longest := max(map(len, cells))) > self.options.max_field:
                yield BadRow(number, f"a cell of {longest} characters (max_field {self.options.max_field})")
            else:
                text, label, identity, time, source = (
                    cells[place] if place >= 0 else None for place in places
                )
                yield as_row(number, text, label, identity, time, source)


def _places(header: list[str], columns: Columns) -> list[int]:
    """Where text, label, id, time and source are in a record; -1 for one that is missing."""
    names = [cell.strip() for cell in header]
    wanted = (columns.text, columns.label, columns.id, columns.time, columns.source)
    if twice := [name for name in wanted if names.count(name) > 1]:
        raise BadInputError(f"two columns are called {twice[0]!r}")
    if columns.text not in names and not {columns.id, columns.label} <= set(names):
        shown = ", ".join(names)[:200]
        raise BadInputError(f"no column {columns.text!r} among: {shown}; name yours in intake.columns")
    return [names.index(name) if name in names else -1 for name in wanted]


@contextmanager
def _field_limit() -> Iterator[None]:
    """Above its limit the csv module stops inside a record and takes the rest of it for the next
    one; so let it read on, and judge the cells afterwards."""
    before = csv.field_size_limit(MAX_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


@hookimpl
def keeperd_components() -> list[type[Component[CsvOptions]]]:
    """The components of this plugin."""
    return [CsvReader]
