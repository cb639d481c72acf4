"""The five stages: what is dropped, and what is said beforehand. What comes of it, keeperd decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keeperd.demo.drops import RIGHT, WRONG, Drops, Row
from keeperd.demo.texts import AREAS


@dataclass(frozen=True)
class Drop:
    """A file for the watched folder."""

    name: str
    rows: Sequence[Row]
    note: str = ""


@dataclass(frozen=True)
class Stage:
    """A part of the demo. Without drops, it is the one in which version 1 is made."""

    title: str
    told: str
    drops: tuple[Drop, ...] = ()


def stages(drops: Drops) -> tuple[Stage, ...]:
    """All stages, in order."""
    week = [
        Drop("monday.jsonl", drops.week[0]),
        Drop("tuesday-wednesday.jsonl", [*drops.week[1], *drops.week[2]]),
        Drop("thursday-friday.jsonl", [row for day in drops.week[3:] for row in day]),
    ]
    return (
        Stage(
            "Bootstrap",
            f"{len(drops.bootstrap):,} texts from the documentation of Python's standard library, labelled by"
            f" subject ({', '.join(AREAS)}), and an encoder that has never seen these labels.",
        ),
        Stage("A quiet week", "More of the same. Nothing should happen.", tuple(week)),
        Stage(
            "The text shifts",
            "Now the texts come from installed packages: " + _packages(drops.shift) + ".",
            (
                Drop("packages.jsonl", drops.shift),
                Drop("packages-later.jsonl", drops.after_shift, "more of these, labelled a week later"),
            ),
        ),
        Stage(
            "A poisoned batch",
            f"The same kind of text, but {drops.flipped} of {len(drops.poison)} labels are wrong.",
            (Drop("poisoned.jsonl", drops.poison),),
        ),
        Stage(
            "A promotion that turns out bad",
            f"Plots are a new subject here. Their annotator takes them for {WRONG!r}, by the rules they are"
            f" {RIGHT!r}; no test row is about plots, so nobody can know yet.",
            (
                Drop("with-plots.jsonl", drops.convention),
                Drop("plots-later.jsonl", drops.after_convention, f"other annotators label plots {RIGHT!r}"),
            ),
        ),
    )


def _packages(rows: Sequence[Row], most: int = 12) -> str:
    names = sorted({row.source for row in rows}, key=str.lower)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
