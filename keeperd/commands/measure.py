"""Commands that compute: a prediction of the champion."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from keeperd import terminal
from keeperd.api import BadInputError
from keeperd.commands.drift import PANEL, offline
from keeperd.commands.setup import JsonOption, setup_of
from keeperd.store.views import NotInLedgerError

MOST_TEXTS = 10_000
LONGEST_TEXT = 1 << 20


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=PANEL)(predict)


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
    offline()
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
