"""Plain text files: a document a line, or a document a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Literal

from pydantic import Field

from keeperd.api import BadRow, Columns, Component, Options, Reader, Row, hookimpl
from keeperd_plugins._records import MAX_LINE, lines, opened_text


class TextOptions(Options):
    """Options of the text reader."""

    document: Literal["line", "file"] = Field("line", description="what one document is")
    max_line: int = Field(
        MAX_LINE, ge=1, description="most characters of a line or file that are held in memory"
    )


class TextReader(Reader[TextOptions]):
    """Unlabelled text."""

    name = "text"
    suffixes = (".txt",)
    Options = TextOptions

    def read(self, file: BinaryIO, columns: Columns) -> Iterator[Row | BadRow]:
        """Blank lines are no rows."""
        limit = self.options.max_line
        with opened_text(file, newline=None) as text:
            if self.options.document == "file":
                document = text.read(limit + 1)
                if len(document) > limit:
                    yield BadRow(1, f"more than {limit} characters (max_line)")
                elif document.strip():
                    yield Row(text=document)
                return
            number = 0
            for line in lines(text, limit):
                if line is not None and not line.strip():
                    continue
                number += 1
                if line is None:
                    yield BadRow(number, f"a line of more than {limit} characters (max_line)")
                else:
                    yield Row(text=line)


@hookimpl
def keeperd_components() -> list[type[Component[TextOptions]]]:
    """The components of this plugin."""
    return [TextReader]
