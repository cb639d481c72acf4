"""The last layer, fitted on frozen features: multinomial logistic regression by L-BFGS, in seconds.

The rows at hand are a mix that nobody will meet again: all new rows and an even draw of old ones. So
the class prior is corrected in the loss: each logit is raised by log(share in the mix / share among
all rows ever seen) while fitting, and the layer itself learns to answer for the latter (Menon et al.
2021, "Long-tail learning via logit adjustment", ICLR; here with the stream's own shares as the goal in
place of equal ones).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from keeperd.api import Context, PluginError, Stopped

PENALTIES = (3000.0, 600.0, 120.0, 25.0, 5.0, 1.0)
"""L2 penalties that are tried, strongest first; which one is best differs by a factor of 1,000 from one
set of texts to another, so the validation rows choose."""


TEMPERATURES = tuple(float(value) for value in np.geomspace(0.2, 5.0, 65))
LEAST_CALIBRATION = 30


@dataclass(frozen=True)
class Labelled:
    """Inputs of the last layer, float32 (n, f), and class numbers, int64 (n,)."""

    features: np.ndarray
    labels: np.ndarray


def seen_so_far(before: Mapping[str, int], memory: Sequence[str], new: Sequence[str]) -> Counter[str]:
    """Rows of each label that the model has been trained on, the new ones included. A model that does
    not know its past is judged by its memory."""
    return Counter(before or Counter(memory)) + Counter(new)


def prior_shift(mix: np.ndarray, seen: np.ndarray) -> torch.Tensor:
    """float32 (k,): log of the share in the mix over the share among all rows seen, from row counts.
    Half a row stands for none, so that a class without rows is left alone rather than unlearnt."""
    mix, seen = np.maximum(mix, 0.5), np.maximum(seen, 0.5)
    return torch.tensor(np.log(mix / mix.sum()) - np.log(seen / seen.sum()), dtype=torch.float32)


def fit(
    layer: nn.Linear,
    train: Labelled,
    validation: Labelled,
    shift: torch.Tensor,
    context: Context,
    known: int = 0,
    steps: int = 100,
) -> dict[str, float]:
    """Fit the layer in place, starting from the weights that it has. What is penalised is the way from
    there: the layer's rows are what is left of rows that are no longer at hand, and the best guess before
    the new ones are seen (L2-SP; Li, Grandvalet and Davoine 2018, ICML).

    Args:
        layer: f inputs, k outputs, with or without bias.
        train: rows to fit.
        validation: rows to choose the L2 penalty by their log loss: the strongest that no weaker one
            beats by a standard error. None: a middle one is taken.
        shift: float32 (k,), added to the logits while fitting; see `prior_shift`.
        context: asked whether to stop.
        known: how many of the k rows have been trained before; the others are held to zero.
        steps: most L-BFGS iterations for one penalty.

    Returns:
        "penalty" chosen and "train_loss" (nats a row).

    Raises:
        PluginError: the fit did not stay finite.
        Stopped: `context.should_stop()` said so.
    """
    problem = _Problem(layer, train, shift, context, known)
    chosen: _Solution | None = None
    for penalty in PENALTIES if len(validation.labels) else PENALTIES[3:4]:
        found = problem.solve(penalty, steps, validation)
        gain = None if chosen is None else chosen.losses - found.losses
        if gain is None or gain.mean() > gain.std() / math.sqrt(len(gain)):
            chosen = found
        elif gain.mean() <= 0:
            break
    assert chosen is not None  # noqa: S101 - PENALTIES is not empty
    with torch.no_grad():
        layer.weight.copy_(chosen.weight)
        if layer.bias is not None:
            layer.bias.copy_(chosen.bias)
    return {"penalty": chosen.penalty, "train_loss": chosen.train_loss}


@dataclass(frozen=True)
class _Solution:
    """Weight (k, f) and bias (k,) for features as they are, and the loss of each validation row."""

    penalty: float
    train_loss: float
    weight: torch.Tensor
    bias: torch.Tensor
    losses: np.ndarray


class _Problem:
    """The rows with centred and scaled features, in float64: a problem this small may as well be exact."""

    def __init__(
        self, layer: nn.Linear, train: Labelled, shift: torch.Tensor, context: Context, known: int
    ) -> None:
        self.context = context
        inputs = torch.tensor(train.features, dtype=torch.float64)
        self.labels = torch.tensor(train.labels)
        self.bias_free = layer.bias is None
        self.centre = torch.zeros(inputs.shape[1], dtype=torch.float64) if self.bias_free else inputs.mean(0)
        self.scale = float((inputs - self.centre).square().mean().sqrt().clamp(min=1e-12))
        self.inputs = (inputs - self.centre) / self.scale
        self.shift = shift.double()
        weight = layer.weight.detach().cpu().double()
        self.weight = (weight * self.scale).requires_grad_()
        self.anchor = self.weight.detach().clone()
        self.anchor[known:] = 0.0
        bias = torch.zeros(len(weight)) if self.bias_free else layer.bias.detach().cpu().double()
        self.bias = (bias.double() + weight @ self.centre).requires_grad_(not self.bias_free)

    def solve(self, penalty: float, steps: int, validation: Labelled) -> _Solution:
        """Minimise from where the last call ended."""
        variables = [self.weight] if self.bias_free else [self.weight, self.bias]
        solver = torch.optim.LBFGS(
            variables,
            max_iter=steps,
            line_search_fn="strong_wolfe",
            tolerance_grad=1e-5,
            tolerance_change=1e-8,
        )

        def objective() -> torch.Tensor:
            if self.context.should_stop():
                raise Stopped("stopped while the head was fitted; nothing was changed")
            solver.zero_grad()
            way = (self.weight - self.anchor).square().sum()
            value = self.loss() + 0.5 * penalty / len(self.labels) * way
            value.backward()  # type: ignore[no-untyped-call]
            return value

        solver.step(objective)  # type: ignore[no-untyped-call]
        loss = float(self.loss().detach())
        if not np.isfinite(loss):
            raise PluginError("the head's loss is not finite; the model or its texts are broken")
        weight = self.weight.detach() / self.scale
        bias = self.bias.detach() - weight @ self.centre
        logits = torch.tensor(validation.features, dtype=torch.float64) @ weight.T + bias
        losses = nn.functional.cross_entropy(logits, torch.tensor(validation.labels), reduction="none")
        return _Solution(penalty, loss, weight, bias, losses.numpy())

    def loss(self) -> torch.Tensor:
        logits = self.inputs @ self.weight.T + self.bias + self.shift
        return nn.functional.cross_entropy(logits, self.labels)


def calibrate(layer: nn.Linear, logits: np.ndarray, labels: np.ndarray) -> float:
    """Divide the layer's outputs by the temperature with the least log loss on rows that were not
    trained on (Guo et al. 2017, "On Calibration of Modern Neural Networks", ICML). Answers stay the
    same; how sure the model says it is becomes true, on which the watch for harm relies.

    Args:
        layer: changed in place.
        logits: float32 (n, k), what it gives now.
        labels: int64 (n,).

    Returns:
        the temperature; 1.0 where there are fewer than `LEAST_CALIBRATION` rows.
    """
    if len(labels) < LEAST_CALIBRATION:
        return 1.0
    best = temperature(logits, labels)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.div_(best)
    return best


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Which of `TEMPERATURES` gives float32 (n, k) logits the least log loss on int64 (n,) labels."""
    outputs, wanted = torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)
    losses = [float(nn.functional.cross_entropy(outputs / value, wanted)) for value in TEMPERATURES]
    return TEMPERATURES[int(np.argmin(losses))]


def tempered_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 (n,): each row's log loss (nats) at the best temperature."""
    outputs = torch.tensor(logits, dtype=torch.float64) / temperature(logits, labels)
    return np.asarray(nn.functional.cross_entropy(outputs, torch.tensor(labels), reduction="none"))
