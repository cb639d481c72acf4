"""Watched folders -> what is new in them, found and opened without trusting anything in them.

Everything there is hostile: links, pipes, files that change or are swapped while they are looked
at. A file is opened component by component without following links, and checked on the open
descriptor. Standard library alone, so that the daemon's rescan can use it too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from keeperd.api import BadInputError

DEPTH = 64
UNFINISHED = (".tmp", ".part", "~")
INODE = 2**63 - 1  # SQLite's integers are signed; some file systems use all 64 bits

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY


class KnownFiles(Protocol):
    """What earlier intakes have committed; the ledger has it."""

    def is_known(self, path: str, size: int, mtime_ns: int, inode: int) -> bool:
        """True where exactly this state of the file was committed, be it accepted, duplicate or
        quarantined."""

    def has_content(self, sha256: str) -> bool:
        """True where an accepted file has had these bytes."""


class UnreadableError(Exception):
    """A file cannot be read or taken now, but perhaps later; says why in a few words."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file that no earlier intake has seen in this state.

    Attributes:
        path: its path as text; bytes that are not UTF-8 are escaped.
        folder: the watched folder it was found in.
        name: its real path below that folder.
        refused: why it will not be read, or "".
        state: "ready", "unsettled" (it may still be written) or "unreadable" (for this user).
        chosen: named by the operator, so it may be a hard link.
    """

    path: str
    folder: str
    name: str
    size: int
    mtime_ns: int
    inode: int
    refused: str = ""
    state: str = "ready"
    chosen: bool = False


@dataclass
class Scan:
    """A look at the watched folders: files to take sorted by path, the number of files that have
    not settled, and one line for each folder or file that could not be looked at."""

    files: list[Found] = field(default_factory=list)
    waiting: int = 0
    problems: list[str] = field(default_factory=list)


def printable(path: str) -> str:
    """A path as valid Unicode; bytes that are not UTF-8 appear as \\xNN."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "backslashreplace")


def scan(folders: Sequence[str], known: KnownFiles, now: float, settle_s: float) -> Scan:
    """Find every file that is new or has changed, below every folder, without reading any.

    Args:
        now: the time, in seconds since the epoch.
        settle_s: a file must have been left alone this many seconds.
    """
    result = Scan()
    found: dict[str, Found] = {}  # by path, as watched folders may lie within each other
    for file in new_files(folders, known, now, settle_s, result.problems):
        if file.state == "ready":
            found[file.path] = file
            continue
        result.waiting += 1
        if file.state == "unreadable":
            result.problems.append(f"{file.path}: not readable for this user; it waits for the next intake")
    result.files = [found[path] for path in sorted(found)]
    return result


def new_files(
    folders: Sequence[str], known: KnownFiles, now: float, settle_s: float, problems: list[str]
) -> Iterator[Found]:
    """The same, one by one and in no order, with those that are not ready; for a look that ends at
    the first. `problems` gets a line for each folder that cannot be looked at."""
    for folder in folders:
        for name, status in _walk(folder, problems):
            path, inode = printable(f"{folder.rstrip('/')}/{name}"), status.st_ino & INODE
            if known.is_known(path, status.st_size, status.st_mtime_ns, inode):
                continue
            refused = _refusal(status)
            if not _settled(status, now, settle_s):
                state = "unsettled"
            elif refused or os.access(f"{folder}/{name}", os.R_OK, effective_ids=True):
                state = "ready"
            else:
                state = "unreadable"
            yield Found(path, folder, name, status.st_size, status.st_mtime_ns, inode, refused, state)


def _walk(folder: str, problems: list[str]) -> Iterator[tuple[str, os.stat_result]]:
    try:
        root = os.open(folder, _FOLDER)
    except OSError as error:
        problems.append(f"{printable(folder)}: {error.strerror}; nothing is taken from this folder")
        return
    try:
        folders = [""]
        while folders:
            below = folders.pop()
            try:
                descriptor = _open_below(root, below)
                try:
                    with os.scandir(descriptor) as entries:
                        yield from _entries(entries, below, folders)
                finally:
                    os.close(descriptor)
            except FileNotFoundError:
                continue  # removed while we looked
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    raise
                problems.append(f"{printable(f'{folder}/{below}')}: {error.strerror}")
    finally:
        os.close(root)


def _entries(
    entries: Iterator[os.DirEntry[str]], below: str, folders: list[str]
) -> Iterator[tuple[str, os.stat_result]]:
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower().endswith(UNFINISHED):
            continue
        name = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir(follow_symlinks=False):
            if name.count("/") >= DEPTH:
                raise OSError(errno.ELOOP, f"more than {DEPTH} folders deep")
            folders.append(name)
            continue
        try:
            yield name, entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue


def _open_below(root: int, below: str) -> int:
    """Open a folder below another without following any link on the way."""
    current = os.dup(root)
    for part in below.split("/") if below else ():
        try:
            following = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=current)
        finally:
            os.close(current)
        current = following
    return current


def _settled(status: os.stat_result, now: float, settle_s: float) -> bool:
    changed = status.st_mtime
    if changed > now:  # a time copied from elsewhere; the inode's own cannot be set
        changed = status.st_ctime
    if status.st_nlink > 1:  # may be a publication by link() and unlink() under way
        changed = max(changed, status.st_ctime)
    return now - changed >= settle_s


def _refusal(status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return "a symbolic link; copy the file itself"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if status.st_nlink > 1:
        return "a hard link: the same file has another name; copy it instead"
    if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
        return "has the setuid or setgid bit"
    return ""


class Opener:
    """Opens found files one after the other, keeping the last folder open."""

    def __init__(self) -> None:
        self._at: tuple[str, str] | None = None
        self._folder = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._at is not None:
            os.close(self._folder)
            self._at = None

    def open(self, file: Found) -> int:
        """A descriptor of exactly the file that was found.

        Raises:
            UnreadableError: it has gone or changed since, or must not be read.
            BadInputError: it is of a kind that is refused.
        """
        below, _, name = file.name.rpartition("/")
        try:
            if self._at != (file.folder, below):
                self._leave()
                root = os.open(file.folder, _FOLDER)
                try:
                    self._folder = _open_below(root, below)
                finally:
                    os.close(root)
                self._at = (file.folder, below)
            descriptor = os.open(name, _OPEN | os.O_NOFOLLOW, dir_fd=self._folder)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            raise UnreadableError(error.strerror) from error
        try:
            check_unchanged(descriptor, file)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def check_unchanged(descriptor: int, file: Found) -> None:
    """Raise where the open file is not, or no longer, the one that was found."""
    status = os.fstat(descriptor)
    if (refusal := _refusal(status)) and not (file.chosen and stat.S_ISREG(status.st_mode)):
        raise BadInputError(refusal)
    if (status.st_ino & INODE, status.st_size, status.st_mtime_ns) != (file.inode, file.size, file.mtime_ns):
        raise UnreadableError("changed while it was looked at")


def found_by_operator(path: Path) -> Found:
    """A file that the operator named: links are followed, as nobody else chose them.

    Raises:
        BadInputError: it cannot be found or is not a plain file.
    """
    try:
        real = path.resolve(strict=True)
        status = real.stat()
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}; give the path of a readable file") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadInputError(f"{path}: not a regular file; give the path of a file with rows")
    return Found(
        printable(str(path)),
        str(real.parent),
        real.name,
        status.st_size,
        status.st_mtime_ns,
        status.st_ino & INODE,
        chosen=True,
    )
