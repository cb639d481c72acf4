"""A replay as one picture, PNG bytes: how unusual each block was, what the witness had gathered, where the
monitor alarmed, and below it where a test of rows would have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from keeperd.drift.figures import MORE, QUIET, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALARM, ROWS, WITNESS = "#c23b34", "#a86a00", "#1f8a57"
MOST_DECADES = 12.0
LEAST_EVIDENCE = 1e-4


def chart(told: Mapping[str, Any]) -> bytes:
    """The picture of what `replay.replay` returned; readable at the width of a phone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    blocks = told["blocks"]
    days = [_day(one["to"]) for one in blocks]
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    top, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=(5, 3, 1))
    _windows(top, days, blocks)
    _witness(middle, days, blocks)
    _rows(below, days, blocks)
    for axes in (top, middle):
        for alarm in told["alarms"]:
            style = "-" if alarm["channel"] == "text" else ":"
            axes.axvline(_day(alarm["at"]), color=ALARM, lw=1.4, ls=style, zorder=0)
        _hold(axes, days, blocks)
    _dates(below, days)
    below.set_xlabel("red: alarms (dotted: not of the text); pale: an alarm holds", fontsize=8, color=QUIET)
    return png(figure)


def decades(p: float | None) -> float:
    """-log10 of a p-value, at most `MOST_DECADES`; 0 where there is none."""
    return 0.0 if p is None else min(-math.log10(max(p, 10.0**-MOST_DECADES)), MOST_DECADES)


def _windows(axes: Axes, days: Sequence[float], blocks: Sequence[Mapping[str, Any]]) -> None:
    heights = [decades(one["p"]) for one in blocks]
    axes.vlines(days, 0, heights, color=MORE, lw=_width(len(days)))
    highest = max(4.0, *heights)
    _label(axes, "how unusual the text is: -log10 p of its windows", range(0, int(highest) + 1, 2))
    axes.set_ylim(0, highest * 1.08)


def _witness(axes: Axes, days: Sequence[float], blocks: Sequence[Mapping[str, Any]]) -> None:
    """Its evidence on a scale of powers of ten; nothing is drawn while an alarm holds."""
    heights = [
        math.nan if one["latched"] and not one["evidence"] else max(one["evidence"], LEAST_EVIDENCE)
        for one in blocks
    ]
    axes.plot(days, heights, color=WITNESS, lw=1.2, marker="." if len(days) < 80 else "", ms=3)
    axes.axhline(1.0, color=QUIET, lw=0.8, ls=":")
    axes.set_yscale("log")
    _label(axes, "evidence of the witness, which alarms at 1", [1e-4, 1e-2, 1])
    axes.set_ylim(LEAST_EVIDENCE / 2, 50)


def _rows(axes: Axes, days: Sequence[float], blocks: Sequence[Mapping[str, Any]]) -> None:
    alarmed = [day for day, one in zip(days, blocks, strict=True) if one["row_alarm"]]
    axes.vlines(alarmed, 0, 1, color=ROWS, lw=_width(len(days)), alpha=0.55)
    axes.set_ylim(0, 1)
    _label(axes, f"a test of rows at 5 % alarms on {len(alarmed)} of {len(days)} blocks", [])


def _hold(axes: Axes, days: Sequence[float], blocks: Sequence[Mapping[str, Any]]) -> None:
    """Shade the time in which an alarm holds."""
    start: float | None = None
    for day, one in zip([*days, days[-1]], [*blocks, {"latched": False}], strict=True):
        if one["latched"] and start is None:
            start = day
        elif not one["latched"] and start is not None:
            axes.axvspan(start, day, color=ALARM, alpha=0.08, lw=0, zorder=-1)
            start = None


def _label(axes: Axes, title: str, ticks: Sequence[float]) -> None:
    axes.set_title(title, fontsize=8, color=QUIET, loc="left", pad=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(labelsize=8, length=2, colors=QUIET)
    axes.minorticks_off()
    axes.set_yticks(list(ticks))


def _dates(axes: Axes, days: Sequence[float]) -> None:
    from matplotlib import dates

    made: Any = dates  # without types
    locator = made.AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(made.ConciseDateFormatter(locator))
    room = (days[-1] - days[0]) * 0.02
    if room:
        axes.set_xlim(days[0] - room, days[-1] + room)


def _width(blocks: int) -> float:
    """Of a line, so that the lines of many blocks do not run together."""
    return min(3.0, max(0.4, 200 / max(blocks, 1)))


def _day(day: str) -> float:
    """As matplotlib counts them: days since 1970."""
    return float((date.fromisoformat(day) - date(1970, 1, 1)).days)
