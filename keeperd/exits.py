"""Exit codes of the command line; scripts and units rely on them."""

from __future__ import annotations

import errno
import sqlite3

from keeperd.api import BadInputError, KeeperdError
from keeperd.client import UnreachableError
from keeperd.config import ConfigError
from keeperd.lock import HeldError
from keeperd.store import StoreError, StoreUnavailableError
from keeperd.store.views import NotInLedgerError

OK, FAILURE, USAGE, DRIFT, PERSON, TEMPORARY, CONFIGURATION = 0, 1, 2, 3, 4, 75, 78

EXIT_CODES = {
    OK: "done, nothing is wrong",
    FAILURE: "it failed, or something is wrong",
    USAGE: "bad usage or input: an option, a file, a name that is not known",
    DRIFT: "drift was found (drift)",
    PERSON: "a person is needed (an approval waits; status --exit-code)",
    TEMPORARY: "try again later: no daemon answers, or another process holds the lock",
    CONFIGURATION: "the configuration, or the ledger, cannot be used",
}
"""Code -> what it says. 75 and 78 are those of sysexits.h; systemd does not restart after 78."""

_CODES: tuple[tuple[type[Exception], int], ...] = (
    (ConfigError, CONFIGURATION),
    (StoreError, CONFIGURATION),
    (HeldError, TEMPORARY),
    (UnreachableError, TEMPORARY),
    (NotInLedgerError, USAGE),
    (BadInputError, USAGE),
    (KeeperdError, FAILURE),
)


_MACHINE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO}


def exit_code(error: KeeperdError) -> int:
    """The code of an expected error."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


def of_system(error: OSError) -> KeeperdError | None:
    """What the machine refuses (permission, space, a broken disk), as one clear line; None for
    anything else, which is a bug of ours."""
    if error.filename is None or error.errno not in _MACHINE:
        return None
    return KeeperdError(f"{error.filename}: {error.strerror}; see its owner and mode, and the disk")


def of_ledger(error: sqlite3.Error, where: object) -> KeeperdError:
    """What SQLite says of the ledger, as one clear line."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what is added to the primary code
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return UnreachableError(f"{where}: {error}; try again")
    if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
        return KeeperdError(f"{where}: {error}; run as the user that owns it")
    if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
        return StoreUnavailableError(f"{where}: {error}; make room, or look at the disk")
    return StoreError(f"{where}: {error}; run `keeperd verify`, then restore it from a backup")
