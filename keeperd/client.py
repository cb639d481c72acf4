"""The control socket from the other side: the desk of a running daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keeperd import unix
from keeperd.api import JSON, BadInputError, KeeperdError
from keeperd.desk import RefusedError
from keeperd.store.views import NotInLedgerError

TIMEOUT = 60.0
"""Seconds for one answer; a reload checks the whole configuration."""
MAX_ANSWER = 64 * 2**20


class UnreachableError(KeeperdError):
    """No daemon answers at the moment; trying again later may help."""


_BY_STATUS: dict[int, type[KeeperdError]] = {
    400: BadInputError, 404: NotInLedgerError, 409: RefusedError, 413: BadInputError, 503: UnreachableError,
}  # fmt: skip


class Client:
    """Asks a running daemon; each call is one request. Implements `desk.Desk`."""

    def __init__(self, path: Path, timeout: float = TIMEOUT) -> None:
        self.path = path
        self._timeout = timeout

    def is_up(self) -> bool:
        """True when somebody listens.

        Raises:
            RefusedError: somebody may, but this user must not ask.
        """
        try:
            unix.connect(self.path, self._timeout).close()
        except PermissionError as error:
            raise self._no_permission() from error
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return False
        except OSError as error:
            raise self._unreachable(error) from error
        return True

    def get(self, path: str) -> Any:
        """The JSON of a page: "/status", "/timeline/MODEL", "/why/CYCLE"."""
        return self._ask("GET", path, None)

    def trigger(self, model: str, kind: str, why: str, target: int | None = None) -> int:
        """Ask for a cycle; the number of the trigger."""
        if kind == "rollback":
            answer = self._ask("POST", "/rollback", {"model": model, "why": why, "to": target})
        else:
            answer = self._ask("POST", "/trigger", {"model": model, "why": why, "kind": kind})
        return int(answer["trigger"])

    def pause(self, model: str, why: str) -> None:
        """Begin no cycle of this model until `resume`."""
        self._ask("POST", "/pause", {"model": model, "why": why})

    def resume(self, model: str) -> None:
        """Go on."""
        self._ask("POST", "/resume", {"model": model})

    def answer(self, cycle: int, answer: str) -> None:
        """Say "approve" or "reject" to a cycle that waits."""
        self._ask("POST", f"/{answer}", {"cycle": cycle})

    def reload(self) -> list[str]:
        """Let the daemon read its configuration; what is wrong with it, a line each."""
        return [str(line) for line in self._ask("POST", "/reload", {})["errors"]]

    def _ask(self, method: str, path: str, wish: JSON) -> Any:
        import http.client  # takes its time, and most commands need no answer

        connection = http.client.HTTPConnection("keeperd")
        body = None if wish is None else json.dumps(wish).encode()
        try:
            connection.sock = unix.connect(self.path, self._timeout)
            connection.request(method, path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            status, text = answer.status, answer.read(MAX_ANSWER)
        except PermissionError as error:
            raise self._no_permission() from error
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        try:
            value = json.loads(text)
        except ValueError as error:
            raise UnreachableError(
                f"{self.path}: answered {status} without JSON; see the daemon's log"
            ) from error
        if status >= 400:
            raise _BY_STATUS.get(status, KeeperdError)(str(value.get("error", f"status {status}")))
        return value

    def _no_permission(self) -> RefusedError:
        return RefusedError(f"{self.path}: you may not use it; run as root or as a member of its group")

    def _unreachable(self, error: Exception) -> UnreachableError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return UnreachableError(
            f"{self.path}: the daemon does not answer ({reason}); see `systemctl status keeperd`"
        )
