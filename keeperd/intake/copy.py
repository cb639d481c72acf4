"""An open file -> a private copy of its bytes, hashed, and unpacked within limits."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

from keeperd.api import BadInputError
from keeperd.folders import UnreadableError

CHUNK = 1 << 20
IN_MEMORY = 8 << 20  # larger copies go to a temporary file in the work folder
RATIO_FROM = 4 << 20  # output below this is never called a bomb: small files may be very regular
PACKED = {".gz": "gzip", ".zst": "zstd"}


def _temporary(workdir: Path) -> BinaryIO:
    return cast("BinaryIO", tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(workdir)))


def copy(descriptor: int, limit: int, workdir: Path) -> tuple[BinaryIO, str]:
    """A private copy, positioned at its start, and the sha256 hex of its bytes.

    Raises:
        BadInputError: more than `limit` bytes.
        UnreadableError: the file cannot be read.
    """
    target = _temporary(workdir)
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
    target = _temporary(workdir)
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
