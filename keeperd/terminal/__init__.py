"""How keeperd talks to a terminal: one console, text made harmless, figures as people read them,
and the tables of `status` and `timeline`.

Without a terminal there are no colours and no cursor movements. Words, not signs, carry the
meaning, so that nothing is lost in a pipe, in a mail, or for those who do not see colours.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from keeperd.api import JSON
from keeperd.finding import Finding

LONGEST = 2000
"""Characters of one piece of text from data that are shown."""

GOOD, BAD, ASK, QUIET = "green", "bold red", "yellow", "dim"

STYLES = {
    "COMPLETED": GOOD, "PROBATION": GOOD, "ROLLED_BACK": BAD, "REJECTED": ASK, "FAILED": BAD,
    "APPROVAL": ASK, "SKIPPED": QUIET,
}  # fmt: skip


def plain(value: object, limit: int = LONGEST) -> str:
    """Text from anywhere as one harmless line: what a terminal could obey, or what hides or turns
    text around, is shown as an escape such as \\x1b; at most `limit` characters."""
    text = str(value)
    if len(text) > limit:
        text = text[: max(limit - 3, 0)] + "..."
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return " " if char in "\u00a0\u3000" else char.encode("unicode_escape").decode("ascii")


def text(value: object, style: str = "", limit: int = LONGEST) -> Text:
    """`plain` text for rich; never read as markup."""
    return Text(plain(value, limit), style=style)


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """The console on standard output or standard error."""
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False, soft_wrap=False)


def show(*shown: RenderableType, on: Console | None = None) -> None:
    """Print; without a terminal there are no blanks at the ends of lines."""
    out = on or console()
    if out.is_terminal:
        out.print(*shown)
        return
    with out.capture() as captured:
        out.print(*shown)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))
    sys.stdout.flush()


def show_json(value: JSON) -> None:
    """A value for programs; ASCII, so that no control character is ever written."""
    json.dump(value, sys.stdout, indent=2, allow_nan=False, default=str)
    sys.stdout.write("\n")


# --- figures --------------------------------------------------------------------------------------


def count(n: float | None, word: str = "", words: str = "") -> str:
    """1240 -> "1,240"; with a word: "1 row", "1,240 rows"."""
    if n is None:
        return "?"
    if not word:
        return f"{n:,.0f}"
    return f"{n:,.0f} {word if n == 1 else words or word + 's'}"


def percent(share: float | None) -> str:
    """0.912 -> "91.2 %"."""
    return "-" if share is None else f"{100 * share:.1f} %"


def figure(value: object, digits: int = 3) -> str:
    """A figure of unknown unit, "-" where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else plain(value, 40)
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def milliseconds(value: float | None) -> str:
    """4.123 -> "4.1 ms"."""
    return "-" if value is None else f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"


def span(seconds: float) -> str:
    """A length of time in its two largest units: "4 min 12 s"."""
    whole = max(round(seconds), 0)
    for (large, size), (small, part) in pairwise([("d", 86400), ("h", 3600), ("min", 60), ("s", 1)]):
        if whole >= size:
            n, rest = divmod(whole, size)
            return f"{n} {large} {rest // part} {small}" if rest >= part else f"{n} {large}"
    return f"{whole} s"


def ago(moment: str | None, now: datetime) -> str:
    """An ISO time as its distance in the largest unit: "3 h ago"."""
    if moment is None:
        return "-"
    seconds = (now - datetime.fromisoformat(moment)).total_seconds()
    return "now" if seconds < 1 else " ".join(span(seconds).split()[:2]) + " ago"


def clock(moment: str | None, *, seconds: bool = False) -> str:
    """An ISO time as "2025-11-20 03:00", UTC."""
    if moment is None:
        return "-"
    return (
        datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%d %H:%M" + (":%S" if seconds else ""))
    )


# --- status ---------------------------------------------------------------------------------------


