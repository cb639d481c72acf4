"""The loop's work, without its waiting: admit triggers, advance every open cycle, send word.

`keeperd init` and the tests drive an engine by hand; the daemon does it all day.
"""

from __future__ import annotations

import logging
import socket
from datetime import timedelta

from keeperd import config, cycle, outbox, versions
from keeperd.api import KeeperdError
from keeperd.clock import Clock
from keeperd.cycle import Outcome
from keeperd.hearing import Hearing
from keeperd.kit import Kit
from keeperd.paths import StatePaths
from keeperd.runs import RunFailedError, Runs
from keeperd.store import Cycle, Store, Trigger
from keeperd.store.deliveries import Deliveries

BACKOFF_CAP = timedelta(hours=1)
CLEAN_EVERY = 3600.0
"""Seconds between two clean-ups."""

log = logging.getLogger("keeperd.engine")


class Engine:
    """Everything that one tick does. One engine a ledger; the caller holds the lock."""

    def __init__(self, settings: config.Settings, store: Store, clock: Clock) -> None:
        self.settings = settings
        self.store = store
        self.clock = clock
        self.paths = StatePaths(settings.state)
        self.runs = Runs(store, self.paths, settings, clock)
        self._deliveries = Deliveries(store)
        self._hearing = Hearing(store, self.runs)
        self._host = socket.gethostname()
        self._clean_at = clock.monotonic()
        self._taken_in: set[str] = set()

    def configure(self, settings: config.Settings) -> None:
        """Take new settings; work that has begun goes on with those that it began with."""
        self.settings = settings
        self.runs.settings = settings
        for name in settings.model:
            self.store.ensure_model(name)

    def start(self) -> None:
        """Recover from whatever ended the last daemon. Afterwards the invariants hold again."""
        self.configure(self.settings)
        self.runs.recover()
        for name in self.settings.model:
            self._recover_pointer(name)

    def _recover_pointer(self, name: str) -> None:
        """`live` names the ledger's champion, unless an open cycle is about to move it."""
        files = self.paths.model(name)
        files.folder.mkdir(parents=True, exist_ok=True)
        (files.folder / ".live.tmp").unlink(missing_ok=True)
        moving = any(
            one.model == name and one.state in {"PROMOTE", "ROLLBACK"} for one in self.store.open_cycles()
        )
        champion = self.store.model(name)["champion"]
        if champion is None or moving:
            return
        manifest = {row["version"]: row["manifest"] for row in self.store.versions(name)}.get(champion)
        try:
            if versions.live_version(files) != champion:
                versions.flip(files, champion)
                self._alert(name, None, f"live did not name the champion {champion} and was put right")
            versions.verify(files.version(champion), manifest)
        except KeeperdError as error:
            self._alert(name, None, f"the champion is damaged: {error}")
            self.store.add_trigger(name, "rollback", f"version {champion} is damaged", self.clock.now())

    def tick(self) -> bool:
        """Do all that can be done now; True when anything moved."""
        moved = self._admit()
        for one in self.store.open_cycles():
            if one.model in self.settings.model and not self._waits(one):
                moved = self._step(one) or moved
        outbox.push(
            self._deliveries,
            self.runs,
            self.settings.notify,
            now=self.clock.now(),
            host=self._host,
            base=self.settings.daemon.backoff,
        )
        self._hearing.push(self.settings)
        if self.clock.monotonic() >= self._clean_at:
            self._clean_at = self.clock.monotonic() + CLEAN_EVERY
            self.runs.clean(self.settings.daemon.keep_runs)
        return moved

    # --- admission ---

    def _admit(self) -> bool:
        """Open a cycle for every model that has triggers and none open."""
        busy = {one.model: one for one in self.store.open_cycles()}
        moved = False
        for name in self.settings.model:
            triggers = self.store.pending_triggers(name)
            rollback = next((one for one in triggers if one.kind == "rollback"), None)
            if rollback is not None:
                moved = self._admit_rollback(name, rollback, busy.get(name)) or moved
            elif triggers and name not in busy:
                self._open(name, triggers)
                moved = True
        return moved

    def _open(self, name: str, triggers: list[Trigger]) -> None:
        """One cycle for all triggers that have gathered; it bears the name of the weightiest."""
        order = ("manual", "schedule", "init", "files")
        first = min(triggers, key=lambda one: order.index(one.kind))
        with self.store.transaction():
            number = self.store.open_cycle(name, "QUEUED", first.kind, first.why, self.clock.now(), {})
            self.store.take_triggers(number, [one.id for one in triggers])

    def _admit_rollback(self, name: str, asked: Trigger, current: Cycle | None) -> bool:
        """A rollback goes before everything: what has not been promoted yet is withdrawn."""
        if current is not None and current.state in cycle.NEVER_ABANDONED:
            return False  # these states see to it themselves
        with self.store.transaction():
            if current is not None:
                kit = self._kit(current)
                cycle.commit(
                    current,
                    kit,
                    Outcome("FAILED", f"withdrawn: {asked.why}", kind="failed", record=kit.record.failure()),
                )
            facts = {"target": asked.target, "rollback_why": asked.why}
            number = self.store.open_cycle(name, "ROLLBACK", "rollback", asked.why, self.clock.now(), facts)
            self.store.take_triggers(number, [asked.id])
        return True

    # --- steps ---

    def taken_in(self) -> set[str]:
        """Models that have read their folders since the last call. Files that arrived meanwhile
        may wait there, so these are worth another look."""
        names, self._taken_in = self._taken_in, set()
        return names

    def _kit(self, one: Cycle) -> Kit:
        return Kit(self.store, self.runs, self.settings.model[one.model], one, self.clock)

    def _waits(self, one: Cycle) -> bool:
        """After a failed attempt; a date further off than any wait comes from a clock set back."""
        now = self.clock.now()
        return one.retry_at is not None and now < one.retry_at <= now + BACKOFF_CAP

    def _step(self, one: Cycle) -> bool:
        kit = self._kit(one)
        try:
            moved = cycle.advance(one, kit)
            if moved and one.state in {"INTAKE", "PROBATION"}:
                self._taken_in.add(one.model)
            return moved
        except RunFailedError as error:
            self._failed(one, kit, str(error), retry=error.retry)
        except (KeeperdError, OSError) as error:
            self._failed(one, kit, str(error), retry=True)
        except Exception as error:  # one model's bug must not stop the others; it is logged in full
            log.exception("cycle %d of %s: %s failed", one.id, one.model, one.state)
            self._failed(one, kit, f"{type(error).__name__}: {error}", retry=True)
        return True

    def _failed(self, one: Cycle, kit: Kit, error: str, *, retry: bool) -> None:
        """Try again later, or give the cycle up where that leaves nothing half done."""
        daemon = self.settings.daemon
        log.warning("cycle %d of %s: %s, attempt %d: %s", one.id, one.model, one.state, one.attempt, error)
        keeps_on = one.state in cycle.NEVER_ABANDONED
        if not keeps_on and (not retry or one.attempt >= daemon.retries):
            why = f"{one.state} failed: {error}"
            outcome = Outcome("FAILED", why, {"failed_at": one.state}, "failed", kit.record.failure())
            cycle.commit(one, kit, outcome)
            return
        wait = min(daemon.backoff * 2 ** min(one.attempt - 1, 20), BACKOFF_CAP)
        with self.store.transaction():
            self.store.retry_cycle(one.id, one.attempt + 1, kit.now + wait)
            told = keeps_on and one.attempt in {1, 5, 25}
            self.store.add_event(
                kit.now,
                one.model,
                "alert" if told else "retry",
                f"{one.state}: {error}",
                one.id,
                one.state,
                one.state,
            )

    def _alert(self, model: str, number: int | None, why: str) -> None:
        log.error("%s: %s", model, why)
        self.store.add_event(self.clock.now(), model, "alert", why, number)

    def summary(self) -> str:
        """One line of what every model does, for `systemctl status`."""
        states = {one.model: one.state for one in self.store.open_cycles()}
        parts = []
        for name in self.settings.model:
            champion = self.store.model(name)["champion"]
            version = f"v{champion}" if champion else "no version"
            parts.append(f"{name}: {version}, {states.get(name, 'watching').lower()}")
        return "; ".join(parts) or "no models configured"

    def stop(self) -> None:
        """End the workers; what they did is done again, from the last checkpoint, after a start."""
        self.runs.stop_all()
