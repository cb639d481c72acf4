"""The loss of a fine-tuning step: cross-entropy with the class prior corrected, and what pulls the
candidate towards the champion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from keeperd_plugins._loop_options import UpdateOptions
from keeperd_plugins._regularisers import Answered, Regulariser


class Loss:
    """Mean loss of some rows.

    Args:
        options: weights of the parts.
        labels: int64 (n + m,), class numbers of the new rows and then of the memory rows.
        teacher: float32 (n + m, known), the champion's logits for them; no columns where there is no
            champion.
        new: n.
        shift: float32 (classes,), added to the logits in the cross-entropy; see `_head.prior_shift`.
        regulariser: or None.
    """

    def __init__(
        self,
        options: UpdateOptions,
        labels: torch.Tensor,
        teacher: torch.Tensor,
        new: int,
        shift: torch.Tensor,
        regulariser: Regulariser | None,
    ) -> None:
        self.options, self.labels, self.teacher, self.new = options, labels, teacher, new
        self.shift, self.regulariser = shift, regulariser

    def __call__(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Of float32 (b, classes) logits of these b rows."""
        options, known = self.options, self.teacher.shape[1]
        loss = nn.functional.cross_entropy(logits + self.shift, self.labels[list(rows)].to(logits.device))
        wanted = self.teacher[list(rows)].to(logits.device)
        given = logits[:, :known]
        old = [position for position, row in enumerate(rows) if row >= self.new]
        if options.distill and old and known:
            gap = nn.functional.mse_loss(_centred(given[old]), _centred(wanted[old]))
            loss = loss + options.distill * len(old) / len(rows) * gap
        if options.kd and known:
            loss = loss + options.kd * softened_gap(given, wanted, options.kd_temperature)
        if self.regulariser is not None:
            loss = loss + options.strength * self.regulariser(Answered(given, wanted))
        return loss


def _centred(logits: torch.Tensor) -> torch.Tensor:
    """Logits with a mean of 0 in each row. A number added to all of them says nothing of the old classes
    among themselves; held fast it would keep new classes from ever being the answer."""
    return logits - logits.mean(1, keepdim=True)


def softened_gap(given: torch.Tensor, wanted: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean KL divergence (nats) of softmax(given / T) from softmax(wanted / T), times T squared, so that
    its gradient is of the same size at every temperature (Hinton et al. 2015)."""
    answer = (given / temperature).log_softmax(1)
    goal = (wanted / temperature).log_softmax(1)
    gap = nn.functional.kl_div(answer, goal, reduction="batchmean", log_target=True)
    return gap * temperature**2
