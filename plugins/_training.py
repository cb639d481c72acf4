"""The fine-tuning loop that strategies share: replay, prior-corrected loss, early stopping, checkpoints.

Every random choice is a function of the seed and the step or epoch number, so that a training that was
stopped and goes on from a checkpoint ends with the same bits as one that was not (at the same number
of threads).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from keeperd.api import JSON, Context, PluginError, Stopped
from keeperd_plugins import _checkpoint
from keeperd_plugins._loop_options import UpdateOptions
from keeperd_plugins._loss import Loss
from keeperd_plugins._prepare import Answers, Prepared, prior_shift, validate
from keeperd_plugins._regularisers import Regulariser
from keeperd_plugins._text import pad

BUCKET = 16
"""Batches that are cut from one stretch of rows sorted by length."""


@dataclass
class Progress:
    """What the loop has come to; saved with a checkpoint.

    Attributes:
        losses: sum of the loss over the steps of this epoch.
        scores: validation accuracy and log loss before the first epoch and after each one.
        best: index into `scores` of the weights to keep.
    """

    losses: float = 0.0
    train_loss: float = 0.0
    scores: list[tuple[float, float]] = field(default_factory=list)
    best: int = 0

    def record(self, score: tuple[float, float], steps: int, rows: int) -> bool:
        """Note the validation after `steps` more steps, on so many rows; True where these weights are to
        be kept. Between epochs that the rows cannot tell apart by a standard error, the later one has
        learnt more and at the lower rate (the one-standard-error rule; Breiman et al. 1984,
        "Classification and Regression Trees"). The fitted head alone, which the same rows have helped
        to choose, must be better than an epoch by two."""
        self.scores.append(score)
        self.train_loss, self.losses = self.losses / max(steps, 1), 0.0
        head, *epochs = (accuracy for accuracy, _ in self.scores)
        best = max(epochs, default=head)
        kept = score[0] >= max(best - _error(best, rows), head - 2 * _error(head, rows))
        if kept:
            self.best = len(self.scores) - 1
        return kept


class Loop:
    """Fine-tunes those parameters of `prepared.classifier.model` that require a gradient."""

    def __init__(
        self,
        prepared: Prepared,
        champion: Answers,
        options: UpdateOptions,
        regulariser: Regulariser | None,
        work: str,
        context: Context,
    ) -> None:
        self.prepared, self.options, self.work, self.context = prepared, options, work, context
        model = prepared.classifier.model
        self.trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.tokens = prepared.new.tokens + prepared.memory.tokens
        self.replayed = round(options.replay * len(prepared.new)) if len(prepared.memory) else 0
        self.per_epoch = math.ceil((len(prepared.new) + self.replayed) / options.batch_size)
        self.total = self.per_epoch * options.epochs
        self.loss = Loss(
            options,
            labels=torch.tensor(np.concatenate([prepared.new.labels, prepared.memory.labels])),
            teacher=torch.tensor(champion.rows),
            new=len(prepared.new),
            shift=prior_shift(prepared, self.replayed, options).to(context.device),
            regulariser=regulariser,
        )
        # On the processor the fused steps take half the time; on a GPU they are few and short anyway.
        fused = context.device == "cpu"
        self.optimiser = torch.optim.AdamW(self._groups(model.base_model_prefix), lr=0.0, fused=fused)
        self.best: dict[str, torch.Tensor] = {}

    def run(self, start: int, progress: Progress) -> Progress:
        """Steps `start` to the end; the best epoch's weights are in the model afterwards.

        Raises:
            PluginError: the loss is not finite.
            Stopped: `should_stop()` said so; the checkpoint is written.
        """
        plan: list[list[int]] = []
        for step in range(start, self.total + 1):
            epoch, position = divmod(step, self.per_epoch)
            try:
                self.context.progress(step / self.total, f"{epoch} of {self.options.epochs} epochs")
                if self.context.should_stop():
                    raise Stopped(f"stopped after {step} of {self.total} steps; a retry goes on from there")
                if position == 0 and len(progress.scores) == epoch:
                    self._validated(progress, self.per_epoch if step else 0)
                    self._save(step, progress)
            except Stopped:
                self._save(step, progress)
                raise
            if step == self.total or (position == 0 and epoch - progress.best >= self.options.patience):
                break
            if position == 0 or not plan:
                plan = list(self._plan(epoch))
            progress.losses += self._step(step, plan[position])
            if (step + 1) % self.options.checkpoint_steps == 0:
                self._save(step + 1, progress)
        self._put(self.best)
        return progress

    def restore(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> Progress:
        """Put weights, optimiser and progress of a checkpoint in place."""
        self._put(_below("model", tensors))
        self.best = _below("best", tensors)
        for name, value in self.trained.items():
            moments = {
                key: tensors[f"{key}/{name}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}/{name}" in tensors
            }
            if moments:
                # AdamW counts steps in a tensor on the CPU, and its moments lie beside the weights.
                self.optimiser.state[value] = {**moments, "step": moments["step"].cpu()}
        return Progress(**{**state, "scores": [tuple(score) for score in state["scores"]]})

    def _groups(self, encoder: str) -> list[dict[str, Any]]:
        """Parameter groups: encoder or head, with weight decay on matrices alone."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, value in self.trained.items():
            groups.setdefault((name.startswith(f"{encoder}."), value.ndim > 1), []).append(value)
        return [
            {
                "params": values,
                "peak": self.options.body_lr if body else self.options.head_lr,
                "weight_decay": self.options.weight_decay if matrix else 0.0,
            }
            for (body, matrix), values in sorted(groups.items(), key=lambda item: item[0])
        ]

    def _plan(self, epoch: int) -> Iterator[list[int]]:
        """Batches of row numbers of one epoch: all new rows and the replayed ones, alike in length."""
        rng = np.random.default_rng([self.context.seed, epoch])
        new, memory = len(self.prepared.new), len(self.prepared.memory)
        rows = [*range(new)]
        while memory and len(rows) < new + self.replayed:
            rows.extend((new + rng.permutation(memory)[: new + self.replayed - len(rows)]).tolist())
        shuffled = rng.permutation(rows).tolist()
        size = self.options.batch_size
        batches = []
        for start in range(0, len(shuffled), size * BUCKET):
            bucket = sorted(shuffled[start : start + size * BUCKET], key=lambda row: len(self.tokens[row]))
            batches.extend([bucket[at : at + size] for at in range(0, len(bucket), size)])
        for number in rng.permutation(len(batches)):
            yield batches[number]

    def _step(self, step: int, rows: list[int]) -> float:
        torch.manual_seed(int(np.random.SeedSequence([self.context.seed, step]).generate_state(1)[0]))
        rate = self._rate(step)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        self.optimiser.zero_grad()
        total = 0.0
        size = math.ceil(len(rows) / self.options.accumulate)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            loss = self.loss(self._logits(part), part) * (len(part) / len(rows))
            if not torch.isfinite(loss):
                raise PluginError(
                    f'the loss is not finite at step {step + 1}; lower body_lr or set bf16 = "off"'
                )
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        nn.utils.clip_grad_norm_(list(self.trained.values()), self.options.clip)
        self.optimiser.step()
        return total

    def _logits(self, rows: list[int]) -> torch.Tensor:
        """float32 (b, classes), with dropout."""
        device = self.context.device
        model = self.prepared.classifier.model.train()
        tokens, mask = pad([self.tokens[row] for row in rows], self.prepared.classifier.encode.pad, device)
        with torch.autocast(device, torch.bfloat16, enabled=self.prepared.bf16):
            logits: torch.Tensor = model(input_ids=tokens, attention_mask=mask).logits
        return logits.float()

    def _rate(self, step: int) -> float:
        """Share of the peak learning rate: up to 1 during the warm-up, then straight down to 0."""
        rise = self.options.warmup * self.total
        if step < rise:
            return (step + 1) / (rise + 1)
        return (self.total - step) / max(self.total - rise, 1)

    def _validated(self, progress: Progress, steps: int) -> None:
        score = validate(self.prepared, self.context)
        if progress.record(score, steps, len(self.prepared.validation)):
            self.best = {name: value.detach().clone() for name, value in self.trained.items()}

    def _put(self, weights: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, value in weights.items():
                self.trained[name].copy_(value)

    def _save(self, step: int, progress: Progress) -> None:
        if self.context.resume is None:
            return
        tensors = {f"model/{name}": value.detach() for name, value in self.trained.items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        for name, value in self.trained.items():
            for key, moment in self.optimiser.state.get(value, {}).items():
                tensors[f"{key}/{name}"] = moment
        state: JSON = {
            "losses": progress.losses,
            "train_loss": progress.train_loss,
            "scores": progress.scores,
            "best": progress.best,
        }
        _checkpoint.save(self.context.resume, self.work, step, tensors, state)


def _below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(f"{prefix}/"): value
        for name, value in tensors.items()
        if name.startswith(f"{prefix}/")
    }


def _error(share: float, rows: int) -> float:
    """Standard error of a share measured on so many rows."""
    return math.sqrt(share * (1 - share) / max(rows, 1))
