"""Detector "monitor": follows the text from day to day and bears a number of false alarms a year; the
default. See `_sequence` for how.

Where the reference has too few days to know how days differ, each window is checked by itself, as by the
detector "two-sample", and the signal says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from keeperd.api import JSON, Component, Context, Detector, PluginError, Signal, Statistics, Window, hookimpl
from keeperd_plugins._check_options import CheckOptions

if TYPE_CHECKING:
    from keeperd_plugins._reference import Reference


class MonitorOptions(CheckOptions):
    """Options of the monitor."""

    alpha: float = Field(
        0.01,
        gt=0.0,
        lt=0.5,
        description="chance of a false alarm of one check, while days cannot be followed",
    )
    budget: float = Field(
        1.0, gt=0.0, le=50.0, description="false alarms that are borne in 365 days (with rows) of each source"
    )
    warnings: float = Field(
        12.0, gt=0.0, le=180.0, description="false warnings about the format that are borne in 365 days"
    )


class MonitorDetector(Detector[MonitorOptions]):
    """Follows text, the champion's answers and labels from day to day against the days of the reference.
    An alarm holds until the text has been like the reference again for a week."""

    name = "monitor"
    Options = MonitorOptions
    _loaded: tuple[Statistics, Reference] | None = None

    def fit(self, reference: Window, context: Context) -> Statistics:
        """See `Detector.fit`. What is kept holds no text: hashed counts, term frequencies, figures."""
        from keeperd_plugins import _check

        return _check.fit(reference, self.options, context.seed, self.name).statistics()

    def detect(
        self, statistics: Statistics, window: Window, state: JSON, context: Context
    ) -> tuple[list[Signal], JSON]:
        """See `Detector.detect`. Rows are counted on the day of their time; those without one on the last
        day of the window."""
        from keeperd_plugins import _monitor, _reference, _single

        if not len(window):
            raise PluginError("monitor: the window is empty; wait for rows")
        if self._loaded is None or self._loaded[0] is not statistics:
            self._loaded = statistics, _reference.load(statistics)  # what it works out is kept between looks
        reference = self._loaded[1]
        if reference.dated:
            return _monitor.look(reference, window, state, self.options, context.seed)
        text, *others = _single.look(reference, window, self.options, context.seed)
        days = f"{reference.values['days']} days" if reference.values["days"] != 1 else "one day"
        why = f"The reference has {days} with times, too few to follow days: checked by itself."
        facts = {**text.facts, "single_check": why}
        return [replace(text, summary=f"{text.summary} {why}", facts=facts), *others], state


@hookimpl
def keeperd_components() -> Iterable[type[Component[MonitorOptions]]]:
    """The component of this plugin."""
    return [MonitorDetector]
