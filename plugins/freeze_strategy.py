"""Strategy "freeze": as "full", but only the top layers of the encoder are trained.

The lower layers need neither gradients nor optimiser state, so that its steps are cheaper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from keeperd.api import JSON, Component, Context, Strategy, TrainJob, hookimpl
from keeperd_plugins._loop_options import UpdateOptions

if TYPE_CHECKING:
    from keeperd_plugins._prepare import Prepared


class FreezeOptions(UpdateOptions):
    """Options of "freeze"."""

    layers: int = Field(2, ge=1, le=1000, description="top layers of the encoder that are trained")


class FreezeStrategy(Strategy[FreezeOptions]):
    """Fine-tuning of the encoder's top layers and what follows them."""

    name = "freeze"
    tasks = ("text-classification",)
    Options = FreezeOptions

    def train(self, job: TrainJob, out: Path, context: Context) -> Mapping[str, JSON]:
        """See `Strategy.train`."""
        from keeperd_plugins._fine_tune import fine_tune

        def set_up(prepared: Prepared) -> Callable[[], Any]:
            from keeperd_plugins._freeze import train_top

            train_top(prepared.classifier.model, self.options.layers)
            return lambda: prepared.classifier.model

        return fine_tune(job, out, context, self.options, set_up)


@hookimpl
def keeperd_components() -> Iterable[type[Component[FreezeOptions]]]:
    """The component of this plugin."""
    return [FreezeStrategy]
