"""Pictures of a drift report, PNG bytes: which words changed, and what it does to accuracy."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from keeperd.drift import Harm

MORE, LESS, QUIET = "#3b7dd8", "#8a909a", "#7b8088"
DPI = 160
LONGEST = 24


def words(terms: Sequence[Mapping[str, Any]]) -> bytes:
    """A bar a term: the share of documents with it now, and in the reference.

    Args:
        terms: {"term", "z", "current", "reference"}, strongest first.
    """
    figure, axes = _canvas(max(len(terms), 1))
    for line, term in enumerate(terms):
        axes.barh(-line + 0.18, term["current"], height=0.34, color=MORE if term["z"] > 0 else LESS)
        axes.barh(-line - 0.18, term["reference"], height=0.34, color=QUIET, alpha=0.45)
    names = [drawable(str(term["term"]), rank) for rank, term in enumerate(terms, 1)]
    axes.set_yticks([-line for line in range(len(terms))], names)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_xlabel("share of texts with it: now (strong), reference (pale)", fontsize=8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    return png(figure)


def accuracy(harm: Harm) -> bytes | None:
    """The accuracy that was accepted, and that on the window with its interval; None where there is
    nothing to show."""
    if harm.accepted is None or harm.accuracy is None:
        return None
    figure, axes = _canvas(2)
    guessed = harm.how != "labels"
    axes.plot(harm.accepted, 1, "o", color=QUIET, ms=8)
    axes.plot(harm.accuracy, 0, "o", color=MORE, ms=8, markerfacecolor="white" if guessed else MORE)
    if harm.low is not None and harm.high is not None:
        ends = [max(harm.accepted - harm.high, 0.0), min(harm.accepted - harm.low, 1.0)]
        axes.plot(ends, [0, 0], color=MORE, lw=5, alpha=0.35, solid_capstyle="round")
    seen = "guessed without labels" if guessed else f"seen on {harm.rows} labelled rows"
    axes.set_yticks([1, 0], ["accepted", seen])
    axes.set_ylim(-0.6, 1.6)
    axes.set_xlabel("accuracy", fontsize=8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    return png(figure)


def drawable(term: str, rank: int) -> str:
    """A term as the font can draw it, or its place in the list where it has no such characters."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties())).get_charmap()
    if not all(ord(sign) in known and sign.isprintable() for sign in term):
        return f"no. {rank}"
    return term if len(term) <= LONGEST else term[: LONGEST - 1] + "…"


def _canvas(lines: int) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 0.34 * lines + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(labelsize=8, length=0, colors=QUIET)
    return figure, axes


def png(figure: Figure) -> bytes:
    """The picture as bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
