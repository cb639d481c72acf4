"""Unix sockets: listen with the right mode from the first moment, connect, ask who is there."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODE = 0o660
BACKLOG = 64
LONGEST = 100
"""Bytes of a path that the system surely takes as a socket's address (108 with the terminator)."""

_CREDENTIALS = struct.Struct("3i")
"""pid, uid, gid: `struct ucred` of unix(7)."""


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """The path, or where it is too long for a socket's address, a short one to the same place."""
    if len(os.fsencode(path)) <= LONGEST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listen(path: Path) -> socket.socket:
    """A listening socket, mode 0660. It replaces a dead one of the same name by one rename, so
    the caller must know that nobody else listens there.

    Raises:
        OSError: it cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        os.fchmod(listener.fileno(), MODE)  # bind() takes the file's mode from here, less the umask
        with _address(temporary) as address:
            listener.bind(address)
        temporary.chmod(MODE)
        listener.listen(BACKLOG)
        temporary.rename(path)
    except OSError:
        listener.close()
        raise
    return listener


def connect(path: Path, timeout: float) -> socket.socket:
    """A connected socket.

    Raises:
        OSError: nobody listens there (FileNotFoundError, ConnectionRefusedError), it may not be
            used (PermissionError), or nobody answers in `timeout` seconds (TimeoutError).
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # A socket with Python's own timeout would not wait in a full queue, but fail at once.
    wait = struct.pack("ll", int(timeout), round(timeout % 1 * 1e6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
    try:
        with _address(path) as address:
            connection.connect(address)
    except BlockingIOError as error:
        connection.close()
        raise TimeoutError(error.errno, "nobody takes the connection") from error
    except OSError:
        connection.close()
        raise
    connection.settimeout(timeout)
    return connection


def peer_uid(connection: socket.socket | None) -> int | None:
    """The user at the other end, None where the system does not tell."""
    if connection is None:
        return None
    try:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    return int(_CREDENTIALS.unpack(credentials)[1])
