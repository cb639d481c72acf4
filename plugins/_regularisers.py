"""R of the loss L + strength * R, by name. Each is made once, while the weights are still the champion's,
and asked at every step.

Only the encoder's weights are held: what follows it is fitted anew for each update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from keeperd.api import Context, PluginError, Stopped
from keeperd_plugins._prepare import Prepared
from keeperd_plugins._text import pad

FISHER_ROWS = 128
"""Rows that the Fisher information is estimated on; each costs a pass of its own."""


@dataclass(frozen=True)
class Answered:
    """Logits of the candidate and of the champion for the same rows, float32 (b, known) both."""

    given: torch.Tensor
    wanted: torch.Tensor


Regulariser = Callable[[Answered], torch.Tensor]
Weights = Mapping[str, torch.Tensor]


def make(name: str, prepared: Prepared, context: Context) -> Regulariser | None:
    """The regulariser of this name for the weights that are going to be trained; None where the name is
    "none" or there is nothing to hold on to.

    Raises:
        PluginError: the regulariser cannot hold these weights.
        Stopped: `context.should_stop()` said so.
    """
    if name == "none":
        return None
    return REGULARISERS[name](prepared, context)


def l2(prepared: Prepared, context: Context) -> Regulariser | None:
    """Half the sum of the squared weights."""
    weights = _encoder_weights(prepared)
    return lambda _: _half_squares(weights, {}, {})


def l2_sp(prepared: Prepared, context: Context) -> Regulariser | None:
    """Half the squared distance from the weights at the start (Li, Grandvalet and Davoine 2018, "Explicit
    Inductive Bias for Transfer Learning with Convolutional Networks", ICML)."""
    weights = _encoder_weights(prepared)
    start = _copies(weights)
    return lambda _: _half_squares(weights, start, {})


def ewc(prepared: Prepared, context: Context) -> Regulariser | None:
    """As l2-sp, each weight's square times its Fisher information at the champion, scaled to a mean of 1
    (online EWC: one penalty about the latest weights, with normalised information; Schwarz et al. 2018,
    "Progress & Compress", ICML). The running sum over earlier tasks is not kept in a file but estimated
    anew on the memory, a sample of all of them; without memory, on the new rows."""
    if not prepared.known:
        return None
    weights = _encoder_weights(prepared)
    start, information = _copies(weights), _fisher(prepared, weights, context)
    return lambda _: _half_squares(weights, start, information)


def kl(prepared: Prepared, context: Context) -> Regulariser | None:
    """KL divergence of the candidate's answers from the champion's (Yu et al. 2013, "KL-divergence
    regularized deep neural network adaptation", ICASSP)."""
    if not prepared.known:
        return None

    def divergence(rows: Answered) -> torch.Tensor:
        goal, answer = rows.wanted.log_softmax(1), rows.given.log_softmax(1)
        return torch.nn.functional.kl_div(answer, goal, reduction="batchmean", log_target=True)

    return divergence


REGULARISERS: Mapping[str, Callable[[Prepared, Context], Regulariser | None]] = {
    "l2": l2,
    "l2-sp": l2_sp,
    "ewc": ewc,
    "kl": kl,
}


def _encoder_weights(prepared: Prepared) -> dict[str, torch.Tensor]:
    model = prepared.classifier.model
    inside = f"{model.base_model_prefix}."
    return {
        name: value
        for name, value in model.named_parameters()
        if value.requires_grad and name.startswith(inside)
    }


def _copies(weights: Weights) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}


def _half_squares(weights: Weights, start: Weights, factors: Weights) -> torch.Tensor:
    total = torch.zeros((), device=next(iter(weights.values())).device)
    for name, value in weights.items():
        square = (value - start[name] if start else value).square()
        total = total + (square * factors[name] if factors else square).sum()
    return 0.5 * total


def _fisher(prepared: Prepared, weights: Weights, context: Context) -> dict[str, torch.Tensor]:
    """Mean square of the gradient of the log probability of an answer, drawn from what the model itself
    says (the true information, not the empirical one; Kunstner et al. 2019, NeurIPS), row by row."""
    rng = np.random.default_rng([context.seed, FISHER_ROWS])
    rows = (prepared.memory if len(prepared.memory) else prepared.new).tokens
    chosen = rng.permutation(len(rows))[:FISHER_ROWS]
    model = prepared.classifier.model.eval()
    squares = {name: torch.zeros_like(value) for name, value in weights.items()}
    for row in chosen:
        if context.should_stop():
            raise Stopped("stopped while the champion's weights were weighed; nothing was changed")
        tokens, mask = pad([rows[row]], prepared.classifier.encode.pad, context.device)
        answers = model(input_ids=tokens, attention_mask=mask).logits[0, : prepared.known].log_softmax(0)
        shares = answers.detach().double().exp().cpu().numpy()
        if not np.isfinite(shares).all():
            raise PluginError("the champion's answers are not finite; the model or its texts are broken")
        drawn = int(rng.choice(len(shares), p=shares / shares.sum()))
        gradients = torch.autograd.grad(answers[drawn], list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                squares[name] += gradient.square()
    count = sum(value.numel() for value in squares.values())
    mean = sum(float(value.sum()) for value in squares.values()) / count
    return {name: value / max(mean, 1e-30) for name, value in squares.items()}
