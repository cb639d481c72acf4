"""Strategy "full": fit the head, then fine-tune the whole encoder with replay. The default.

As many replayed old rows as new ones with the class prior of that mix corrected in the loss (Menon et al.
2021, "Long-tail learning via logit adjustment", ICLR), a light pull to the champion's logits (DER++) and at
the end a mix of both models' weights (WiSE-FT). bench/strategies.py compares it with training from the base
on all rows ever seen.
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


class FullOptions(UpdateOptions):
    """Options of "full"."""

    freeze_embeddings: bool = Field(
        True, description="keep the word embeddings as they are: cheaper, and rare words are not unlearnt"
    )


class FullStrategy(Strategy[FullOptions]):
    """Head first, then everything, with replay and a prior-corrected loss; mixed with the champion."""

    name = "full"
    tasks = ("text-classification",)
    Options = FullOptions

    def train(self, job: TrainJob, out: Path, context: Context) -> Mapping[str, JSON]:
        """See `Strategy.train`."""
        from keeperd_plugins._fine_tune import fine_tune

        def set_up(prepared: Prepared) -> Callable[[], Any]:
            model = prepared.classifier.model
            model.requires_grad_(True)
            model.get_input_embeddings().requires_grad_(not self.options.freeze_embeddings)
            return lambda: model

        return fine_tune(job, out, context, self.options, set_up)


@hookimpl
def keeperd_components() -> Iterable[type[Component[FullOptions]]]:
    """The component of this plugin."""
    return [FullStrategy]
