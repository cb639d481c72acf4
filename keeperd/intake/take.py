"""Files one by one: copied, hashed, unpacked, read into the spool, or refused with a reason."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from keeperd.api import JSON, BadInputError, BadRow, Context, Row, Stopped
from keeperd.config import Intake
from keeperd.folders import Found, KnownFiles, Opener, UnreadableError, check_unchanged
from keeperd.intake.copy import copy, unpack
from keeperd.intake.reading import FileRows
from keeperd.intake.spool import Spool

MAX_REASON = 500
ROWS_BETWEEN_LOOKS = 1024


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What became of a file: "accepted", "duplicate" or "quarantined", and why."""

    file: Found
    status: str
    sha256: str | None = None
    reason: str | None = None


@dataclass
class Taken:
    """What became of all files. `waiting` counts those left for the next intake; `problems` says
    why, a line each."""

    entries: list[FileEntry] = field(default_factory=list)
    bad_rows: int = 0
    waiting: int = 0
    problems: list[str] = field(default_factory=list)


class Quarantine:
    """The list of refused rows and files, a JSON line each."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()

    def add(self, path: str, row: int | None, reason: str) -> None:
        """Write down a row, or a whole file where `row` is None."""
        self._file.write(json_line({"path": path, "row": row, "reason": presentable(reason)}))

    def mark(self) -> int:
        """A place to go back to."""
        return self._file.tell()

    def back_to(self, mark: int) -> None:
        """Forget what was added since."""
        self._file.seek(mark)
        self._file.truncate()


def json_line(entry: dict[str, JSON]) -> bytes:
    """One line of a JSON-lines file, in ASCII."""
    return json.dumps(entry, allow_nan=False).encode() + b"\n"


def presentable(reason: str) -> str:
    """A reason that any file, database or terminal can hold: one line, valid Unicode, not long."""
    line = " ".join(reason.split()).encode("utf-8", "backslashreplace").decode()
    return line if len(line) <= MAX_REASON else f"{line[: MAX_REASON - 3]}..."


def look_up(context: Context) -> None:
    """Raise where the run should end."""
    if context.should_stop():
        raise Stopped("intake: stopped when asked to; nothing was taken")


class Taker:
    """Takes files into a spool.

    Args:
        known: the ledger's files.
        sources: watched folder -> what its rows have as their source, where they name none.
        until: share of the whole intake's progress that is done after the last file, 0..1.
    """

    def __init__(
        self,
        settings: Intake,
        rows: FileRows,
        known: KnownFiles,
        spool: Spool,
        quarantine: Quarantine,
        context: Context,
        sources: Mapping[str, str],
        until: float = 1.0,
    ) -> None:
        self._settings = settings
        self._rows = rows
        self._known = known
        self._spool = spool
        self._quarantine = quarantine
        self._context = context
        self._sources = sources
        self._until = until
        self._seen: dict[str, str] = {}

    def take_all(self, files: Sequence[Found]) -> Taken:
        """Take the files in this order, as many as the settings allow."""
        taken = Taken()
        with Opener() as opener:
            for index, file in enumerate(files):
                if index >= self._settings.max_files or self._spool.count >= self._settings.max_rows:
                    taken.waiting += len(files) - index
                    taken.problems.append(
                        f"{len(files) - index} more files wait for the next intake (max_files, max_rows)"
                    )
                    break
                look_up(self._context)
                self._context.progress(self._until * index / len(files), f"file {index + 1} of {len(files)}")
                try:
                    taken.entries.append(self._take(file, opener, taken))
                except UnreadableError as error:
                    taken.waiting += 1
                    taken.problems.append(f"{file.path}: {error}; it waits for the next intake")
        return taken

    def _take(self, file: Found, opener: Opener, taken: Taken) -> FileEntry:
        sha = None
        try:
            if file.refused:
                raise BadInputError(file.refused)
            self._rows.reader(file.path)
            if file.size > self._settings.max_file:
                raise BadInputError(f"larger than max_file ({self._settings.max_file} bytes)")
            content, sha = self._copied(file, opener)
            with content:
                if same := self._same_as(sha):
                    return FileEntry(file, "duplicate", sha, f"same content as {same}")
                taken.bad_rows += self._read(file, content, len(taken.entries))
        except BadInputError as error:
            reason = presentable(str(error))
            self._quarantine.add(file.path, None, reason)
            return FileEntry(file, "quarantined", sha, reason)
        self._seen[sha] = file.path
        return FileEntry(file, "accepted", sha)

    def _copied(self, file: Found, opener: Opener) -> tuple[BinaryIO, str]:
        descriptor = opener.open(file)
        try:
            content, sha = copy(descriptor, self._settings.max_file, self._context.workdir)
            try:
                check_unchanged(descriptor, file)
            except BaseException:
                content.close()
                raise
        finally:
            os.close(descriptor)
        return content, sha

    def _same_as(self, sha: str) -> str:
        if sha in self._seen:
            return self._seen[sha]
        return "a file taken before" if self._known.has_content(sha) else ""

    def _read(self, file: Found, content: BinaryIO, index: int) -> int:
        """Read a copy's rows into the spool; returns the number of bad ones.

        Raises:
            BadInputError: the file is refused; neither rows nor bad rows of it are left.
        """
        mark, first = self._quarantine.mark(), self._spool.count
        try:
            with unpacked(content, file.path, self._rows, self._settings, self._context.workdir) as plain:
                return self._read_plain(file, plain, index)
        except BadInputError:
            self._quarantine.back_to(mark)
            self._spool.forget_since(first)
            raise

    def _read_plain(self, file: Found, plain: BinaryIO, index: int) -> int:
        reader, _ = self._rows.reader(file.path)
        good, bad, first_fault = 0, 0, ""
        written = datetime.fromtimestamp(file.mtime_ns // 10**9, UTC)
        source = self._sources.get(file.folder)
        with closing(self._rows.rows(reader, plain)) as rows:
            for number, row in rows:
                if not number % ROWS_BETWEEN_LOOKS:
                    look_up(self._context)
                if isinstance(row, BadRow):
                    fault = row.reason
                else:
                    fault = self._spool.add(_placed(row, written, source), index, number)
                if fault:
                    bad += 1
                    first_fault = first_fault or f"row {number}: {fault}"
                    self._quarantine.add(file.path, number, fault)
                else:
                    good += 1
        if not good:
            raise BadInputError(f"no good row among {bad}; {first_fault}" if bad else "empty: no row in it")
        return bad


def _placed(row: Row, written: datetime, source: str | None) -> Row:
    """The row with what its file says of it: a row without a time is as old as the file."""
    if row.time is not None and row.source is not None:
        return row
    return Row(row.text, row.id, row.label, row.time or written, row.source or source)


def unpacked(content: BinaryIO, path: str, rows: FileRows, settings: Intake, workdir: Path) -> BinaryIO:
    """The copy of a file of this name with .gz or .zst undone, if it has one."""
    _, codec = rows.reader(path)
    if codec is None:
        return content
    return unpack(content, codec, settings.max_file, settings.max_ratio, workdir)
