"""What the demo looks like: lines that stay, and in a terminal, below them, the cycle as it moves."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from keeperd import terminal
from keeperd.cycle import CLOSED
from keeperd.demo.keeper import Seen, Story
from keeperd.demo.stages import Drop, Stage

PATH = ("INTAKE", "ASSESS", "UPDATE", "GATE", "EXPORT", "VERIFY", "PROMOTE", "PROBATION")
"""The way to a promotion that lasts."""
WORDS = 8
REFRESH = 8
"""Pictures a second."""


class Show:
    """Tells of the demo on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._told: set[int] = set()
        self._last_why = ""
        self._seen: Seen | None = None
        self._spinner = Spinner("dots", style="cyan")

    @contextmanager
    def open(self) -> Iterator[None]:
        """In a terminal, keep the moving part below the lines."""
        if not self._console.is_terminal:
            yield
            return
        with Live(
            console=self._console, get_renderable=self._moving, refresh_per_second=REFRESH, transient=True
        ):
            yield

    def line(self, *shown: RenderableType) -> None:
        """Print something that stays."""
        terminal.show(*shown, on=self._console)

    # --- stages ---

    def begin(self, path: Path) -> None:
        """Say what this is."""
        head = Text("keeperd demo", "bold").append(
            ": the real daemon, real text, and nothing scripted to succeed"
        )
        self.line(head)
        self.line(
            terminal.text(
                f"reading documentation of this machine's Python; all goes into {path}", terminal.QUIET
            )
        )

    def stage(self, number: str, stage: Stage) -> None:
        """A new stage begins."""
        self._seen = None
        self.line(Text(f"\n{number}  {stage.title}", "bold"))
        self.line(terminal.text(stage.told))

    def asked(self, what: str) -> None:
        """Something that a user would type."""
        self.line(Text("  $ ", terminal.QUIET).append(what))

    def dropped(self, drop: Drop) -> None:
        """A file went into the watched folder."""
        what = f"  + {drop.name}: {terminal.count(len(drop.rows), 'labelled text')}"
        self.line(Text(what, "bold cyan").append(f", {drop.note}" if drop.note else "", "not bold"))
        row = drop.rows[0]
        room = max(self._console.width - len(row.label) - 16, 20)
        self.line(
            terminal.text(f'    e.g. "{terminal.plain(row.text, room)}" ', terminal.QUIET).append(row.label)
        )

    # --- events ---

    def seen(self, seen: Seen) -> None:
        """Tell what is new."""
        self._seen = seen
        for story in seen.stories:
            for event in story["events"]:
                if event["id"] not in self._told:
                    self._told.add(event["id"])
                    self._event(event, story)

    def _event(self, event: Mapping[str, Any], story: Story) -> None:
        ended = event["to"] in CLOSED
        why, self._last_why = self._news(event), str(event["why"])
        if event["kind"] == "opened" or event["from"] == "QUEUED" or (not why and not ended):
            return
        state = str((event["to"] if ended else event["from"]) or event["kind"])
        style = terminal.STYLES.get(state, "cyan") if ended else "cyan"
        line = Table.grid(padding=(0, 1))
        line.add_column(width=1)
        line.add_column(no_wrap=True, width=11)
        line.add_column(overflow="fold")
        line.add_row("", Text(state, style), terminal.text(why, "" if ended else terminal.QUIET))
        if event["from"] == "ASSESS":
            for words in _explained(story["facts"].get("assess") or {}):
                line.add_row("", "", words)
        self.line(line)

    def _news(self, event: Mapping[str, Any]) -> str:
        """Why something was done, without what was said just before."""
        return str(event["why"]).replace(self._last_why, "").strip(" :") if self._last_why else event["why"]

    # --- the moving part ---

    def _moving(self) -> RenderableType:
        clock = Text(f"{_minutes(time.monotonic() - self._began)} ", terminal.QUIET)
        latest = self._seen.latest if self._seen else None
        if self._seen is None or latest is None or self._seen.at_rest:
            return Group(Text(), Text("  ").append(clock).append("watching", terminal.QUIET))
        bar = Table.grid(padding=(0, 1))
        fraction = self._seen.fraction
        shown = ProgressBar(total=1.0, completed=fraction or 0.0, width=24, pulse=fraction is None)
        bar.add_row(" ", self._spinner, shown, clock, terminal.text(self._seen.words, limit=48))
        return Group(Text(), _track(latest), bar)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _track(story: Story) -> Text:
    """The states on the way to a promotion: passed, present, to come."""
    state = story["cycle"]["state"]
    passed = {event["from"] for event in story["events"] if event["from"] != event["to"]}
    track = Text("   ")
    for name in PATH:
        if name == state:
            track.append(f"[{name}]", "bold cyan")
        elif name in passed:
            track.append(name.lower(), terminal.GOOD)
        else:
            track.append(name.lower(), terminal.QUIET)
        track.append("  ")
    if state not in PATH:
        track.append(f"[{state}]", "bold " + terminal.STYLES.get(state, "cyan"))
    return track


def _explained(report: Mapping[str, Any]) -> Iterable[Text]:
    """What the detectors saw, in words: only where something has changed."""
    for signal in report.get("signals") or []:
        if not signal["drifted"]:
            continue
        yield terminal.text(signal["summary"], terminal.QUIET)
        terms = signal.get("words") or []
        for name, chosen in (
            ("words that came", [one["term"] for one in terms if one["z"] > 0]),
            ("words that went", [one["term"] for one in terms if one["z"] < 0]),
        ):
            if chosen:
                words = "  ".join(terminal.plain(term, 30) for term in chosen[:WORDS])
                yield Text(f"{name}: ", terminal.QUIET).append(words, "cyan")
