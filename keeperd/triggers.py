"""Why cycles begin: files that appear and times that come. Both only insert a trigger row.

File events (inotify) are hints that a folder is worth a look; the look itself, a comparison of the
folder with the ledger, is the truth. It is repeated on a timer too, since inotify loses events in
bursts and remote file systems send none.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from keeperd import config
from keeperd.clock import Clock
from keeperd.folders import new_files
from keeperd.store import Store, open_readonly

STOP_TIMEOUT = 5.0

log = logging.getLogger("keeperd.triggers")


class _Hint(FileSystemEventHandler):
    """Marks a model as worth a look."""

    def __init__(self, mark: Callable[[], None]) -> None:
        self._mark = mark

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Anything but reading may mean a new file."""
        if event.event_type not in {"opened", "closed_no_write"}:
            self._mark()


class Triggers:
    """Watches folders and keeps schedules, in threads of its own."""

    def __init__(
        self, settings: config.Settings, store: Store, clock: Clock, wake: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._wake = wake
        self._dirty: set[str] = set()
        self._condition = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._scan_for_ever, name="keeperd-scan", daemon=True)
        self._scheduler = BackgroundScheduler(
            timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )
        self._observer: BaseObserver | None = None
        self._watched: dict[Path, int] = {}
        self._told: dict[str, list[str]] = {}

    def __enter__(self) -> Triggers:
        self._scheduler.start()
        self.configure(self._settings)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        self._scheduler.shutdown(wait=False)
        self._stop_observer()
        self._thread.join(STOP_TIMEOUT)

    def configure(self, settings: config.Settings) -> None:
        """Take new settings: other folders, other times."""
        self._settings = settings
        self._scheduler.remove_all_jobs()
        for name, model in settings.model.items():
            if model.schedule:
                self._scheduler.add_job(
                    self._scheduled,
                    CronTrigger.from_crontab(model.schedule, timezone="UTC"),
                    args=[name],
                    id=name,
                )
        self._stop_observer()
        self.mark(settings.model)

    def mark(self, models: Iterable[str]) -> None:
        """These models' folders are worth a look."""
        with self._condition:
            self._dirty.update(models)
            self._condition.notify_all()

    def _scheduled(self, name: str) -> None:
        self._store.add_trigger(name, "schedule", "the schedule says so", self._clock.now())
        self._wake()

    # --- looking ---

    def _scan_for_ever(self) -> None:
        """Look at folders that were marked once they have been quiet for a moment, and at all of
        them from time to time."""
        rescan_at = self._clock.monotonic()
        while not self._stopped:
            now = self._clock.monotonic()
            if now >= rescan_at:
                rescan_at = now + self._settings.daemon.rescan.total_seconds()
                self._watch()
                self.mark(self._settings.model)
            with self._condition:
                if not self._dirty:
                    self._condition.wait(max(0.05, rescan_at - now))
                names, self._dirty = self._dirty, set()
            unsettled = [name for name in names if self._scan(name)]
            if unsettled and not self._stopped:
                with self._condition:
                    self._condition.wait_for(
                        lambda: self._stopped, self._settings.daemon.settle.total_seconds()
                    )
                self.mark(unsettled)

    def _scan(self, name: str) -> bool:
        """Insert a trigger where there is a settled file that the ledger does not know; True when
        some file has not settled yet."""
        model = self._settings.model.get(name)
        if model is None:
            return False
        settle = self._settings.daemon.settle.total_seconds()
        folders = [str(folder) for folder in model.watch]
        problems: list[str] = []
        unsettled = False
        with open_readonly(self._store.path) as reading:
            known = reading.known_files(name)
            for file in new_files(folders, known, self._clock.now().timestamp(), settle, problems):
                if file.state == "ready":
                    self._store.add_trigger(name, "files", f"new file {file.name!r}", self._clock.now())
                    self._wake()
                    return False  # intake takes them all, and looks again afterwards
                unsettled = unsettled or file.state == "unsettled"
        for problem in problems:
            if problem not in self._told.get(name, []):
                log.warning("%s", problem)
        self._told[name] = problems  # each is told once, not at every look
        return unsettled

    # --- hints ---

    def _watch(self) -> None:
        """Watch every folder that is there; one that was deleted and made again is watched anew."""
        wanted = {folder: name for name, model in self._settings.model.items() for folder in model.watch}
        if self._observer is not None and self._all_alive(wanted):
            return
        self._stop_observer()
        observer: BaseObserver = PollingObserver() if self._settings.daemon.polling else Observer()
        try:
            for folder, name in wanted.items():
                if folder.is_dir():
                    hint = _Hint(partial(self.mark, [name]))
                    observer.schedule(hint, str(folder), recursive=True)
                    self._watched[folder] = folder.stat().st_ino
            observer.start()
        except OSError as error:
            log.warning("inotify: %s; folders are looked at every %s", error, self._settings.daemon.rescan)
            self._watched.clear()
            return
        self._observer = observer

    def _all_alive(self, wanted: Iterable[Path]) -> bool:
        observer = self._observer
        if (
            observer is None
            or not observer.is_alive()
            or not all(one.is_alive() for one in observer.emitters)
        ):
            return False
        present = {folder: folder.stat().st_ino for folder in wanted if folder.is_dir()}
        return bool(present == self._watched)

    def _stop_observer(self) -> None:
        observer, self._observer = self._observer, None
        self._watched.clear()
        if observer is not None:
            observer.stop()
            observer.join(STOP_TIMEOUT)
