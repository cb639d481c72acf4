"""Pictures of a report, drawn with matplotlib: PNG on a transparent ground, in colours that can be
read on white and on black alike, since mail programs turn dark without asking.

No text from data is drawn: fonts lack letters that words have, and matplotlib would read `$` in them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keeperd.report.evidence import Compared, Watch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_PX = 350
"""Width of a picture where it is shown; it has twice as many pixels."""

MOST_EVIDENCE = 1e9
"""Where the scale of evidence ends."""

TEXT = "#7b8088"
FAINT = "#8a909a55"
OLD = "#8a909a"
GOOD = "#1f9d63"
BAD = "#dd4b45"


def candidate(sets: Sequence[Compared]) -> bytes:
    """Champion and candidate on each test set: a grey and a coloured dot on a scale of accuracy; the
    bar is the 90 % interval of the difference, the tick the least that passes."""
    figure, axes = _canvas(28 * len(sets) + 22)
    for line, one in enumerate(sets):
        y, colour = -line, GOOD if one.passed else BAD
        axes.plot([one.champion, one.candidate], [y, y], color=FAINT, lw=2, zorder=1)
        if one.low is not None and one.high is not None:
            ends = [one.champion + one.low, one.champion + one.high]
            axes.plot(ends, [y, y], color=colour, lw=5, alpha=0.35, solid_capstyle="round", zorder=2)
        if one.limit is not None:
            least = one.champion + one.limit
            axes.plot([least, least], [y - 0.3, y + 0.3], color=TEXT, lw=1, zorder=3)
        axes.plot(one.champion, y, "o", color=OLD, ms=6.5, zorder=4)
        axes.plot(one.candidate, y, "o", color=colour, ms=7.5, zorder=5)
    axes.set_ylim(0.6 - len(sets), 0.6)
    axes.set_yticks([-line for line in range(len(sets))], [one.name for one in sets])
    low, high = axes.get_xlim()
    axes.set_xlim(max(low - 0.01, 0.0), min(high + 0.01, 1.0))
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    axes.tick_params(axis="y", labelsize=8.5, pad=6)
    return _png(figure)


def probation(watch: Watch) -> bytes:
    """The evidence against the new champion, row by row, on a logarithmic scale, under the limit
    at which it is rolled back."""
    figure, axes = _canvas(120)
    rows = [0, *(n for n, _ in watch.trail)]
    evidence = [1.0, *(min(e, MOST_EVIDENCE) for _, e in watch.trail)]
    limit = None if watch.limit is None else min(max(watch.limit, 1.0), MOST_EVIDENCE)
    over = limit is not None and evidence[-1] >= limit
    axes.plot(rows, evidence, color=BAD if over else GOOD, lw=2, marker="o", ms=3)
    axes.set_yscale("log")
    top = max([*evidence, limit or 1.0])
    axes.set_ylim(0.8, 10 ** (math.log10(top) * 1.25 + 0.1))
    if limit is not None:
        axes.axhline(limit, color=TEXT, lw=1, ls=(0, (4, 3)))
        axes.annotate(
            "rolls back here", (0, limit), (2, 3), textcoords="offset points", fontsize=8, color=TEXT
        )
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.minorticks_off()
    axes.set_xlim(0, max(rows) * 1.02 or 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f} rows" if value else "")
    axes.locator_params(axis="x", nbins=4, integer=True)
    return _png(figure)


def _canvas(height_px: int) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_PX / 100, height_px / 100), dpi=200)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=TEXT, labelsize=8, length=0)
    axes.grid(axis="x", color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    data = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(data, format="png", transparent=True, metadata={"Software": None})
    return data.getvalue()
