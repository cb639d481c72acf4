"""What the demo puts into the watched folder, stage by stage: the same for the same seed and machine.

No text is in two drops. Areas are balanced; where one of them is scarce on this machine, all drops shrink.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from keeperd.api import KeeperdError
from keeperd.demo import texts
from keeperd.demo.texts import AREAS, Doc

MONDAY = datetime(2025, 9, 1, tzinfo=UTC)
"""The first day of the quiet week; the demo's days are not ours."""
HISTORY = 10
"""Days over which the rows of the first version are spread."""
PER_PART = 200
"""Texts that are read of each module and package."""

BOOTSTRAP, DAY, DAYS = 200, 13, 5
"""Rows of each area that version 1 is made from, that come on a day of the quiet week, and its days."""
SHIFT, AFTER_SHIFT, POISON, CONVENTION, AFTER_CONVENTION = 110, 36, 60, 80, 20
"""Rows of each area, from packages, in the later drops."""
PLOTS, AFTER_PLOTS = 80, 60
"""Rows about plots under the wrong label, and later under the right one."""
FLIPPED = 0.6
"""Share of the poisoned drop's labels that are wrong."""
RIGHT, WRONG = "screen", "maths"
"""What plots belong to by the rules of the demo, and what one annotator takes them for."""
LEAST = 0.5
"""Of all these rows a machine must have at least this share."""


class TooFewError(KeeperdError):
    """This Python installation has too few texts for a demo."""


@dataclass(frozen=True)
class Row:
    """A line of a dropped file."""

    text: str
    label: str
    source: str
    time: datetime

    def to_json(self) -> dict[str, str]:
        """As it is written."""
        return {"text": self.text, "label": self.label, "source": self.source, "time": self.time.isoformat()}


@dataclass(frozen=True)
class Drops:
    """Rows of each file, in the order in which they come.

    Attributes:
        bootstrap: from the standard library, of the weeks before.
        week: the same kind, a list a day.
        shift: from installed packages.
        after_shift: the same kind, labelled later.
        poison: the same kind; `flipped` of its labels are wrong.
        convention: the same kind, and plots that are all labelled `WRONG`.
        after_convention: the same kind, and other plots labelled `RIGHT`.
        unseen: a row that is in no drop, to try a prediction with.
    """

    bootstrap: list[Row]
    week: list[list[Row]]
    shift: list[Row]
    after_shift: list[Row]
    poison: list[Row]
    flipped: int
    convention: list[Row]
    after_convention: list[Row]
    unseen: Row

    def files(self) -> list[list[Row]]:
        """All that is dropped, in order."""
        later = [self.shift, self.after_shift, self.poison, self.convention, self.after_convention]
        return [self.bootstrap, *self.week, *later]


def make(seed: int = 0) -> Drops:
    """Read the texts and deal them out.

    Raises:
        TooFewError: this machine has hardly any text.
    """
    packages = _Pile([texts.packages(label, PER_PART) for label in AREAS], seed)
    plots = _Pile([texts.plots(RIGHT, PER_PART)], seed, taken=packages.all)
    standard = _Pile([texts.standard_library(label, PER_PART) for label in AREAS], seed, taken=packages.all)
    later = (SHIFT, AFTER_SHIFT, POISON, CONVENTION, AFTER_CONVENTION, 1)
    share = min(
        standard.share(BOOTSTRAP, *[DAY] * DAYS), packages.share(*later), plots.share(PLOTS, AFTER_PLOTS)
    )
    if share < LEAST:
        raise TooFewError("this Python has too few documented modules and packages for the demo")
    week = [_dated(standard.deal(DAY * share), day) for day in range(DAYS)]
    bootstrap = _dated(standard.deal(BOOTSTRAP * share), -HISTORY, HISTORY)
    shift, after_shift, poison, convention, after_convention, unseen = (
        packages.deal(number * share) for number in later
    )
    mislabelled = [replace(doc, label=WRONG) for doc in plots.deal(PLOTS * share)]
    poison, flipped = _flip(poison, seed)
    return Drops(
        bootstrap=bootstrap,
        week=week,
        shift=_dated(shift, 7, 5),
        after_shift=_dated(after_shift, 14, 2),
        poison=_dated(poison, 16, 2),
        flipped=flipped,
        convention=_dated(_mixed([*convention, *mislabelled], seed), 21, 5),
        after_convention=_dated(_mixed([*after_convention, *plots.deal(AFTER_PLOTS * share)], seed), 28, 2),
        unseen=_dated(unseen[:1], 30)[0],
    )


class _Pile:
    """Texts of several areas, each area in an arbitrary order; those in `taken` are left out."""

    def __init__(self, areas: Iterable[Sequence[Doc]], seed: int, taken: Iterable[Doc] = ()) -> None:
        self._seed = seed
        seen = {doc.text for doc in taken}
        self._areas = []
        for docs in areas:
            fresh = [doc for doc in docs if doc.text not in seen]
            seen |= {doc.text for doc in fresh}
            self._areas.append(sorted(fresh, key=lambda doc: texts.order(doc.text, seed)))

    @property
    def all(self) -> list[Doc]:
        """What is left."""
        return [doc for area in self._areas for doc in area]

    def share(self, *numbers: int) -> float:
        """How much of deals of these numbers of rows of each area can be had, 0..1."""
        return min(1.0, min(len(area) for area in self._areas) / sum(numbers))

    def deal(self, number: float) -> list[Doc]:
        """So many rows of each area, at least one, mixed; they are gone then."""
        count = max(int(number), 1)
        dealt = [doc for area in self._areas for doc in area[:count]]
        self._areas = [area[count:] for area in self._areas]
        return _mixed(dealt, self._seed)


def _mixed(docs: Iterable[Doc], seed: int) -> list[Doc]:
    return sorted(docs, key=lambda doc: texts.order(doc.text, seed + 1))


def _flip(docs: Sequence[Doc], seed: int) -> tuple[list[Doc], int]:
    """Give some of the rows one of the other labels."""
    labels = list(AREAS)
    chosen = sorted(docs, key=lambda doc: texts.order(doc.text, seed + 2))[: round(FLIPPED * len(docs))]
    wrong = {}
    for doc in chosen:
        step = 1 + texts.order(doc.text, seed + 3)[0] % (len(labels) - 1)
        wrong[doc.text] = labels[(labels.index(doc.label) + step) % len(labels)]
    return [replace(doc, label=wrong.get(doc.text, doc.label)) for doc in docs], len(wrong)


def _dated(docs: Sequence[Doc], first: int, days: int = 1) -> list[Row]:
    """Spread over days, counted from `MONDAY`, in this order."""
    step = timedelta(days=days) / max(len(docs), 1)
    start = MONDAY + timedelta(days=first)
    return [Row(doc.text, doc.label, doc.source, start + step * number) for number, doc in enumerate(docs)]
