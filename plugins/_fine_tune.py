"""From job to candidate folder for the strategies that fine-tune: head first, then the loop, then as much
of the update as validation speaks for.

First the head, then everything: an untrained head would tear at good features (LP-FT; Kumar et al.
2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from keeperd.api import JSON, Context, TrainJob
from keeperd_plugins import _checkpoint, _figures, _prepare, _regularisers, _wise
from keeperd_plugins._loop_options import UpdateOptions
from keeperd_plugins._prepare import Answers, Prepared
from keeperd_plugins._training import Loop, Progress

Finish = Callable[[], Any]
"""Returns the model to be saved once the best weights are in place."""


def fine_tune(
    job: TrainJob,
    out: Path,
    context: Context,
    options: UpdateOptions,
    set_up: Callable[[Prepared], Finish],
) -> dict[str, JSON]:
    """Train a candidate from the champion and save it.

    Args:
        job: rows, classes and champion.
        out: empty folder for the candidate.
        context: `resume` gets a checkpoint an epoch.
        options: of the strategy.
        set_up: chooses what is trained, by `requires_grad`.

    Returns:
        figures of the training.
    """
    meter = _figures.Meter(context.device)
    bf16 = _prepare.use_bf16(options.bf16, context.device)
    prepared = replace(_prepare.prepare(job, context), bf16=bf16)
    champion = _wise.snapshot(prepared) if options.wise and prepared.known else None
    loop, progress, before, finish = _trained(job, prepared, context, options, set_up)
    prepared.classifier.model = finish()
    figures = _figures_of(prepared, progress, loop)
    if champion is not None:
        context.progress(1.0, "mixing with the champion")
        figures["alpha"] = _wise.interpolate(prepared, champion, context)
    return figures | conclude(prepared, before.validation, out, context) | meter.read()


def train_joint(
    job: TrainJob, out: Path, context: Context, options: UpdateOptions, set_up: Callable[[Prepared], Finish]
) -> dict[str, JSON]:
    """Train a candidate from the base model on all rows at hand and save it; as `fine_tune`."""
    meter = _figures.Meter(context.device)
    prepared, before = _prepare.prepare_joint(job, context)
    prepared = replace(prepared, bf16=_prepare.use_bf16(options.bf16, context.device))
    loop, progress, _, finish = _trained(job, prepared, context, options, set_up)
    prepared.classifier.model = finish()
    figures = _figures_of(prepared, progress, loop)
    figures["memory_rows"] = len(job.memory.labelled())
    figures["new_rows"] = len(prepared.new) - figures["memory_rows"]
    return figures | conclude(prepared, before, out, context) | meter.read()


def conclude(prepared: Prepared, before: np.ndarray, out: Path, context: Context) -> dict[str, JSON]:
    """Set the temperature, save the candidate, and compare it with the champion.

    Args:
        prepared: with the candidate's weights.
        before: the champion's logits of the validation rows, float32 (v, known).
        out: empty folder for the candidate.
        context: of the run.

    Returns:
        "temperature", "validation_accuracy" where there are rows, and what `_figures.compare` says.
    """
    temperature, after = _prepare.calibrate(prepared, context)
    _prepare.remember(prepared)
    prepared.classifier.save(out)
    figures: dict[str, JSON] = {"temperature": temperature}
    if len(prepared.validation):
        figures["validation_accuracy"] = float((after.argmax(1) == prepared.validation.labels).mean())
    return figures | _figures.compare(prepared, before, after)


def _trained(
    job: TrainJob,
    prepared: Prepared,
    context: Context,
    options: UpdateOptions,
    set_up: Callable[[Prepared], Finish],
) -> tuple[Loop, Progress, Answers, Finish]:
    """The loop after its last step. Whatever depends on the champion's weights is made before they change,
    so that going on from a checkpoint makes it the same."""
    facts = {
        "options": options.model_dump(mode="json"),
        "seed": context.seed,
        "device": context.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    work = _checkpoint.fingerprint(job, facts)
    found = _checkpoint.load(context.resume, work, context.device, context.log)
    finish = set_up(prepared)
    regulariser = _regularisers.make(options.regulariser, prepared, context)
    if found or not options.head_first:
        answers = _prepare.champions_answers(prepared, context)
    else:
        _, answers = _prepare.fit_head(prepared, options, context)
    loop = Loop(prepared, answers, options, regulariser, work, context)
    start, progress = 0, Progress()
    if found:
        start, progress = found[0], loop.restore(found[1], found[2])
        context.log.info("going on from the checkpoint after %d steps", start)
    return loop, loop.run(start, progress), answers, finish


def _figures_of(prepared: Prepared, progress: Progress, loop: Loop) -> dict[str, JSON]:
    kept = "the fitted head alone" if progress.best == 0 else f"epoch {progress.best}"
    figures: dict[str, JSON] = {
        "examples": len(prepared.new) + loop.replayed,
        "new_rows": len(prepared.new),
        "memory_rows": len(prepared.memory),
        "epochs": len(progress.scores) - 1,
        "train_loss": progress.train_loss,
        "bf16": prepared.bf16,
        "note": f"kept {kept}, the best on {len(prepared.validation)} validation rows",
    }
    if len(prepared.validation):
        figures["validation_accuracy_each"] = [round(score[0], 4) for score in progress.scores]
    else:
        figures["note"] = "kept the last epoch: there were no validation rows"
    return figures
