"""Following a cycle that a command asked for: a line an event, a bar for what is running."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from keeperd import logs, terminal
from keeperd.client import Client, UnreachableError
from keeperd.clock import SystemClock
from keeperd.commands.look import progress
from keeperd.commands.setup import Setup
from keeperd.cycle import CLOSED
from keeperd.desk import LedgerDesk, RefusedError
from keeperd.exits import FAILURE, OK, PERSON
from keeperd.paths import StatePaths
from keeperd.store import inventory, views

ENDS = (*CLOSED, "PROBATION", "APPROVAL")
"""States after which a command does not wait any longer: closed, serving, or waiting for a person."""

GOOD_ENDS = {
    "init": {"COMPLETED", "PROBATION"},
    "rollback": {"ROLLED_BACK"},
    "manual": {"COMPLETED", "PROBATION", "SKIPPED"},
}
LOOK_EVERY = 0.25
ASK_EVERY = 5.0
"""Seconds between two looks at the ledger, and at whether the daemon still lives."""

Show = Callable[[str, float | None], None]
"""Shows what is running: words, and how far it is (0..1) or None."""


@contextmanager
def display(console: Console) -> Iterator[Show]:
    """A bar that stays below the lines, or without a terminal nothing but the lines."""
    if not console.is_terminal:
        yield lambda words, fraction: None
        return
    columns = (SpinnerColumn(), BarColumn(24), TimeElapsedColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, words=Text("waiting"))

        def show(words: str, fraction: float | None) -> None:
            total = 1.0 if fraction else None
            bar.update(task, words=terminal.text(words, limit=40), total=total, completed=fraction or 0)

        yield show


@dataclass
class Follower:
    """Tells of one trigger's cycle what has not been told yet."""

    db: sqlite3.Connection
    paths: StatePaths
    trigger: int
    console: Console
    show: Show
    cycle: int | None = None
    _told: set[int] = field(default_factory=set)

    def look(self) -> str | None:
        """Tell what is new; the state that it ended in, None while it goes on."""
        self.cycle = inventory.taken_by(self.db, self.trigger)
        if self.cycle is None:
            self.show("waiting for its turn", None)
            return None
        told = views.story(self.db, self.cycle)
        for event in told["events"]:
            if event["id"] not in self._told:
                self._told.add(event["id"])
                terminal.show(self._line(event), on=self.console)
        fraction, words = progress(self.db, self.paths, self.cycle)
        state: str = told["cycle"]["state"]
        self.show(f"{state} {words}".strip(), fraction)
        return state if state in ENDS else None

    @staticmethod
    def _line(event: dict[str, Any]) -> Table:
        ended = event["to"] in ENDS or event["from"] is None
        state = (event["to"] if ended else event["from"]) or event["kind"]
        line = Table.grid(padding=(0, 1))
        line.add_column(no_wrap=True)
        line.add_column(no_wrap=True, min_width=11)
        line.add_column(overflow="fold")
        at = Text(terminal.clock(event["at"], seconds=True)[11:], terminal.QUIET)
        line.add_row(at, Text(state, terminal.STYLES.get(state, "cyan")), terminal.text(event["why"]))
        return line


def carry_out(setup: Setup, model: str, kind: str, why: str, target: int | None = None) -> int:
    """Ask for a cycle and follow it to its end: in the daemon, or where none runs, right here.

    Returns:
        the exit code that tells the outcome.
    """
    console = terminal.console()
    follow = _in_daemon if setup.daemon_runs() else _right_here
    state, cycle = follow(setup, console, model, kind, why, target)
    if state == "APPROVAL":
        console.print(f"it waits for you: keeperd approve {cycle}   or: keeperd reject {cycle}")
        return PERSON
    if state in GOOD_ENDS[kind]:
        return OK
    console.print(f"the evidence: keeperd why {cycle}")
    return FAILURE


def _in_daemon(
    setup: Setup, console: Console, model: str, kind: str, why: str, target: int | None
) -> tuple[str, int | None]:
    client = Client(setup.paths.socket)
    trigger = client.trigger(model, kind, why, target)
    ask_at = time.monotonic() + ASK_EVERY
    with setup.reading() as db, display(console) as show:
        _refuse_paused(db, model)
        follower = Follower(db, setup.paths, trigger, console, show)
        try:
            while (state := follower.look()) is None:
                time.sleep(LOOK_EVERY)
                if time.monotonic() > ask_at:
                    ask_at = time.monotonic() + ASK_EVERY
                    if not client.is_up():
                        raise UnreachableError("the daemon has ended; the cycle goes on when it starts again")
        except KeyboardInterrupt:
            console.print("the daemon goes on with it: keeperd status")
            raise
    return state, follower.cycle


def _right_here(
    setup: Setup, console: Console, model: str, kind: str, why: str, target: int | None
) -> tuple[str, int | None]:
    from keeperd.engine import Engine

    logs.begin(logging.ERROR)
    clock = SystemClock()
    with setup.writing() as store:
        desk = LedgerDesk(store, clock, setup.settings)
        trigger = desk.trigger(model, kind, why, target)
        with setup.reading() as db, display(console) as show:
            _refuse_paused(db, model)
            follower = Follower(db, setup.paths, trigger, console, show)
            engine = Engine(setup.settings, store, clock)
            engine.start()
            try:
                while (state := follower.look()) is None:
                    if not engine.tick():
                        time.sleep(LOOK_EVERY)
            except KeyboardInterrupt:
                console.print(f"stopped; begin again with: keeperd {kind} {model}   or start the daemon")
                raise
            finally:
                engine.stop()
    return state, follower.cycle


def _refuse_paused(db: sqlite3.Connection, model: str) -> None:
    paused = next((one["paused"] for one in views.status(db)["models"] if one["name"] == model), None)
    if paused:
        raise RefusedError(f"{model}: paused ({paused}); the trigger waits for `keeperd resume {model}`")
