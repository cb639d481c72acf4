"""Strategy "retrain": from the base model on all rows at hand, memory and new, as if they were one set.

The upper anchor that cheaper strategies are measured by; its cost grows with the history. The memory is
all the history that there is: with `memory_share = 1` and a large `memory_rows` nothing is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from keeperd.api import JSON, Component, Context, Strategy, TrainJob, hookimpl
from keeperd_plugins._loop_options import LoopOptions, UpdateOptions

if TYPE_CHECKING:
    from keeperd_plugins._prepare import Prepared


class RetrainOptions(LoopOptions):
    """Options of "retrain"."""

    freeze_embeddings: bool = Field(
        True, description="keep the word embeddings as they are: cheaper, and rare words are not unlearnt"
    )


class RetrainStrategy(Strategy[RetrainOptions]):
    """Joint training from the base model on memory and new rows."""

    name = "retrain"
    tasks = ("text-classification",)
    Options = RetrainOptions

    def train(self, job: TrainJob, out: Path, context: Context) -> Mapping[str, JSON]:
        """See `Strategy.train`."""
        from keeperd_plugins._fine_tune import train_joint

        def set_up(prepared: Prepared) -> Callable[[], Any]:
            model = prepared.classifier.model
            model.requires_grad_(True)
            model.get_input_embeddings().requires_grad_(not self.options.freeze_embeddings)
            return lambda: model

        common = {name: getattr(self.options, name) for name in LoopOptions.model_fields}
        return train_joint(job, out, context, UpdateOptions(**common), set_up)


@hookimpl
def keeperd_components() -> Iterable[type[Component[RetrainOptions]]]:
    """The component of this plugin."""
    return [RetrainStrategy]
