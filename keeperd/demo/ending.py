"""The end of the demo: what was decided, where things are, a prediction, and what to try next."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from keeperd import terminal
from keeperd.demo.drops import Row
from keeperd.demo.folder import MODEL, Folder
from keeperd.demo.keeper import Story, command
from keeperd.demo.show import Show


@dataclass(frozen=True)
class Result:
    """What came of a stage: the stories of its cycles, and how long it took in seconds."""

    title: str
    stories: Sequence[Story]
    seconds: float


def tell(
    show: Show, folder: Folder, results: Sequence[Result], status: Mapping[str, Any], row: Row, seconds: float
) -> None:
    """Print it all. `status` is `Keeper.status`'s, `row` is one that no version has seen."""
    show.line(Text("\nWhat keeperd decided", "bold"))
    show.line(_table(results))
    show.line(Text(f"{terminal.span(seconds)} in all", terminal.QUIET))
    show.line(Text("\nWhere things are", "bold"))
    show.line(_places(folder, status))
    if status["champion"] is not None:
        show.line(Text("\nA prediction of that ONNX model, for a text that it has never seen", "bold"))
        _predict(show, folder, row)
    show.line(Text("\nNext", "bold"))
    _next(show, folder, results)


# --- what was decided -------------------------------------------------------------------------------


def _table(results: Sequence[Result]) -> Table:
    table = terminal.simple_table("stage", "keeperd", "because", "took", right=("took",))
    table.columns[0].width, table.columns[1].width, table.columns[2].ratio = 15, 24, 1
    table.columns[3].no_wrap = True
    for result in results:
        decisions = list(dict.fromkeys(decided(story) for story in result.stories))
        why = because(result.stories[-1]) if result.stories else ""
        table.add_row(
            result.title,
            "; ".join(decisions),
            terminal.text(why),
            f"{result.seconds:.0f} s",
            end_section=True,
        )
    return table


def decided(story: Story) -> str:
    """What was done in a cycle, in a few words."""
    facts, state = story["facts"], story["cycle"]["state"]
    version = facts.get("version")
    if state == "SKIPPED":
        action = (facts.get("decision") or {}).get("action")
        known = {"suspect": "refused the batch", "tell": "told you of drift", "wait": "waits for more rows"}
        return known.get(str(action), "left it alone")
    if state == "COMPLETED":
        first = facts.get("predecessor") is None
        return f"made version {version}" if first else f"promoted version {version}, and kept it"
    known = {
        "REJECTED": f"refused version {version}",
        "PROBATION": f"promoted version {version}, on probation still",
        "ROLLED_BACK": f"promoted version {version}, then rolled back to {facts.get('restored')}",
    }
    return known.get(state, str(state).lower().replace("_", " "))


def because(story: Story) -> str:
    """The sentence of the ledger that says why."""
    facts, state = story["facts"], story["cycle"]["state"]
    if state == "COMPLETED" or (state == "PROBATION" and "gate" in facts):
        return proof(facts["gate"])
    if state == "ROLLED_BACK":
        return str(facts.get("rollback_why") or "")
    return str(story["events"][-1]["why"])


def proof(verdict: Mapping[str, Any]) -> str:
    """What the gate says of new rows, without the figures behind it."""
    told = next((check["text"] for check in verdict["checks"] if check["name"] in {"new", "floor"}), "")
    return str(told or verdict["summary"]).partition(" (")[0].partition(";")[0]


# --- where things are -------------------------------------------------------------------------------


def _places(folder: Folder, status: Mapping[str, Any]) -> Table:
    grid = _grid()
    waiting = status["deliveries"].get("pending", 0)
    later = "; one more waits, as equal news within ten minutes go into one" if waiting else ""
    mails = terminal.count(len(folder.mails()), "message")
    grid.add_row("mail", here(folder.mail / "new"), f"{mails}{later}")
    pages = terminal.count(len(list(folder.state.folder.glob("reports/*/*.html"))), "HTML page")
    grid.add_row("reports", here(folder.state.report(0).parent), f"a folder a cycle; {pages}")
    if (model := onnx_model(folder)) is not None:
        size = f"version {status['champion']}, {model.stat().st_size / 1e6:.0f} MB"
        grid.add_row("ONNX model", here(model), size)
    grid.add_row("configuration", here(folder.config), "short, with comments")
    grid.add_row("ledger and log", here(folder.state.database), here(folder.log))
    return grid


def onnx_model(folder: Folder) -> Path | None:
    """The artefact that serves, None where there is none."""
    live = folder.state.model(MODEL).live
    if not live.exists():
        return None
    chosen = json.loads((live / "parity.json").read_bytes())["chosen"]
    found = sorted(live.rglob(Path(chosen).name))
    return found[0] if found else None


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_column(overflow="fold", style=terminal.QUIET)
    return grid


def here(path: Path) -> str:
    """A path as seen from the current directory, where it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


# --- a prediction, and what next --------------------------------------------------------------------


def _predict(show: Show, folder: Folder, row: Row) -> None:
    show.asked(f'{called(folder)} predict {MODEL} "{terminal.plain(row.text, 60)}"')
    done = subprocess.run(
        [*command(folder), "predict", MODEL, row.text, "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        show.line(terminal.text(done.stderr.strip(), terminal.BAD))
        return
    told = json.loads(done.stdout)
    one = told["predictions"][0]
    line = Text(f"    {one['label']}", "bold").append(
        f"  {terminal.percent(one['confidence'])}", terminal.QUIET
    )
    line.append(f"  by version {told['version']} on {told['provider']}", terminal.QUIET)
    show.line(line.append(f"; {row.source} is about {row.label}", terminal.QUIET))


def _next(show: Show, folder: Folder, results: Sequence[Result]) -> None:
    keeperd = called(folder)
    last = results[-1].stories[-1]["cycle"]["id"] if results[-1].stories else 1
    for words, what in (
        (f"timeline {MODEL}", "all cycles, each with its decisive sentence"),
        (f"why {last}", "the evidence behind the last one"),
        ("run", f"let the daemon go on, and drop files of your own into {here(folder.incoming)}"),
    ):
        show.line(Text(f"  {keeperd} {words}"))
        show.line(Text(f"      {what}", terminal.QUIET))


def called(folder: Folder) -> str:
    """`keeperd --config ...`, as it can be typed here."""
    program = Path(sys.argv[0])
    if program.name != "keeperd":
        typed = "python -m keeperd"
    elif (found := shutil.which("keeperd")) and Path(found).samefile(program):
        typed = "keeperd"
    else:
        typed = here(program.absolute())
    return f"{typed} --config {here(folder.config)}"
