"""`keeperd drift`: two files compared, or the monitor over one dated file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from keeperd import terminal
from keeperd.api import BadInputError, Columns, PluginError
from keeperd.commands.follow import display
from keeperd.commands.setup import JsonOption
from keeperd.exits import DRIFT

PANEL = "Try"
LINE_EVERY = 10.0
"""Seconds between two lines of progress, where there is no terminal to draw a bar on."""


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=PANEL)(drift)


def drift(
    context: typer.Context,
    reference: Annotated[Path | None, typer.Argument(help="File of rows as they were.")] = None,
    current: Annotated[Path | None, typer.Argument(help="File of rows as they are now.")] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Dated file: when would the monitor have alarmed over it?")
    ] = None,
    text_column: Annotated[str, typer.Option(help="What the text's column is called.")] = "text",
    label_column: Annotated[str, typer.Option(help="What the label's column is called.")] = "label",
    time: Annotated[
        str,
        typer.Option(
            metavar="COLUMN", help="What the time's column is called; if given, there must be times."
        ),
    ] = "time",
    encoder: Annotated[
        Path | None,
        typer.Option(help="Model folder whose embeddings are compared too. [default: words alone]"),
    ] = None,
    alpha: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="Chance of a false alarm of one comparison.")
    ] = 0.01,
    budget: Annotated[
        float, typer.Option(min=0.01, max=50, help="Of a replay: false alarms borne in 365 blocks of days.")
    ] = 1.0,
    reference_blocks: Annotated[
        int,
        typer.Option("--reference", min=14, metavar="N", help="Of a replay: first blocks as the reference."),
    ] = 30,
    as_json: Annotated[bool, JsonOption] = False,
    html: Annotated[Path | None, typer.Option(help="Write a report as one HTML file.")] = None,
    png: Annotated[Path | None, typer.Option(help="Of a replay: write its picture.")] = None,
) -> None:
    """Has the text changed between two files, or (--replay FILE) when over the days of one? Exit code 0: no,
    3: yes, 2: bad input."""
    given = {name for name in context.params if _is_given(context, name)}
    _check(given, replay, [html, png])
    offline()
    columns = Columns(text=text_column, label=label_column, time=time)
    try:
        if replay is not None:
            report = _replay(replay, columns, budget, reference_blocks, html, png)
        elif reference is None or current is None:
            raise BadInputError("two files are needed, REFERENCE and CURRENT, or --replay FILE; see --help")
        else:
            from keeperd.drift.compare import compare

            timed = "time" in given
            report = compare(
                reference, current, columns=columns, encoder=encoder, alpha=alpha, html=html, timed=timed
            )
    except PluginError as error:
        raise BadInputError(str(error)) from error  # too few rows
    if as_json:
        terminal.show_json(report)
    elif replay is not None:
        _show_replay(report)
    else:
        _show_drift(report)
    if report["alarms"] if replay is not None else report["drifted"]:
        raise typer.Exit(DRIFT)


# --- what was asked for ---------------------------------------------------------------------------

OF_REPLAY = {"budget": "--budget", "reference_blocks": "--reference", "png": "--png"}
OF_TWO = {"reference": "REFERENCE", "current": "CURRENT", "encoder": "--encoder", "alpha": "--alpha"}


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _check(given: set[str], replay: Path | None, written: list[Path | None]) -> None:
    """Refuse what does not go together, and files that cannot be written.

    Raises:
        BadInputError: so it is.
    """
    for name, option in (OF_TWO if replay is not None else OF_REPLAY).items():
        if name in given:
            other = "cannot be together with --replay" if replay is not None else "needs --replay FILE"
            raise BadInputError(f"{option} {other}; see --help")
    for path in written:
        if path is not None and path.is_dir():
            raise BadInputError(f"{path}: is a folder; name a file")
        if path is not None and not path.absolute().parent.is_dir():
            raise BadInputError(f"{path}: its folder is not there; make it first")


def offline() -> None:
    """No network and no telemetry, and one thread for matrices: ours are so small that more threads wait for
    one another. Libraries look at this when they are imported."""
    for name in ("HF_HUB_OFFLINE", "DO_NOT_TRACK", "ORT_DISABLE_TELEMETRY"):
        os.environ[name] = "1"
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


# --- the replay -----------------------------------------------------------------------------------


def _replay(
    path: Path, columns: Columns, budget: float, blocks: int, html: Path | None, png: Path | None
) -> dict[str, Any]:
    from keeperd.drift.replay import replay

    with _progress() as tell:
        report = replay(path, columns=columns, budget=budget, reference_blocks=blocks, tell=tell)
    if html is not None or png is not None:
        from keeperd.drift import chart, replay_page

        picture = chart.chart(report)
        if png is not None:
            png.write_bytes(picture)
        if html is not None:
            html.write_text(replay_page.page(report, path.name, picture), encoding="utf-8")
    return report


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar on standard error, or where it is no terminal a line now and then."""
    console = terminal.console(stderr=True)
    last = monotonic()

    def line(fraction: float, words: str) -> None:
        nonlocal last
        if monotonic() - last >= LINE_EVERY:
            last = monotonic()
            console.print(terminal.plain(f"{100 * fraction:.0f} %: {words}"))

    with display(console) as show:
        yield (lambda fraction, words: show(words, fraction)) if console.is_terminal else line


def _show_replay(report: Mapping[str, Any]) -> None:
    from keeperd.terminal.replay import told

    terminal.show(told(report, terminal.console().width))


# --- the comparison -------------------------------------------------------------------------------


def _show_drift(report: Mapping[str, Any]) -> None:
    from keeperd.drift.told import EXCHANGEABLE
    from keeperd.terminal.parts import assess
    from keeperd.terminal.replay import changed

    line = Text("drift", terminal.BAD) if report["drifted"] else Text("no drift", terminal.GOOD)
    rows = report["rows"]
    line.append(f": {terminal.count(rows['current'], 'row')} against {terminal.count(rows['reference'])}", "")
    if rows["bad"]:
        line.append(f", {terminal.count(rows['bad'])} refused", terminal.ASK)
    on = terminal.plain(report["calibrated_on"], 80)
    line.append(f"; calibrated on {on}" + (f", {EXCHANGEABLE}" if on == "rows" else ""), terminal.QUIET)
    terminal.show(Group(line, assess(report), *changed(report)))
