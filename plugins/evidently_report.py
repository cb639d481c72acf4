"""Detector "evidently": renders Evidently's HTML report of a window beside the reference. It decides
nothing: its text test is blind to small drift and to scripts without spaces; `two-sample` decides.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

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


class EvidentlyOptions(Options):
    """Options of the Evidently report."""

    rows: int = Field(1000, ge=20, le=20_000, description="most rows of each window that are shown")
    text: bool = Field(True, description="compare the text itself too, by Evidently's classifier of words")


class EvidentlyReport(Detector[EvidentlyOptions]):
    """An HTML page of Evidently's data drift preset: length, words, share of other signs than letters,
    the champion's answer and confidence, and the text. Needs `pip install 'keeperd[evidently]'`."""

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
        reference, current = _tables(statistics.values["columns"], self._columns(window, context.seed))
        drifted = _render(reference, current, context, with_text=self.options.text)
        told = ", ".join(drifted) if drifted else "none"
        signal = Signal(
            name="evidently",
            drifted=False,
            warning=True,
            summary=f"Evidently's report is rendered; columns that differ by its own tests: {told}.",
            facts={"html": HTML, "columns": drifted},
        )
        return [signal], state

    def _columns(self, window: Window, seed: int) -> dict[str, list[JSON]]:
        from keeperd_plugins import _ngrams, _shares

        order = _ngrams.canonical_order(window.texts, window.ids, seed)[: self.options.rows]
        sample = window.take(order)
        columns: dict[str, list[JSON]] = {"text": [_ngrams.cut(text) for text in sample.texts]}
        columns["length"] = [len(text) for text in sample.texts]
        if sample.logits is not None and len(sample):
            columns["answer"] = list(_shares.answers(sample.logits, sample.classes))
            columns["confidence"] = _shares.confidence(sample.logits).tolist()
        return columns


def _tables(reference: dict[str, list[JSON]], current: dict[str, list[JSON]]) -> tuple[DataFrame, DataFrame]:
    """Both windows as data frames with the columns that both have."""
    os.environ["DO_NOT_TRACK"] = "1"
    try:
        import pandas as pd
    except ImportError as error:
        raise _missing(error) from error
    shared = [name for name in reference if name in current]
    frames = []
    for columns in (reference, current):
        texts = [str(text) for text in columns["text"]]
        frame = pd.DataFrame({name: columns[name] for name in shared})
        frame["words"] = [len(WORDS.findall(text)) for text in texts]
        frame["other signs"] = [1 - len(LETTERS.findall(text)) / max(len(text), 1) for text in texts]
        frames.append(frame)
    return frames[0], frames[1]


def _render(reference: DataFrame, current: DataFrame, context: Context, *, with_text: bool) -> list[str]:
    """Write the page; returns the columns that Evidently's tests call drifted."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from evidently import DataDefinition, Dataset, Report
            from evidently.presets import DataDriftPreset
    except ImportError as error:
        raise _missing(error) from error
    names = list(reference.columns)
    definition = DataDefinition(
        text_columns=["text"] if with_text and _worded(reference, current) else [],
        numerical_columns=[name for name in names if name not in {"text", "answer"}],
        categorical_columns=[name for name in names if name == "answer"],
    )
    context.progress(0.3, "comparing with Evidently")
    data = [Dataset.from_pandas(frame, data_definition=definition) for frame in (current, reference)]
    # Its default for small windows bootstraps this figure, which took over ten times as long.
    preset = DataDriftPreset(text_method="abs_text_content_drift")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant columns, and its own dependencies' deprecations
        snapshot = Report([preset], include_tests=True).run(*data)
        snapshot.save_html(str(context.workdir / HTML))
    return _drifted(snapshot.dict())


def _drifted(told: dict[str, Any]) -> list[str]:
    """Columns whose own test failed."""
    failed = [test["name"] for test in told["tests"] if str(test["status"]).endswith("FAIL")]
    names = ("text", "length", "words", "other signs", "answer", "confidence")
    return [name for name in names if any(re.search(rf"\b{re.escape(name)}\b", line) for line in failed)]


def _worded(*frames: DataFrame) -> bool:
    """True where both windows have words at all, without which Evidently's classifier fails."""
    return all(int(frame["words"].sum()) >= 20 for frame in frames)


def _missing(error: ImportError) -> PluginError:
    return PluginError(f"evidently: cannot be imported ({error}); pip install 'keeperd[evidently]'")


@hookimpl
def keeperd_components() -> Iterable[type[Component[EvidentlyOptions]]]:
    """The component of this plugin."""
    return [EvidentlyReport]
