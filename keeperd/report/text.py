"""A sheet as plain text of 78 columns: complete, and fit for a terminal or a mail without HTML.

Only a command with a very long name in it may be wider: it is there to be copied.
"""

from __future__ import annotations

from keeperd.report import evidence
from keeperd.report.sheet import Sheet
from keeperd.report.wording import WIDTH, columns, share, wrap


def text(sheet: Sheet) -> str:
    """The whole sheet."""
    head = f"keeperd: {sheet.model}" + (f", cycle {sheet.cycle}" if sheet.cycle is not None else "")
    parts = [
        [head + f"  {sheet.at}".rjust(WIDTH - len(head))] if len(head) < 54 else [*wrap(head), sheet.at],
        [sheet.page.title, "=" * len(sheet.page.title)],
        *map(wrap, sheet.page.lead.splitlines()),
        wrap(sheet.group),
    ]
    evidence_parts = [_compared(sheet), _failed(sheet), _words(sheet), _slices(sheet)]
    evidence_parts += [_watched(sheet), _facts(sheet)]
    evidence_parts += [_signals(sheet), _examples(sheet), _history(sheet)]
    steps = _next(sheet)
    parts += [steps, *evidence_parts] if sheet.page.urgent else [*evidence_parts, steps]
    parts.append(["-- ", _foot(sheet)])
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _titled(title: str, lines: list[str]) -> list[str]:
    return [title, *lines] if lines else []


def _compared(sheet: Sheet) -> list[str]:
    if not sheet.compared:
        return []
    rows = [["right on", *sheet.versions, "change", "90 % interval", "rows"]]
    rows += [
        [
            one.name,
            share(one.champion),
            share(one.candidate),
            evidence.change(one.change),
            one.interval,
            f"{one.rows:,}" if one.rows is not None else "",
        ]
        for one in sheet.compared
    ]
    return columns(rows)


def _watched(sheet: Sheet) -> list[str]:
    seen = sheet.watch
    if seen is None or seen.champion is None:
        return []
    row = ["new labels", share(seen.predecessor), share(seen.champion), f"{seen.rows:,}"]
    return columns([["right on", *sheet.versions, "rows"], row])


def _failed(sheet: Sheet) -> list[str]:
    lines = [line for one in sheet.failed for line in wrap(one.text, "    ", "  - ")]
    lines += [f"  and {sheet.more} more"] if sheet.more else []
    return _titled("Failed checks", lines)


def _words(sheet: Sheet) -> list[str]:
    rows = [[one.term, one.change] for one in sheet.words]
    return _titled("What changed (share of texts with it, before to now)", columns(rows))


def _slices(sheet: Sheet) -> list[str]:
    rows = [[one.term, one.change] for one in sheet.slices]
    return _titled("Groups of texts that changed (share of all, before to now)", columns(rows))


def _facts(sheet: Sheet) -> list[str]:
    width = max((len(label) for label, _ in sheet.facts), default=0) + 2
    lines = []
    for label, value in sheet.facts:
        lines += wrap(value, " " * (width + 2), f"  {label:<{width}}")
    return lines


def _signals(sheet: Sheet) -> list[str]:
    told = {True: "same:    ", False: "changed: "}
    lines = [line for one in sheet.signals for line in wrap(one.text, " " * 11, f"  {told[one.passed]}")]
    return _titled("Signals", lines)


def _examples(sheet: Sheet) -> list[str]:
    new = _titled("New texts", [line for one in sheet.examples for line in wrap(one, "  | ")])
    gone = _titled("Texts that are missing now", [line for one in sheet.gone for line in wrap(one, "  | ")])
    return [*new, *([""] if new and gone else []), *gone]


def _history(sheet: Sheet) -> list[str]:
    lines = []
    for at, what, why in sheet.history:
        lines += [f"  {at}  {what}", *wrap(why, "    ")]
    return _titled("What happened", lines)


def _next(sheet: Sheet) -> list[str]:
    lines = wrap(sheet.page.next)
    width = max((len(one.text) for one in sheet.page.commands), default=0)
    for one in sheet.page.commands:
        lines += ["", f"    {one.text}"] if width > 40 else []
        lines += wrap(one.what, "      ") if width > 40 else [f"    {one.text:<{width}}   {one.what}"]
    return lines


def _foot(sheet: Sheet) -> str:
    event = f", event {sheet.event}" if sheet.event is not None else ""
    return f"keeperd on {sheet.host}{event}"
