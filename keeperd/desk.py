"""The desk: everything that an operator may ask of keeperd, checked and written into the ledger.

The daemon has one and offers it through the control socket; a command that finds no daemon makes
its own under the state lock. Each wish leaves an event of kind "manual" that says who asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from keeperd.api import KeeperdError
from keeperd.clock import Clock
from keeperd.config import Settings
from keeperd.store import Reading, Store, StoreError, open_readonly
from keeperd.store.views import NotInLedgerError

KINDS = ("manual", "init", "rollback")
"""Triggers that a person may pull; files and schedules pull theirs themselves."""

ANSWERS = ("approve", "reject")

SERVED = ("champion", "retired", "rolled back")
"""States of versions that were champion once: they passed the gate, so a rollback may go there."""

WHY_LENGTH = 500
"""Characters kept of a reason that a person gives."""


class RefusedError(KeeperdError):
    """The wish makes no sense as things stand."""


class Desk(Protocol):
    """What an operator may ask for; the same through the socket and without a daemon."""

    def trigger(self, model: str, kind: str, why: str, target: int | None = None) -> int:
        """Ask for a cycle ("manual", "init", "rollback"); the number of the trigger.

        Raises:
            NotInLedgerError: no such model or version.
            RefusedError: there is nothing to roll back to, or version 1 is there already.
        """

    def pause(self, model: str, why: str) -> None:
        """Begin no cycle of this model until `resume`."""

    def resume(self, model: str) -> None:
        """Go on."""

    def answer(self, cycle: int, answer: str) -> None:
        """Say "approve" or "reject" to a cycle that waits in APPROVAL.

        Raises:
            NotInLedgerError: no such cycle.
            RefusedError: it does not wait for an answer.
        """

    def reload(self) -> list[str]:
        """Read the configuration again; what is wrong with it, a line each (then the old stays)."""


class OpenDesk(Desk, Protocol):
    """A desk beside the ledger, as the control socket needs it."""

    def signed(self, by: str) -> OpenDesk:
        """The same desk, whose events say who asked."""

    def read(self) -> Reading:
        """The ledger, read-only; a context manager."""


def no_daemon() -> list[str]:
    """The reload of a desk without a daemon."""
    raise RefusedError(
        "no daemon runs, so there is nothing to reload; the next start reads the new configuration"
    )


@dataclass
class LedgerDesk:
    """The desk over the ledger itself; one process at a time may have one.

    Attributes:
        settings: replaced by the daemon after a reload.
        by: who asks, for the event.
        wake: called after each write, so that the daemon looks at once.
        reread: what `reload` does.
    """

    store: Store
    clock: Clock
    settings: Settings
    by: str = "operator"
    wake: Callable[[], None] = lambda: None
    reread: Callable[[], list[str]] = no_daemon

    def signed(self, by: str) -> LedgerDesk:
        """The same desk, whose events say who asked."""
        return replace(self, by=by)

    def read(self) -> Reading:
        """The ledger, read-only; a context manager."""
        return open_readonly(Path(self.store.path))

    def trigger(self, model: str, kind: str, why: str, target: int | None = None) -> int:
        """Insert a trigger, unless the same is waiting already (then that one's number)."""
        self._check_model(model)
        if kind not in KINDS:
            raise RefusedError(f"trigger {kind!r}: ask for one of {', '.join(KINDS)}")
        if target is not None and kind != "rollback":
            raise RefusedError(f"trigger {kind!r}: only a rollback has a target version")
        with self.store.transaction():
            champion = self.store.model(model)["champion"]
            if kind == "init" and champion is not None:
                raise RefusedError(
                    f"{model}: version {champion} serves already; look for an update: keeperd trigger {model}"
                )
            if kind == "rollback":
                self._check_target(model, champion, target)
            reason = _tidy(why) or f"asked for by {self.by}"
            trigger = self.store.add_trigger(model, kind, reason, self.clock.now(), target)
            to = f" to version {target}" if target is not None else ""
            self._note(model, f"{kind}{to}", why, trigger=trigger, target=target)
        self.wake()
        return trigger

    def pause(self, model: str, why: str) -> None:
        """Begin no cycle of this model until `resume`; a cycle that is open stops before its next start."""
        self._check_model(model)
        with self.store.transaction():
            self.store.set_model(model, paused=_tidy(why) or "by hand")
            self._note(model, "pause", why)
        self.wake()

    def resume(self, model: str) -> None:
        """Go on."""
        self._check_model(model)
        with self.store.transaction():
            if self.store.model(model)["paused"] is None:
                raise RefusedError(f"{model}: is not paused; `keeperd status` shows what it does")
            self.store.set_model(model, paused=None)
            self._note(model, "resume", "")
        self.wake()

    def answer(self, cycle: int, answer: str) -> None:
        """Answer a cycle that waits in APPROVAL. An earlier answer that was not taken up is replaced."""
        if answer not in ANSWERS:
            raise RefusedError(f"answer {answer!r}: say one of {', '.join(ANSWERS)}")
        with self.store.transaction():
            try:
                found = self.store.cycle(cycle)
            except StoreError:
                raise NotInLedgerError(f"no cycle {cycle} in the ledger; see `keeperd status`") from None
            if found.state != "APPROVAL":
                raise RefusedError(f"cycle {cycle} of {found.model} is {found.state} and waits for no answer")
            self.store.answer_cycle(cycle, answer)
            self._note(found.model, answer, "", cycle=cycle)
        self.wake()

    def reload(self) -> list[str]:
        """Read the configuration again; what is wrong with it, a line each."""
        return self.reread()

    def _check_model(self, model: str) -> None:
        if model not in self.settings.model:
            known = ", ".join(sorted(self.settings.model)) or "none"
            more = "" if self.reread is no_daemon else "; after a change: keeperd reload"
            raise NotInLedgerError(f"no model {model!r} in the configuration; there are: {known}{more}")
        self.store.ensure_model(model)

    def _check_target(self, model: str, champion: int | None, target: int | None) -> None:
        if champion is None:
            raise RefusedError(f"{model}: no version serves yet, so there is nothing to roll back")
        others = [one["version"] for one in self.store.versions(model) if one["state"] in SERVED]
        others = [number for number in others if number != champion]
        if not others:
            raise RefusedError(
                f"{model}: no version but {champion} ever served; there is nothing to roll back to"
            )
        if target == champion:
            raise RefusedError(f"{model}: version {champion} serves already; others: {_listed(others)}")
        if target is not None and target not in others:
            raise NotInLedgerError(f"{model}: version {target} never served; choose one of {_listed(others)}")

    def _note(
        self, model: str, wish: str, why: str, *, cycle: int | None = None, trigger: int | None = None,
        target: int | None = None,
    ) -> None:  # fmt: skip
        text = f"{self.by} asked for: {wish}" + (f" ({_tidy(why)})" if _tidy(why) else "")
        facts = {"by": self.by, "wish": wish, "trigger": trigger, "target": target}
        self.store.add_event(self.clock.now(), model, "manual", text, cycle, facts=facts)


def _listed(versions: list[int]) -> str:
    return ", ".join(str(number) for number in versions)


def _tidy(why: str) -> str:
    """A reason as one printable line of bounded length."""
    line = "".join(char if char.isprintable() else " " for char in why)
    return " ".join(line.split())[:WHY_LENGTH]
