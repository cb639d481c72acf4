"""The daemon: one loop, flags set by signals, and nothing heavy in memory.

The loop admits triggers, advances open cycles, pushes deliveries and pets the watchdog. Watchers,
schedules and the control socket only insert a trigger row and wake it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sqlite3
import threading
from pathlib import Path
from types import FrameType

from keeperd import config, systemd
from keeperd.clock import Clock, SystemClock
from keeperd.control import ControlServer
from keeperd.desk import LedgerDesk
from keeperd.engine import Engine
from keeperd.lock import hold
from keeperd.paths import StatePaths
from keeperd.store import Store
from keeperd.triggers import Triggers

IDLE = 2.0
"""Seconds between two looks when nothing is going on; the watchdog is petted each time."""
BUSY = 0.25
"""The same while a worker runs."""
RELOAD_TIMEOUT = 10.0
"""Seconds that a client of the socket waits for a reload."""

log = logging.getLogger("keeperd.daemon")


class Wake:
    """Ends a wait: from a signal handler, another thread, or a worker that ended."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __call__(self) -> None:
        """End the present wait, or the next one."""
        with contextlib.suppress(BlockingIOError):  # full: it will wake anyway
            os.write(self._write, b"!")

    def wait(self, seconds: float) -> None:
        """Sleep until woken, at most so long."""
        ready, _, _ = select.select([self._read], [], [], seconds)
        if ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4096)

    def on_signals(self) -> None:
        """Let signals end a wait too."""
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def close(self) -> None:
        """Give the descriptors back."""
        with contextlib.suppress(ValueError):  # not the main thread: it was never set
            signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)


class Daemon:
    """`keeperd run`."""

    def __init__(self, config_path: Path, clock: Clock | None = None) -> None:
        self.config_path = config_path
        self.clock = clock or SystemClock()
        self._wake = Wake()
        self._stop = False
        self._reload = threading.Event()
        self._reloaded = threading.Event()
        self._reload_errors: list[str] = []

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ConfigError: the configuration cannot be used.
            StoreError: the ledger cannot be used.
            HeldError: another process holds the state directory.
        """
        settings = config.load(self.config_path)
        paths = StatePaths(settings.state)
        paths.create()
        with hold(paths.lock):
            store = Store(paths.database)
            try:
                self._serve(settings, store, paths)
            finally:
                store.close()
                self._wake.close()

    def _serve(self, settings: config.Settings, store: Store, paths: StatePaths) -> None:
        engine = Engine(settings, store, self.clock)
        engine.start()
        desk = LedgerDesk(store, self.clock, settings, wake=self._wake, reread=self._ask_to_reload)
        self._listen_to_signals()
        control = ControlServer(desk, paths.socket)
        with contextlib.ExitStack() as stack:
            triggers = stack.enter_context(Triggers(settings, store, self.clock, self._wake))
            control.start()
            stack.callback(control.stop)
            systemd.notify(READY="1", STATUS=engine.summary())
            log.info("keeperd watches: %s", engine.summary())
            try:
                while not self._stop:
                    self._look(engine, triggers, desk)
            finally:
                systemd.notify(STOPPING="1", STATUS="stopping")
                engine.stop()
        log.info("keeperd stopped")

    def _look(self, engine: Engine, triggers: Triggers, desk: LedgerDesk) -> None:
        """Once round the loop."""
        if self._reload.is_set():
            self._reload.clear()
            self._take_configuration(engine, triggers, desk)
            self._reloaded.set()
        try:
            moved = engine.tick()
        except sqlite3.OperationalError as error:
            # No space, or a broken disk: nothing was committed, so the same is done when it is back.
            log.error("%s: %s; make room, keeperd goes on by itself", engine.store.path, error)
            moved = False
        if names := engine.taken_in():
            triggers.mark(names)
        systemd.notify(WATCHDOG="1", STATUS=engine.summary())
        if not moved:
            self._wake.wait(BUSY if engine.runs.active() else IDLE)

    def _take_configuration(self, engine: Engine, triggers: Triggers, desk: LedgerDesk) -> None:
        """Read the configuration again; a bad one changes nothing."""
        try:
            settings = config.load(self.config_path)
        except config.ConfigError as error:
            self._reload_errors = error.lines
            log.error("configuration not taken, the old one stays: %s", error)
            return
        self._reload_errors = []
        if settings.state != engine.settings.state:
            self._reload_errors = [f"{self.config_path}: state: cannot change while keeperd runs; restart it"]
            return
        engine.configure(settings)
        triggers.configure(settings)
        desk.settings = settings
        log.info("configuration taken: %s", engine.summary())

    def _ask_to_reload(self) -> list[str]:
        """Called from the control socket's thread: have the loop reload, and wait for what it says."""
        self._reloaded.clear()
        self._reload.set()
        self._wake()
        if not self._reloaded.wait(RELOAD_TIMEOUT):
            return ["the daemon is busy; the configuration will be read soon"]
        return self._reload_errors

    def _listen_to_signals(self) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            self._stop = True

        def reload(number: int, frame: FrameType | None) -> None:
            self._reload.set()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, reload)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._wake.on_signals()
