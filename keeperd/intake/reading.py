"""The rows of one file: reader, checks, filters.

Readers and filters are plugins; what they yield is checked here, whoever wrote them. A bad row
becomes a `BadRow` with a reason, a file that cannot be read a BadInputError, and no file ends the
process.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from datetime import datetime
from typing import Any, BinaryIO, Protocol, cast

from keeperd.api import BadInputError, BadRow, Columns, Component, Filter, KeeperdError, Options, Reader, Row
from keeperd.config import Intake
from keeperd.intake.copy import PACKED

MAX_NAME = 200
"""Most characters of an id, a label or a source."""

_NO_NAME = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Load(Protocol):
    """Makes a plugin component with the options that the configuration gives it."""

    def __call__(self, kind: str, name: str) -> Component[Any]:
        """A component of this kind ("reader", "filter") and name."""


class FileRows:
    """Turns files into checked rows, with the readers and filters of one model."""

    def __init__(self, settings: Intake, readers: Iterable[str], load: Load) -> None:
        self._settings = settings
        self._readers = [cast("Reader[Options]", load("reader", name)) for name in readers]
        self._filters = [cast("Filter[Options]", load("filter", name)) for name in settings.filters]

    def reader(self, path: str) -> tuple[Reader[Options], str | None]:
        """The reader for a file of this name, and the codec ("gzip", "zstd") to undo first.

        Raises:
            BadInputError: no reader takes such files.
        """
        name = path.rpartition("/")[2].lower()
        ending = next((ending for ending in PACKED if name.endswith(ending)), "")
        bare = name.removesuffix(ending)
        for reader in self._readers:
            if bare.endswith(reader.suffixes):
                return reader, PACKED.get(ending)
        known = ", ".join(sorted(suffix for reader in self._readers for suffix in reader.suffixes))
        raise BadInputError(f"no reader takes this kind of file; known are {known}, also with .gz or .zst")

    def rows(
        self, reader: Reader[Options], file: BinaryIO
    ) -> Generator[tuple[int, Row | BadRow], None, None]:
        """Every row with its number, from 1.

        Raises:
            BadInputError: the file as a whole is refused; rows that were yielded must be dropped.
        """
        raw = _guarded(reader, file, self._settings.columns)
        with closing(raw):
            rows = self._checked(raw)
            for component in self._filters:
                rows = component.apply(rows)
            if self._filters:
                rows = self._checked(rows)
            size = 0
            for number, row in enumerate(rows, 1):
                if number > self._settings.max_rows:
                    raise BadInputError(
                        f"more than {self._settings.max_rows} rows (max_rows); split the file"
                    )
                if isinstance(row, Row):
                    size += len(row.text)
                    if size > self._settings.max_file:
                        raise BadInputError(
                            f"its texts exceed max_file ({self._settings.max_file} characters)"
                        )
                    yield number, row
                else:
                    yield row.number, row

    def _checked(self, rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
        for number, row in enumerate(rows, 1):
            if isinstance(row, Row) and (fault := fault_of(row, self._settings.max_row)):
                yield BadRow(number, fault)
            elif isinstance(row, Row | BadRow):
                yield row
            else:
                raise BadInputError(f"row {number}: the plugin yields a {type(row).__name__}, not a Row")


def _guarded(
    reader: Reader[Options], file: BinaryIO, columns: Columns
) -> Generator[Row | BadRow, None, None]:
    """The reader's rows; a fault in the reader, which the file brought out, refuses the file."""
    rows = reader.read(file, columns)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except (KeeperdError, OSError, MemoryError):
            raise
        except Exception as error:  # the boundary to plugin code and hostile bytes
            reason = f"the {reader.name} reader failed: {type(error).__name__}: {error}"
            raise BadInputError(reason[:500]) from error
        yield row


def fault_of(row: Row, max_row: int) -> str:
    """What is wrong with a row, in a few words; "" where nothing is.

    Args:
        max_row: most bytes of the text in UTF-8.
    """
    if not isinstance(row.text, str):
        return "the text is not a string"
    for column, value in (("id", row.id), ("label", row.label), ("source", row.source)):
        if value is None:
            continue
        if not isinstance(value, str):
            return f"the {column} is not a string"
        if len(value) > MAX_NAME:
            return f"the {column} has more than {MAX_NAME} characters"
        if not value.strip():
            return f"the {column} is blank"
        if _NO_NAME.search(value):
            return f"the {column} has control characters or is not valid Unicode"
    if row.time is not None and not isinstance(row.time, datetime):
        return "the time is not a datetime"
    if not row.text and not (row.id and row.label):
        return "no text"
    if "\0" in row.text:
        return "a NUL character in the text"
    try:
        size = len(row.text) if row.text.isascii() else len(row.text.encode())
    except UnicodeEncodeError:
        return "the text is not valid Unicode (a lone surrogate, or bytes that are not UTF-8)"
    if size > max_row:
        return f"a text of {size} bytes (max_row {max_row})"
    return ""
