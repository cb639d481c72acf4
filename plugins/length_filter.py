"""Drops texts that are too short or too long to learn from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import Field

from keeperd.api import BadRow, Component, Filter, Options, Row, hookimpl


class LengthOptions(Options):
    """Options of the length filter."""

    min_characters: int = Field(1, ge=1, description="shorter texts are refused")
    max_characters: int = Field(100_000, ge=1, description="longer texts are refused")


class LengthFilter(Filter[LengthOptions]):
    """Counts characters (code points), white space at both ends aside."""

    name = "length"
    Options = LengthOptions

    def apply(self, rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
        """Late labels, which have no text, pass."""
        least, most = self.options.min_characters, self.options.max_characters
        for number, row in enumerate(rows, 1):
            if isinstance(row, BadRow) or not row.text:
                yield row
                continue
            length = len(row.text.strip())
            if least <= length <= most:
                yield row
            elif length < least:
                yield BadRow(number, f"a text of {length} characters (min_characters {least})")
            else:
                yield BadRow(number, f"a text of {length} characters (max_characters {most})")


@hookimpl
def keeperd_components() -> list[type[Component[LengthOptions]]]:
    """The components of this plugin."""
    return [LengthFilter]
