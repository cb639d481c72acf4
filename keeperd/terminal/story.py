"""`keeperd why`: one cycle as a chain of evidence, from its trigger to its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from keeperd.terminal import ASK, BAD, QUIET, STYLES, clock, plain, span, text
from keeperd.terminal.parts import PARTS, Facts, probation


def story(told: Facts) -> Group:
    """The story that `views.story` tells; parts that are not there yet are left out."""
    cycle, facts, events = told["cycle"], told["facts"], told["events"]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")

    def add(name: str, at: str | None, shown: RenderableType) -> None:
        grid.add_row(_label(name, at, cycle["opened_at"]), shown)

    add("trigger", cycle["opened_at"], text(f"{cycle['trigger']}: {cycle['why']}"))
    for name, key, state, render in PARTS:
        if facts.get(key) is not None:
            add(name, _left_at(events, state), render(facts[key]))
    for event in events:
        if event["kind"] in _TOLD:
            add(_TOLD[event["kind"]], event["at"], text(event["why"]))
    if facts.get("probation") is not None:
        add("probation", None, probation(facts["probation"], facts.get("probe") or {}))
    for run in told.get("runs", []):
        if run["state"] == "failed":
            words = text(f"{run['kind']}, attempt {run['attempt']}: {run['error']}", BAD)
            add("failed run", run["ended_at"], words)
    add("outcome", cycle["closed_at"], _outcome(cycle, events))
    return Group(_head(told), Text(), grid)


_TOLD = {"promoted": "promotion", "rolled back": "rollback", "manual": "by hand", "approval": "approval"}
"""Kinds of events that are evidence by themselves."""


def _head(told: Facts) -> Group:
    cycle = told["cycle"]
    line = Text(f"cycle {cycle['id']} of ").append(plain(told["model"], 64), "bold")
    line.append("  ").append(cycle["state"], STYLES.get(cycle["state"], "cyan"))
    when = f"opened {clock(cycle['opened_at'])} UTC"
    if cycle["closed_at"]:
        opened, closed = (datetime.fromisoformat(cycle[key]) for key in ("opened_at", "closed_at"))
        when += f", took {span((closed - opened).total_seconds())}"
    champion = "no version" if told["champion"] is None else f"version {told['champion']}"
    return Group(line, Text(f"{when}; serving now: {champion}", QUIET))


def _label(name: str, at: str | None, opened: str) -> Text:
    """What a part is called and, where known, when it was done: the date only when it is another."""
    label = Text(name, "bold")
    if at is None:
        return label
    day, time = clock(at, seconds=True).split()
    return label.append("\n" + (time if day == clock(opened)[:10] else f"{day[5:]} {time[:5]}"), QUIET)


def _left_at(events: Sequence[Facts], state: str) -> str | None:
    """When the cycle first moved on from a state."""
    return next((event["at"] for event in events if event["from"] == state and event["to"] != state), None)


def _outcome(cycle: Facts, events: Sequence[Facts]) -> Text:
    line = Text(cycle["state"], STYLES.get(cycle["state"], "cyan"))
    if cycle["closed_at"] is None:
        line.append(", not closed yet")
        if cycle["retry_at"]:
            line.append(f"; attempt {cycle['attempt']} at {clock(cycle['retry_at'], seconds=True)} UTC", ASK)
    last = next((event for event in reversed(events) if event["to"] == cycle["state"]), None)
    return line.append(": " + plain(last["why"])) if last else line
