"""How `keeperd drift` is shown in a terminal: a replay as a chart of one character a block with its alarms
below, and what changed between two files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from keeperd.drift import told as words_of
from keeperd.terminal import ASK, BAD, GOOD, QUIET, plain, text

STEPS = " ▁▂▃▄▅▆▇█"
DECADES = 6.0
"""Of p, from which on a block has the full height."""
MOST_WORDS = 8
MOST_EXAMPLES = 3
NARROWEST, WIDEST = 20, 120

Facts = Mapping[str, Any]


def told(report: Facts, width: int) -> Group:
    """What `drift.replay.replay` returned."""
    summary, rows = report["summary"], words_of.refused(report["rows"])
    head = Text(words_of.headline(report), BAD if report["alarms"] else GOOD)
    head.append(f", {report['blocks'][0]['from']} to {report['blocks'][-1]['to']}")
    reference = f"{summary['reference_from']} to {summary['reference_to']}"
    head.append(f"; reference: {summary['reference_blocks']} blocks, {reference}", QUIET)
    if rows:
        head.append(f"; {rows}", ASK)
    parts: list[RenderableType] = [head, Text(), *_chart(report["blocks"], width), Text()]
    for alarm in report["alarms"]:
        parts += _alarm(alarm)
    return Group(*parts, Text(words_of.beside(report)))


def _chart(blocks: Sequence[Facts], width: int) -> Iterator[Text]:
    """A line of blocks, the higher the less likely, over one that marks alarms (!), alarms that hold (-)
    and alarms of the test of rows (.); as many lines as it takes, each begins with its date."""
    room = max(min(width, WIDEST) - len("2026-11-26 "), NARROWEST)
    yield Text("height: how unusual the text is; ! alarm, - it holds; below . a test of rows alarms", QUIET)
    for start in range(0, len(blocks), room):
        some = blocks[start : start + room]
        yield Text(f"{some[0]['from']} ").append("".join(map(_height, some)), "cyan")
        for marks, style in ((_marks(some), BAD), (_row_marks(some), QUIET)):
            if marks.strip():
                yield Text(" " * len("2026-11-26 ")).append(marks.rstrip(), style)


def _height(block: Facts) -> str:
    from keeperd.drift.chart import decades

    share = min(max(decades(block["p"]) / DECADES, block["evidence"]), 1.0)
    return STEPS[round(share * (len(STEPS) - 1))]


def _marks(blocks: Sequence[Facts]) -> str:
    return "".join("!" if one["alarm"] else "-" if one["latched"] else " " for one in blocks)


def _row_marks(blocks: Sequence[Facts]) -> str:
    return "".join("." if one["row_alarm"] else " " for one in blocks)


def _alarm(alarm: Facts) -> Iterator[Text]:
    yield (
        Text(f"{alarm['at']} ", BAD)
        .append(plain(alarm["channel"], 60), "bold")
        .append(f": {plain(alarm['summary'])}")
    )
    yield from _words(alarm["words"])


def _words(words: Sequence[Facts]) -> Iterator[Text]:
    for name, sign in (("more", 1), ("less", -1)):
        terms = [plain(word["term"], 30) for word in words if word["z"] * sign > 0][:MOST_WORDS]
        if terms:
            yield Text(f"  {name}: ").append("  ".join(terms), "cyan")


def changed(report: Facts) -> Iterator[Text]:
    """Slices and examples each way, of what `drift.compare.compare` returned."""
    for one in report["slices"]:
        share = f"{100 * one['reference']:.1f} % -> {100 * one['current']:.1f} %"
        yield Text(f"{one['kind']} ").append(plain(one["name"], 80), "cyan").append(f": {share}")
    sides = (("current", "least like the reference:"), ("reference", "of the reference, least like these:"))
    for side, title in sides:
        shown = [one for one in report["examples"] if one["side"] == side][:MOST_EXAMPLES]
        if shown:
            yield text(title, QUIET)
        yield from (text(f"  {one['text']}", limit=160) for one in shown)
