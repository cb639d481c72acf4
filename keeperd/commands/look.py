"""Commands that only look: status, timeline, why, report. They work with and without a daemon."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from keeperd import terminal
from keeperd.api import KeeperdError
from keeperd.commands.setup import JsonOption, Setup, setup_of
from keeperd.config import NAME
from keeperd.exits import PERSON
from keeperd.paths import StatePaths
from keeperd.store import views
from keeperd.store.views import NotInLedgerError

PANEL = "Look"
EVERY = 2.0


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (status, timeline, why, report):
        app.command(rich_help_panel=PANEL)(command)


# --- status ---------------------------------------------------------------------------------------


def gather(setup: Setup) -> dict[str, Any]:
    """`views.status`, and "daemon" (does it run), each model's "progress" (0..1 of its running
    work, or None) and the decisive sentence of its last cycle ("outcome")."""
    seen: dict[str, Any] = {"daemon": setup.daemon_runs(), "models": [], "deliveries": {}}
    if setup.paths.database.exists():
        with setup.reading() as db:
            seen |= views.status(db)
            for model in seen["models"]:
                _add_to(model, db, setup.paths)
    known = {model["name"] for model in seen["models"]}
    seen["models"] = [one for one in seen["models"] if one["name"] in setup.settings.model or one["champion"]]
    seen["models"] += [_not_begun(name) for name in setup.settings.model if name not in known]
    return seen


def _add_to(model: dict[str, Any], db: sqlite3.Connection, paths: StatePaths) -> None:
    if model["last"] is not None:
        outcomes = {cycle["id"]: cycle["outcome"] for cycle in views.timeline(db, model["name"], 2)}
        model["last"]["outcome"] = outcomes.get(model["last"]["id"])
    model["progress"] = progress(db, paths, model["cycle"]["id"])[0] if model["cycle"] else None


def _not_begun(name: str) -> dict[str, Any]:
    """A model that the configuration names and the ledger does not know yet."""
    empty = dict.fromkeys(("paused", "champion", "predecessor", "cycle", "last", "serving", "progress"))
    return {"name": name, **empty, "batches": {}, "needs": [f"no champion yet: keeperd init {name}"]}


def progress(db: sqlite3.Connection, paths: StatePaths, cycle: int) -> tuple[float | None, str]:
    """How far the run is that a cycle has going, 0..1, and what it says; (None, "") without one."""
    runs = views.story(db, cycle)["runs"]
    running = [run for run in runs if run["state"] == "started" and run["kind"] not in {"notify", "hear"}]
    if not running:
        return None, ""
    try:
        told = json.loads((paths.run(running[-1]["id"]) / "progress.json").read_bytes())
        return float(told["fraction"]), str(told["text"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0, ""  # it has not said anything yet


def status(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep showing it; Ctrl-C leaves.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 4 when a person is needed.")] = False,
    as_json: Annotated[bool, JsonOption] = False,
) -> None:
    """What every model does, how it does, and what needs you."""
    setup = setup_of(context)
    if watch and not as_json:
        _watch(setup)
        return
    seen = gather(setup)
    if as_json:
        terminal.show_json(seen)
    else:
        terminal.show(terminal.status(seen, datetime.now(UTC)))
    if exit_code and any(model["needs"] for model in seen["models"]):
        raise typer.Exit(PERSON)


def _watch(setup: Setup) -> None:
    """In a terminal a picture that stays in its place; in a pipe, a new one whenever it changes."""
    from rich.live import Live

    console = terminal.console()
    shown: dict[str, Any] | None = None
    try:
        if not console.is_terminal:
            while True:
                if (seen := gather(setup)) != shown:
                    terminal.show(terminal.status(shown := seen, datetime.now(UTC)), "")

                time.sleep(EVERY)
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(terminal.status(gather(setup), datetime.now(UTC)), refresh=True)
                time.sleep(EVERY)
    except KeyboardInterrupt:
        return


# --- one model, one cycle -------------------------------------------------------------------------


def timeline(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="So many cycles.")] = 20,
    as_json: Annotated[bool, JsonOption] = False,
) -> None:
    """A model's cycles, the newest last, each with its decisive sentence."""
    with setup_of(context).reading() as db:
        cycles = views.timeline(db, model, limit)
    if as_json:
        terminal.show_json(cycles)
    else:
        terminal.show(terminal.timeline(model, cycles))


def why(
    context: typer.Context,
    cycle: Annotated[
        str, typer.Argument(metavar="CYCLE|MODEL", help="A cycle's number, or a model: its newest.")
    ],
    as_json: Annotated[bool, JsonOption] = False,
) -> None:
    """Why it was done or not done: the chain of evidence of one cycle."""
    with setup_of(context).reading() as db:
        told = views.story(db, _cycle(db, cycle))
    if as_json:
        terminal.show_json(told)
        return
    from keeperd.terminal import story as terminal_story

    terminal.show(terminal_story.story(told))


def _cycle(db: sqlite3.Connection, wanted: str) -> int:
    """The cycle that "12", "#12" or a model's name means."""
    newest = views.latest_cycle(db, wanted) if NAME.fullmatch(wanted) else None
    if newest is not None:
        return newest
    number = wanted.removeprefix("#")
    if number.isascii() and number.isdigit() and len(number) < 19:
        return int(number)
    raise NotInLedgerError(f"no model and no cycle {wanted!r} in the ledger; see `keeperd status`")


def report(
    context: typer.Context,
    cycle: Annotated[
        str, typer.Argument(metavar="CYCLE|MODEL", help="A cycle's number, or a model: its newest.")
    ],
    html: Annotated[Path | None, typer.Option(help="Write one HTML file, pictures included.")] = None,
    text: Annotated[bool, typer.Option("--text", help="Print it as text, as without --html.")] = False,
    examples: Annotated[bool, typer.Option(help="Show sample texts; they may hold personal data.")] = False,
) -> None:
    """The report of one cycle, as it is mailed."""
    from keeperd import report as reports

    with setup_of(context).reading() as db:
        told = views.story(db, _cycle(db, cycle))
    if html is not None:
        write_text(html, reports.html_report(told, examples=examples))
    if text or html is None:
        # Its line breaks are ours; whatever else a terminal could obey was in the data.
        for line in reports.text_report(told, examples=examples).splitlines():
            print(terminal.plain(line, 10**6))


def write_text(path: Path, html: str) -> None:
    """Write a file, or standard output where it is called "-"."""
    if str(path) == "-":
        sys.stdout.write(html)
        return
    try:
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise KeeperdError(f"{path}: cannot be written: {error.strerror}") from error
