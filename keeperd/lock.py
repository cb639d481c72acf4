"""The one lock of a state directory: whoever holds it may write, everybody else asks the holder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keeperd.api import KeeperdError


class HeldError(KeeperdError):
    """Another process holds the lock; trying again later may help."""


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock file for the length of the block; the system lets go of it when we die.

    Raises:
        HeldError: another process holds it.
        KeeperdError: the file cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    except OSError as error:
        raise KeeperdError(
            f"{path}: cannot be locked: {error.strerror}; run as the user that owns the state"
        ) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise HeldError(
                f"{path}: held by process {holder}; wait for it to end, or ask it through its socket"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
