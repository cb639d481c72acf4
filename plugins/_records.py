"""What the readers share: bytes -> text whatever the encoding mark says, raw values -> a row."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import BinaryIO

from keeperd.api import BadInputError, BadRow, Row

# An escape such as \u4e2d takes six bytes for a character of three: a line may be far longer than
# the text in it. keeperd itself limits the text (intake.max_row); this only bounds memory.
MAX_LINE = 8 * 2**20
MAX_NUMBER = 40

_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)


@contextmanager
def opened_text(file: BinaryIO, newline: str | None) -> Iterator[io.TextIOWrapper]:
    """The file as text: UTF-8, or what its byte order mark says.

    Bytes that are not UTF-8 become lone surrogates, which keeperd refuses row by row.

    Raises:
        BadInputError: binary data, or UTF-16 or UTF-32 without a mark or cut short.
    """
    head = file.read(4096)
    file.seek(0)
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    # A single NUL is a bad row; many of them are no text at all.
    if encoding is None and head.count(0) * 10 > len(head):
        raise BadInputError("binary data, or UTF-16 without a byte order mark; save it as UTF-8")
    errors = "surrogatepass" if encoding in ("utf-16", "utf-32") else "surrogateescape"
    text = io.TextIOWrapper(file, encoding=encoding or "utf-8", errors=errors, newline=newline)
    try:
        yield text
    except UnicodeDecodeError as error:
        raise BadInputError(f"not valid {error.encoding} ({error.reason}); save it as UTF-8") from error
    finally:
        text.detach()


def lines(text: io.TextIOWrapper, limit: int) -> Iterator[str | None]:
    """Every line without its ending, None for one of more than `limit` characters."""
    while line := text.readline(limit + 2):
        bare = line.rstrip("\r\n")
        if len(bare) <= limit:
            yield bare
            continue
        while line and not line.endswith("\n"):
            line = text.readline(limit)
        yield None


def as_row(
    number: int, text: object, label: object, identity: object, time: object, source: object
) -> Row | BadRow:
    """A row of raw values; None and blank cells are missing ones."""
    if text is not None and not isinstance(text, str):
        return BadRow(number, f"the text is a {_kind(text)}, not a string")
    try:
        return Row(
            text=text or "",
            id=_name("id", identity),
            label=_name("label", label),
            time=as_time(time),
            source=_name("source", source),
        )
    except ValueError as error:
        return BadRow(number, str(error))


def _name(column: str, value: object) -> str | None:
    """A string; whole numbers and truth values are common labels and ids, and as clear."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise ValueError(f"the {column} is a {_kind(value)}, not a string or whole number")


def _kind(value: object) -> str:
    names = {
        bool: "truth value",
        int: "number",
        float: "number",
        list: "list",
        dict: "object",
        bytes: "byte string",
    }
    return names.get(type(value), type(value).__name__)


def as_time(value: object) -> datetime | None:
    """ISO 8601 (UTC where no zone is given) or a number since 1970: seconds, or milli-, micro- or
    nanoseconds where seconds would lie beyond the year 5000.

    Raises:
        ValueError: neither, in words for people.
    """
    if value is None or value == "":
        return None
    try:
        if isinstance(value, datetime):
            time = value
        elif isinstance(value, str) and not _is_epoch(value):
            time = datetime.fromisoformat(value.strip())
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            time = _from_epoch(float(value))
        else:
            raise ValueError
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"the time {str(value)[:MAX_NUMBER]!r} is neither ISO 8601 nor a number since 1970"
        ) from None


def _is_epoch(value: str) -> bool:
    number = value.strip().removeprefix("-")
    # Eight digits are the ISO date YYYYMMDD, four a year.
    return number.replace(".", "", 1).isdecimal() and number.isascii() and len(number.partition(".")[0]) > 8


def _from_epoch(number: float) -> datetime:
    if not abs(number) < 1e20:  # not even nanoseconds; nor infinity or NaN
        raise ValueError
    while abs(number) > 1e11:
        number /= 1000
    return datetime.fromtimestamp(number, UTC)
