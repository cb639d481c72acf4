"""Mixing a candidate's weights with the champion's (WiSE-FT; Wortsman et al. 2022, "Robust fine-tuning of
zero-shot models", CVPR): between the two lie models that have learnt nearly all of the new and changed
fewer of the old answers than either's accuracy lets one expect."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from keeperd.api import Context
from keeperd_plugins import _classifier, _head
from keeperd_plugins._prepare import Prepared

ALPHAS = (1.0, 0.8, 0.6, 0.4, 0.2)
"""Shares of the candidate that are tried. 0, the champion itself, is not among them: keeping it is the
gate's decision."""


def snapshot(prepared: Prepared) -> dict[str, torch.Tensor]:
    """Copies of all weights, while they are the champion's; new labels' rows are zero."""
    return {name: value.detach().clone() for name, value in prepared.classifier.model.named_parameters()}


def interpolate(prepared: Prepared, champion: Mapping[str, torch.Tensor], context: Context) -> float:
    """Put champion + alpha * (candidate - champion) in place, with the alpha that validation, old and new
    rows together, speaks for. New labels' rows of the last layer stay the candidate's.

    Every alpha is judged by its log loss at its own best temperature. Of those that the rows cannot tell
    from the best by a standard error of the paired difference, the smallest is taken: the nearest to the
    champion (the one-standard-error rule; Breiman et al. 1984).

    Returns:
        alpha, 0..1; 1.0, with nothing changed, where there are fewer than `_head.LEAST_CALIBRATION` rows.
    """
    rows = prepared.validation
    if len(rows) < _head.LEAST_CALIBRATION:
        return 1.0
    line = _Line(prepared, champion)
    losses = []
    for alpha in ALPHAS:
        line.put(alpha)
        logits = _classifier.run(prepared.classifier, rows.tokens, context, prepared.bf16).logits
        losses.append(_head.tempered_losses(logits, rows.labels))
    alpha = ALPHAS[_nearest(losses)]
    line.put(alpha)
    return alpha


def _nearest(losses: list[np.ndarray]) -> int:
    """The last of the entries, each (v,), that are no worse than the best by a standard error."""
    best = losses[int(np.argmin([loss.mean() for loss in losses]))]
    error = math.sqrt(len(best))
    return max(
        number for number, loss in enumerate(losses) if (loss - best).mean() <= (loss - best).std() / error
    )


class _Line:
    """The straight line from champion to candidate, through the weights that differ."""

    def __init__(self, prepared: Prepared, champion: Mapping[str, torch.Tensor]) -> None:
        last = prepared.classifier.last_linear
        self.known = prepared.known
        self.points = [
            (value, champion[name], value.detach().clone(), value is last.weight or value is last.bias)
            for name, value in prepared.classifier.model.named_parameters()
            if not torch.equal(value, champion[name])
        ]

    @torch.no_grad()
    def put(self, alpha: float) -> None:
        """Set the weights to the point at `alpha`."""
        for value, start, end, head in self.points:
            value.copy_(end if alpha == 1 else torch.lerp(start, end, alpha))
            if head:
                value[self.known :] = end[self.known :]
