"""Detector "evidently": renders Evidently's HTML report of a window beside the reference, judged by
keeperd's own tests (`_evidently_tests`), because Evidently's text test is blind to small drift and to
scripts without spaces. The page decides nothing; `two-sample` and its like decide.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import Field

from keeperd.api import (
    JSON,
    Component,
    Context,
    Detector,
    Options,
    PluginError,
    Signal,
    Statistics,
    Window,
    hookimpl,
)

if TYPE_CHECKING:
    from pandas import DataFrame

HTML = "evidently.html"
LETTERS = re.compile(r"[^\W\d_]")
WORDS = re.compile(r"\w+")
Columns = dict[str, list[JSON]]


class EvidentlyOptions(Options):
    """Options of the Evidently report."""

    rows: int = Field(1000, ge=20, le=2000, description="most rows of each window that are shown")
    text: bool = Field(True, description="compare the text itself too; examples of it are on the page")
    level: float = Field(
        0.01, gt=0.0, lt=0.5, description="chance that a column of the page is wrongly called drifted"
    )
    permutations: int = Field(1999, ge=199, le=20_000, description="random splits that a p-value rests on")


class EvidentlyReport(Detector[EvidentlyOptions]):
    """An HTML page of Evidently's data drift preset, judged by keeperd's own tests: the text, its length,
    words, share of other signs than letters, the champion's answer and confidence. Needs
    `pip install 'keeperd[evidently]'`."""

    name = "evidently"
    Options = EvidentlyOptions

    def fit(self, reference: Window, context: Context) -> Statistics:
        """See `Detector.fit`. Keeps the beginnings of texts, because the page compares them; Evidently
        itself is not needed yet."""
        if not len(reference):
            raise PluginError("evidently: the reference window is empty; give it rows")
        return Statistics(values={"columns": self._columns(reference, context.seed)})

    def detect(
        self, statistics: Statistics, window: Window, state: JSON, context: Context
    ) -> tuple[list[Signal], JSON]:
        """See `Detector.detect`. Writes evidently.html into the work folder and names it in `facts`.

        Raises:
            PluginError: the window is empty, or Evidently is not installed.
        """
        if not len(window):
            raise PluginError("evidently: the window is empty; wait for rows")
        before, now = statistics.values["columns"], self._columns(window, context.seed)
        drifted = self._render(before, now, context)
        told = ", ".join(drifted) if drifted else "none"
        signal = Signal(
            name="evidently",
            drifted=False,
            warning=True,
            summary=f"Evidently's report is rendered; columns that differ by keeperd's tests: {told}.",
            facts={"html": HTML, "columns": drifted},
        )
        return [signal], state

    def _columns(self, window: Window, seed: int) -> Columns:
        """What the page compares, a list of values a column, and "day" (ISO, UTC; None where unknown)."""
        from keeperd_plugins import _ngrams, _shares

        order = _ngrams.canonical_order(window.texts, window.ids, seed)[: self.options.rows]
        sample = window.take(order)
        columns: Columns = {"text": [_ngrams.cut(text) for text in sample.texts]}
        columns["length"] = [len(text) for text in sample.texts]
        columns["day"] = [time and time.astimezone(UTC).date().isoformat() for time in sample.times]
        if sample.logits is not None and len(sample):
            columns["answer"] = list(_shares.answers(sample.logits, sample.classes))
            columns["confidence"] = _shares.confidence(sample.logits).tolist()
        return columns

    def _render(self, before: Columns, now: Columns, context: Context) -> list[str]:
        """Write the page; returns the columns that have drifted."""
        os.environ["DO_NOT_TRACK"] = "1"  # read when Evidently is imported
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant columns, and its own dependencies' deprecations
            try:
                from keeperd_plugins import _evidently_page as page
            except ImportError as error:
                raise _missing(error) from error
            from keeperd_plugins import _evidently_tests as tests

            context.progress(0.3, "comparing with Evidently")
            reference, current = _tables(before, now, with_text=self.options.text)
            names = [str(name) for name in reference.columns]
            times = _times(before), _times(now)
            judge = tests.Judge(times, len(names), self._permutations(len(names)), context.seed)
            page.write(context.workdir / HTML, reference, current, judge, self.options.level)
        return [name for name in names if judge.p_value(name) <= self.options.level]

    def _permutations(self, columns: int) -> int:
        """As many as configured, but never so few that no p-value could reach the level."""
        return max(self.options.permutations, min(math.ceil(2 * columns / self.options.level), 20_000))


def _tables(before: Columns, now: Columns, *, with_text: bool) -> tuple[DataFrame, DataFrame]:
    """Both windows as data frames: the columns that both have, and two counted from the text."""
    import pandas as pd

    frames = []
    for columns in (before, now):
        texts = [str(text) for text in columns["text"]]
        shown: Columns = {"text": columns["text"]} if with_text else {}
        shown["length"] = columns["length"]
        shown["words"] = [len(WORDS.findall(text)) for text in texts]
        shown["other signs"] = [1 - len(LETTERS.findall(text)) / max(len(text), 1) for text in texts]
        if "answer" in before and "answer" in now:
            # Charts take `<` for the beginning of markup.
            shown["answer"] = [str(one).replace("<", "\u2039") for one in columns["answer"]]
            shown["confidence"] = columns["confidence"]
        frames.append(pd.DataFrame(shown))
    return frames[0], frames[1]


def _times(columns: Columns) -> list[datetime | None]:
    days = columns.get("day") or [None] * len(columns["text"])
    return [day and datetime.fromisoformat(day).replace(tzinfo=UTC) for day in days]


def _missing(error: ImportError) -> PluginError:
    return PluginError(f"evidently: cannot be imported ({error}); pip install 'keeperd[evidently]'")


@hookimpl
def keeperd_components() -> Iterable[type[Component[EvidentlyOptions]]]:
    """The component of this plugin."""
    return [EvidentlyReport]
