"""Strategy "head": refit the last layer on frozen features, held to the champion's. Seconds of cost.

Where new labels appear this comes close to "full"; where the language itself moves it falls short of it.
bench/strategies.py has the figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field

from keeperd.api import JSON, Component, Context, Strategy, TrainJob, hookimpl
from keeperd_plugins._loop_options import PriorOptions, WiseOptions


class HeadOptions(PriorOptions, WiseOptions):
    """Options of "head"."""

    wise: bool = Field(
        False,
        description="mix the layer with the champion's at the end, in the proportion that is best on the"
        " validation rows (WiSE-FT; Wortsman et al. 2022, CVPR); rows of new labels are left alone",
    )


class HeadStrategy(Strategy[HeadOptions]):
    """Multinomial logistic regression on the inputs of the last layer, over new rows and memory."""

    name = "head"
    tasks = ("text-classification",)
    Options = HeadOptions

    def train(self, job: TrainJob, out: Path, context: Context) -> Mapping[str, JSON]:
        """See `Strategy.train`. It is short enough to have no checkpoint: a retry begins anew."""
        from keeperd_plugins import _figures, _prepare, _wise
        from keeperd_plugins._fine_tune import conclude

        meter = _figures.Meter(context.device)
        prepared = _prepare.prepare(job, context)
        champion = _wise.snapshot(prepared) if self.options.wise and prepared.known else None
        fitted, answers = _prepare.fit_head(prepared, self.options, context)
        figures: dict[str, JSON] = {
            "examples": len(prepared.new) + len(prepared.memory),
            "new_rows": len(prepared.new),
            "memory_rows": len(prepared.memory),
            "epochs": 0,
            **fitted,
        }
        if champion is not None:
            figures["alpha"] = _wise.interpolate(prepared, champion, context)
        figures |= conclude(prepared, answers.validation, out, context)
        context.progress(1.0, "head fitted")
        return figures | meter.read()


@hookimpl
def keeperd_components() -> Iterable[type[Component[HeadOptions]]]:
    """The component of this plugin."""
    return [HeadStrategy]
