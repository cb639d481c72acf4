"""Commands that compute: drift between two files, a prediction of the champion."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from keeperd import terminal
from keeperd.api import BadInputError, Columns, PluginError
from keeperd.commands.setup import JsonOption, setup_of
from keeperd.exits import DRIFT
from keeperd.store.views import NotInLedgerError

PANEL = "Try"
MOST_TEXTS = 10_000
LONGEST_TEXT = 1 << 20


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel=PANEL)(drift)
    app.command(rich_help_panel=PANEL)(predict)


def drift(
    reference: Annotated[Path, typer.Argument(help="File of rows as they were.")],
    current: Annotated[Path, typer.Argument(help="File of rows as they are now.")],
    text_column: Annotated[str, typer.Option(help="What the text's column is called.")] = "text",
    label_column: Annotated[str, typer.Option(help="What the label's column is called.")] = "label",
    time_column: Annotated[str, typer.Option(help="What the time's column is called.")] = "time",
    encoder: Annotated[
        Path | None,
        typer.Option(help="Model folder whose embeddings are compared too. [default: words alone]"),
    ] = None,
    alpha: Annotated[float, typer.Option(min=1e-6, max=0.5, help="Chance of a false alarm.")] = 0.01,
    as_json: Annotated[bool, JsonOption] = False,
    html: Annotated[Path | None, typer.Option(help="Write a report as one HTML file.")] = None,
) -> None:
    """Has the text changed between two files? Exit code 0: no, 3: yes, 2: bad input."""
    _offline()
    if html is not None and (html.is_dir() or not html.absolute().parent.is_dir()):
        problem = "is a folder; name a file" if html.is_dir() else "its folder is not there; make it first"
        raise BadInputError(f"{html}: {problem}")
    from keeperd.drift.compare import compare

    columns = Columns(text=text_column, label=label_column, time=time_column)
    try:
        report = compare(reference, current, columns=columns, encoder=encoder, alpha=alpha, html=html)
    except PluginError as error:
        raise BadInputError(str(error)) from error  # too few rows
    if as_json:
        terminal.show_json(report)
    else:
        _show_drift(report)
    if report["drifted"]:
        raise typer.Exit(DRIFT)


def _show_drift(report: Mapping[str, Any]) -> None:
    from keeperd.terminal.parts import assess

    line = Text("drift", terminal.BAD) if report["drifted"] else Text("no drift", terminal.GOOD)
    rows = report["rows"]
    line.append(f": {terminal.count(rows['current'], 'row')} against {terminal.count(rows['reference'])}", "")
    if rows["bad"]:
        line.append(f", {terminal.count(rows['bad'])} refused", terminal.ASK)
    if report["calibrated_on"]:
        line.append(f"; calibrated on {terminal.plain(report['calibrated_on'], 80)}", terminal.QUIET)
    terminal.show(line, assess(report))


def predict(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; without any, lines of standard input.")
    ] = None,
    as_json: Annotated[bool, JsonOption] = False,
) -> None:
    """What the champion says of texts, computed as it is when it serves."""
    from keeperd import versions

    setup = setup_of(context)
    settings = setup.settings.model.get(model)
    if settings is None:
        known = ", ".join(sorted(setup.settings.model)) or "none"
        raise NotInLedgerError(f"no model {model!r} in the configuration; there are: {known}")
    _offline()
    wanted = texts or _lines()
    folder = versions.resolve(setup.paths.model(model))
    from keeperd.inference import Predictor

    with Predictor(folder, settings.export.providers) as predictor:
        scores = _softmax(predictor, wanted)
    told = [_told(text, predictor.classes, shares) for text, shares in zip(wanted, scores, strict=True)]
    if as_json:
        terminal.show_json(
            {"model": model, "version": int(folder.name), "provider": predictor.provider, "predictions": told}
        )
        return
    table = terminal.simple_table("label", "", "text", right=("",))
    table.columns[1].no_wrap = True
    for one in told:
        table.add_row(
            terminal.text(one["label"], "bold", 60),
            terminal.percent(one["confidence"]),
            terminal.text(one["text"], limit=300),
        )
    terminal.show(table)


def _offline() -> None:
    """No network and no telemetry; some libraries look at this when they are imported."""
    for name in ("HF_HUB_OFFLINE", "DO_NOT_TRACK", "ORT_DISABLE_TELEMETRY"):
        os.environ[name] = "1"


def _lines() -> list[str]:
    lines = []
    while line := sys.stdin.readline(LONGEST_TEXT):
        if line.strip():
            lines.append(line.rstrip("\r\n"))
        if len(lines) > MOST_TEXTS:
            raise BadInputError(f"standard input: more than {MOST_TEXTS} lines; give fewer at a time")
    if not lines:
        raise BadInputError("no text; give some as arguments, or lines on standard input")
    return lines


def _softmax(predictor: Any, texts: list[str]) -> list[list[float]]:
    import numpy as np

    logits = predictor.predict(texts).logits.astype(float)
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: list[list[float]] = (scores / scores.sum(axis=1, keepdims=True)).tolist()
    return shares


def _told(text: str, classes: tuple[str, ...], scores: list[float]) -> dict[str, Any]:
    best = max(range(len(scores)), key=scores.__getitem__)
    return {
        "text": text,
        "label": classes[best],
        "confidence": scores[best],
        "scores": dict(zip(classes, scores, strict=True)),
    }
