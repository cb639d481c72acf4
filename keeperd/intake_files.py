"""Watched folders -> what is new in them -> private, hashed copies.

Everything in a watched folder is hostile: links, pipes, files that change or are swapped while
they are looked at. A file is opened component by component without following links, checked on
the open descriptor, copied, and only the copy is used. Standard library alone (but for unpacking),
so that the daemon's rescan can use `scan`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from keeperd.api import BadInputError

CHUNK = 1 << 20
IN_MEMORY = 8 << 20  # larger copies go to a temporary file in the work folder
RATIO_FROM = 4 << 20  # output below this is never called a bomb: small files may be very regular
DEPTH = 64
UNFINISHED = (".tmp", ".part", "~")
PACKED = {".gz": "gzip", ".zst": "zstd"}

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
    """

    path: str
    folder: str
    name: str
    size: int
    mtime_ns: int
    inode: int
    refused: str = ""


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
    for folder in folders:
        for name, status in _walk(folder, result.problems):
            path = printable(f"{folder.rstrip('/')}/{name}")
            if path in found or known.is_known(path, status.st_size, status.st_mtime_ns, status.st_ino):
                continue
            if not _settled(status, now, settle_s):
                result.waiting += 1
                continue
            found[path] = Found(
                path, folder, name, status.st_size, status.st_mtime_ns, status.st_ino, _refusal(status)
            )
    result.files = [found[path] for path in sorted(found)]
    return result


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
    if refusal := _refusal(status):
        raise BadInputError(refusal)
    if (status.st_ino, status.st_size, status.st_mtime_ns) != (file.inode, file.size, file.mtime_ns):
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
        printable(str(path)), str(real.parent), real.name, status.st_size, status.st_mtime_ns, status.st_ino
    )


def copy(descriptor: int, limit: int, workdir: Path) -> tuple[BinaryIO, str]:
    """A private copy, positioned at its start, and the sha256 hex of its bytes.

    Raises:
        BadInputError: more than `limit` bytes.
        UnreadableError: the file cannot be read.
    """
    target: BinaryIO = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=workdir)  # type: ignore[assignment]
    sha, size = hashlib.sha256(), 0
    try:
        while True:
            try:
                chunk = os.read(descriptor, CHUNK)
            except OSError as error:
                raise UnreadableError(error.strerror) from error
            if not chunk:
                break
            size += len(chunk)
            if size > limit:
                raise BadInputError(f"larger than max_file ({limit} bytes)")
            sha.update(chunk)
            target.write(chunk)
    except BaseException:
        target.close()
        raise
    target.seek(0)
    return target, sha.hexdigest()


def unpack(packed: BinaryIO, codec: str, limit: int, ratio: int, workdir: Path) -> BinaryIO:
    """Undo gzip or zstd chunk by chunk; closes `packed`.

    Raises:
        BadInputError: damaged, cut short, or larger than the limits: `limit` bytes, or `ratio`
            times the packed size.
    """
    import pyarrow as pa

    size = packed.seek(0, os.SEEK_END)
    packed.seek(0)
    target: BinaryIO = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=workdir)  # type: ignore[assignment]
    try:
        with packed, pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), codec) as stream:
            while chunk := _unpacked(stream, codec):
                target.write(chunk)
                written = target.tell()
                if written > limit:
                    raise BadInputError(f"unpacks to more than max_file ({limit} bytes)")
                if written > max(RATIO_FROM, ratio * size):
                    raise BadInputError(f"unpacks to more than {ratio} times its size (max_ratio)")
    except BaseException:
        target.close()
        raise
    target.seek(0)
    return target


def _unpacked(stream: BinaryIO, codec: str) -> bytes:
    try:
        return stream.read(CHUNK)
    except OSError as error:  # pyarrow's only error here; the copy it reads is ours
        raise BadInputError(f"damaged or cut short: {codec}: {error}") from error