def simple_table(*columns: str, right: Iterable[str] = ()) -> Table:
    """A table with a rule below its head and no other lines."""
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold"
    )
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def status(seen: Mapping[str, Any], now: datetime) -> Group:
    """What every model does, and what needs a person. `seen` is `commands.look.gather`'s."""
    head = Text("daemon ")
    head.append(*(("running", GOOD) if seen["daemon"] else ("not running", BAD)))
    waiting = seen["deliveries"].get("pending", 0)
    head.append(f"   messages waiting {count(waiting)}" if waiting else "", ASK)
    table = simple_table(
        "model", "state", "champion", "accuracy", "latency", "last decision", right=("latency",)
    )
    for name in ("model", "champion", "accuracy", "latency"):
        column = next(one for one in table.columns if one.header == name)
        column.no_wrap = name != "model"
    table.columns[-1].ratio = 1
    for model in seen["models"]:
        table.add_row(
            text(model["name"], "bold"), _state(model), _champion(model), _accuracy(model.get("serving")),
            milliseconds((model.get("serving") or {}).get("verified_ms")), _last(model.get("last"), now),
        )  # fmt: skip
    parts: list[RenderableType] = [head, Text(), table]
    if not seen["models"]:
        parts[2] = Text("no model yet: add [model.NAME] to the configuration, then `keeperd init NAME`")
    needs = [(model["name"], need) for model in seen["models"] for need in model["needs"]]
    if needs:
        parts += [Text(), Text("needs you", "bold " + ASK), *_needs(needs)]
    return Group(*parts)


def _needs(needs: list[tuple[str, str]]) -> list[RenderableType]:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, need in needs:
        grid.add_row(text(name, "bold", 64), text(need))
    return [grid]


def _state(model: Mapping[str, Any]) -> Text:
    cycle = model.get("cycle")
    if cycle is not None:
        state = Text(cycle["state"], STYLES.get(cycle["state"], "cyan"))
        if model.get("progress") is not None:
            state.append(f" {100 * model['progress']:.0f} %", "cyan")
        if model["paused"]:
            state.append(", paused", ASK)
        return state
    if model["paused"]:
        return Text("paused", ASK)
    return Text("watching", GOOD) if model["champion"] is not None else Text("no version", ASK)


def _champion(model: Mapping[str, Any]) -> str:
    return "-" if model["champion"] is None else f"version {model['champion']}"


def _accuracy(serving: Mapping[str, Any] | None) -> Text:
    """Measured on labels that came since, or else as accepted."""
    if serving is None:
        return Text("-")
    if serving["accuracy"] is not None:
        return Text(percent(serving["accuracy"])).append(f"\non {count(serving['rows'], 'row')}", QUIET)
    if serving["accepted"] is not None:
        return Text(percent(serving["accepted"])).append("\nat first", QUIET)
    return Text("-")


def _last(last: Mapping[str, Any] | None, now: datetime) -> Text:
    if last is None:
        return Text("none yet", QUIET)
    decision = Text(f"#{last['id']} ").append(last["state"], STYLES.get(last["state"], ""))
    decision.append(f" {ago(last['closed_at'], now)}\n")
    return decision.append(plain(last.get("outcome") or last["why"], 160), QUIET)


# --- timeline -------------------------------------------------------------------------------------


def timeline(model: str, cycles: Iterable[Mapping[str, Any]]) -> Group:
    """The latest cycles, oldest first."""
    table = simple_table("cycle", "opened (UTC)", "took", "trigger", "outcome", right=("cycle", "took"))
    for column in table.columns[:4]:
        column.no_wrap = True
    table.columns[-1].ratio = 1
    for cycle in cycles:
        outcome = Text(cycle["state"], STYLES.get(cycle["state"], "cyan"))
        outcome.append(" " + plain(cycle.get("outcome") or cycle["why"], 400))
        table.add_row(
            str(cycle["id"]),
            clock(cycle["opened_at"]),
            _took(cycle),
            text(cycle["trigger"], limit=12),
            outcome,
        )
    if not table.rows:
        return Group(text(f"{model}: no cycle yet; `keeperd init {model}` makes version 1"))
    return Group(table)


def _took(cycle: Mapping[str, Any]) -> str:
    if cycle["closed_at"] is None:
        return "open"
    opened, closed = (datetime.fromisoformat(cycle[key]) for key in ("opened_at", "closed_at"))
    return span((closed - opened).total_seconds())


# --- check and verify -----------------------------------------------------------------------------


def finding(one: Finding, *, repaired: bool = False) -> Text:
    """One line: how it stands, what, what is wrong, what to do."""
    word, style = {"ok": ("ok", GOOD), "warn": ("warn", ASK), "wrong": ("WRONG", BAD)}[one.level]
    line = Text(f"{'mended' if repaired else word:<7}", GOOD if repaired else style).append(plain(one.what))
    line.append(": " + plain(one.found) if one.found else "", QUIET if one.level == "ok" else "")
    return line if repaired or not one.do else line.append("; " + plain(one.do), "bold")
