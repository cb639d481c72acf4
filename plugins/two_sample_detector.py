"""Detector "two-sample": has the text changed, how much, and in which words? Any language, no model needed.
Each check stands alone; see `_single`.
"""

from __future__ import annotations

from collections.abc import Iterable

from keeperd.api import JSON, Component, Context, Detector, PluginError, Signal, Statistics, Window, hookimpl
from keeperd_plugins._check_options import CheckOptions


class TwoSampleDetector(Detector[CheckOptions]):
    """Compares texts by n-grams and, where there are any, the champion's embeddings; besides the
    champion's answers, its confidence, and labels. Warns when the format of texts changes."""

    name = "two-sample"
    Options = CheckOptions

    def fit(self, reference: Window, context: Context) -> Statistics:
        """See `Detector.fit`. What is kept holds no text: hashed counts, term frequencies, figures."""
        from keeperd_plugins import _check

        return _check.fit(reference, self.options, context.seed, self.name).statistics()

    def detect(
        self, statistics: Statistics, window: Window, state: JSON, context: Context
    ) -> tuple[list[Signal], JSON]:
        """See `Detector.detect`. No state is kept."""
        from keeperd_plugins import _reference, _single

        if not len(window):
            raise PluginError("two-sample: the window is empty; wait for rows")
        return _single.look(_reference.load(statistics), window, self.options, context.seed), state


@hookimpl
def keeperd_components() -> Iterable[type[Component[CheckOptions]]]:
    """The component of this plugin."""
    return [TwoSampleDetector]
