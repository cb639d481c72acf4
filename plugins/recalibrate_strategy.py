"""Strategy "recalibrate": only how sure the model says it is; its answers stay the same.

For drift that makes a model overconfident rather than wrong (Guo et al. 2017, "On Calibration of Modern
Neural Networks", ICML; under shift: Ovadia et al. 2019, NeurIPS).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from keeperd.api import JSON, Component, Context, Options, Strategy, TrainJob, hookimpl


class RecalibrateStrategy(Strategy[Options]):
    """One temperature for all logits, from rows that the champion was not trained on."""

    name = "recalibrate"
    tasks = ("text-classification",)

    def train(self, job: TrainJob, out: Path, context: Context) -> Mapping[str, JSON]:
        """See `Strategy.train`.

        Raises:
            PluginError: there is no champion, a label is new, or there are too few rows.
        """
        from keeperd_plugins import _recalibrate

        return _recalibrate.recalibrate(job, out, context)


@hookimpl
def keeperd_components() -> Iterable[type[Component[Options]]]:
    """The component of this plugin."""
    return [RecalibrateStrategy]
