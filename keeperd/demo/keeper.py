"""The daemon of the demo: the real one, in a process of its own, and what anybody can see of its work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from keeperd.api import KeeperdError
from keeperd.client import Client
from keeperd.demo.folder import MODEL, Folder
from keeperd.store import Reading, open_readonly, views
from keeperd.worker import die_with_parent

START, STOP = 60.0, 30.0
"""Seconds in which the daemon must answer, and must end."""

Story = Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """The ledger at one moment.

    Attributes:
        stories: of the cycles since the last call that ended, oldest first; see `views.story`.
        fraction, words: how far the running worker is, 0..1 or None where none runs, and what it says.
    """

    stories: tuple[Story, ...]
    fraction: float | None
    words: str

    @property
    def latest(self) -> Story | None:
        """The newest cycle."""
        return self.stories[-1] if self.stories else None

    @property
    def events(self) -> int:
        """How many events there are."""
        return sum(len(story["events"]) for story in self.stories)

    @property
    def at_rest(self) -> bool:
        """True when the newest cycle is closed, or waits for labels in probation."""
        if self.latest is None:
            return False
        if self.latest["cycle"]["closed_at"] is not None:
            return True
        if self.latest["cycle"]["state"] != "PROBATION":
            return False
        decided = (self.latest["facts"].get("probation") or {}).get("decision", "undecided")
        return decided == "undecided" and self.latest["events"][-1]["kind"] in {"promoted", "watched"}


def command(folder: Folder) -> list[str]:
    """How `keeperd` is called for the demo's configuration."""
    return [sys.executable, "-m", "keeperd", "--config", str(folder.config)]


class Keeper:
    """Runs `keeperd run` for as long as the context is open.

    Raises:
        KeeperdError: on entering, when the daemon does not come up.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.client = Client(folder.state.socket)
        self._first = 1
        self._stack = ExitStack()
        self._reading: Reading

    def __enter__(self) -> Self:
        with self.folder.log.open("wb") as log:
            # Its own session: Ctrl-C is for the demo, which ends it in good order.
            self._process = subprocess.Popen(
                [*command(self.folder), "run"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509
            )  # fmt: skip
        self._stack.callback(self._stop)
        try:
            self._wait_until_up()
            self._reading = self._stack.enter_context(open_readonly(self.folder.state.database))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _wait_until_up(self) -> None:
        give_up = time.monotonic() + START
        while not self.client.is_up():
            self.check()
            if time.monotonic() > give_up:
                raise KeeperdError(f"the daemon did not come up in {START:.0f} s; see {self.folder.log}")
            time.sleep(0.1)

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raises KeeperdError when the daemon has ended."""
        if (code := self._process.poll()) is not None:
            said = self.folder.log.read_text(errors="replace").strip().splitlines()
            raise KeeperdError(f"the daemon ended with status {code}: {said[-1] if said else 'no word'}")

    # --- the ledger ---

    def look(self) -> Seen:
        """What is new since `turn_page`."""
        self.check()
        newest = views.latest_cycle(self._reading.db, MODEL) or 0
        stories = tuple(views.story(self._reading.db, number) for number in range(self._first, newest + 1))
        return Seen(stories, *self._progress(stories[-1]) if stories else (None, ""))

    def turn_page(self) -> None:
        """Cycles that are closed by now are not looked at again."""
        seen = self.look()
        closed = [one["cycle"]["id"] for one in seen.stories if one["cycle"]["closed_at"] is not None]
        self._first = max(closed, default=self._first - 1) + 1

    def _progress(self, story: Story) -> tuple[float | None, str]:
        running = [run["id"] for run in story["runs"] if run["state"] == "started"]
        if not running:
            return None, ""
        try:
            told = json.loads((self.folder.state.run(running[-1]) / "progress.json").read_bytes())
            return float(told["fraction"]), str(told["text"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0, ""  # it has not said anything yet

    def has_taken(self, file: Path) -> bool:
        """True when the ledger knows this file."""
        found = file.stat()
        known = self._reading.known_files(MODEL)
        return known.is_known(str(file), found.st_size, found.st_mtime_ns, found.st_ino)

    def status(self) -> dict[str, Any]:
        """The model's line of `keeperd status`, and "deliveries"."""
        seen = views.status(self._reading.db)
        model: dict[str, Any] = next(one for one in seen["models"] if one["name"] == MODEL)
        return {**model, "deliveries": seen["deliveries"]}
