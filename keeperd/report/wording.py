"""Text from outside made harmless and readable, and figures as people say them.

What comes from data (labels, file names, words that drifted, errors of libraries) may be hostile:
it can turn the direction of writing, hide in zero width, move a terminal's cursor, or be a
megabyte long. `visible` is the one way for it into a report; HTML is escaped on top of it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from rich.cells import cell_len, chop_cells

WIDTH = 78
"""Columns of text mail."""

_BREAKS = re.compile(r"\s+")
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_BLANK = {"\u115f", "\u1160", "\u2800", "\u3164", "\uffa0"}  # letters by name that look like nothing
_MARKS = 2
"""Combining marks kept on one letter; a pile of them covers the lines above."""


def visible(text: object, limit: int = 300) -> str:
    """Any text as one line of at most `limit` characters, in which nothing hides: characters that
    cannot be seen, or change how others are shown, stand there as [U+202E]."""
    kept: list[str] = []
    length = marks = 0
    for char in _BREAKS.sub(" ", str(text)[: 4 * limit]).strip():
        category = unicodedata.category(char)
        marks = marks + 1 if category in {"Mn", "Me"} else 0
        if marks > _MARKS:
            continue
        shown = f"[U+{ord(char):04X}]" if category in _HIDDEN or char in _BLANK else char
        length += len(shown)
        if length > limit:
            return "".join(kept)[: limit - 1] + "…"
        kept.append(shown)
    return "".join(kept) + ("…" if len(str(text)) > 4 * limit else "")


def ascii_line(text: str, limit: int) -> str:
    """A line fit for a mail header: printable ASCII, nothing that a parser could take for an
    encoded word or a new header."""
    plain = re.sub(r"[^\x20-\x7e]+", " ", text)
    while "=?" in plain:
        plain = plain.replace("=?", "")
    return _BREAKS.sub(" ", plain).strip()[:limit].rstrip()


def figure(value: Any) -> float | None:
    """A finite number, or None for whatever else stands in its place."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def portion(value: Any, least: float = 0.0) -> float | None:
    """A number between `least` and 1, or None: shares, and with -1 their differences."""
    number = figure(value)
    return number if number is not None and least <= number <= 1.0 else None


def whole(value: Any) -> int | None:
    """A whole number of a size that things are counted in, or None."""
    number = figure(value)
    return None if number is None or abs(number) >= 1e12 else round(number)


def count(number: int, noun: str) -> str:
    """ "1 row", "2,140 rows"."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def share(value: Any) -> str:
    """A share as people read it, with one decimal below ten percent only where it says more."""
    number = figure(value)
    if number is None:
        return "unknown"
    return f"{100 * number:.1f} %"


def moment(value: Any) -> str:
    """An ISO time as "22 Nov 2026, 02:14 UTC"."""
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        return "time unknown"
    at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    return f"{at.day} {at:%b %Y, %H:%M} UTC"


def capital(text: str | None) -> str:
    """The text with its first letter as a capital; nothing for None."""
    return text[:1].upper() + text[1:] if text else ""


def sentence(text: object, limit: int = 500) -> str:
    """Foreign words as a sentence: a capital at the start, a full stop at the end."""
    plain = visible(text, limit)
    if not plain:
        return ""
    return capital(plain) + ("" if plain[-1] in ".!?…:" else ".")


def wrap(text: str, indent: str = "", first: str | None = None, width: int = WIDTH) -> list[str]:
    """Lines of at most `width` columns; wide (CJK) letters count two, long words are cut."""
    lines: list[str] = []
    line = indent if first is None else first
    empty = True
    for word in text.split():
        for part in chop_cells(word, width - cell_len(indent)) or [word]:
            if not empty and cell_len(line) + 1 + cell_len(part) > width:
                lines.append(line)
                line, empty = indent, True
            line += part if empty else " " + part
            empty = False
    return [*lines, line] if not empty else lines


def columns(rows: Iterable[Iterable[str]], indent: str = "  ") -> list[str]:
    """A table of text: the first column to the left, the others to the right."""
    table = [list(row) for row in rows]
    if not table:
        return []
    widths = [max(cell_len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = []
    for row in table:
        pads = [width - cell_len(cell) for cell, width in zip(row, widths, strict=True)]
        right = [" " * pad + cell for cell, pad in zip(row[1:], pads[1:], strict=True)]
        lines.append((indent + "   ".join([row[0] + " " * pads[0], *right])).rstrip())
    return lines
