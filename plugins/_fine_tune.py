"""From job to candidate folder for the strategies that fine-tune: head first, then the loop.

First the head, then everything: an untrained head would tear at good features (LP-FT; Kumar et al.
2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from keeperd.api import JSON, Context, TrainJob
from keeperd_plugins import _checkpoint
from keeperd_plugins._loop_options import LoopOptions
from keeperd_plugins._prepare import Prepared, calibrate, fit_head, prepare, remember, teacher
from keeperd_plugins._training import Loop, Progress

Finish = Callable[[], Any]
"""Returns the model to be saved once the best weights are in place."""


def fine_tune(
    job: TrainJob,
    out: Path,
    context: Context,
    options: LoopOptions,
    set_up: Callable[[Prepared], Finish],
) -> dict[str, JSON]:
    """Train and save a candidate.

    Args:
        job: rows, classes and champion.
        out: empty folder for the candidate.
        context: `resume` gets a checkpoint an epoch.
        options: of the strategy.
        set_up: chooses what is trained, by `requires_grad`.

    Returns:
        figures of the training.
    """
    prepared = prepare(job, context)
    facts = {
        "options": options.model_dump(mode="json"),
        "seed": context.seed,
        "device": context.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    work = _checkpoint.fingerprint(job, facts)
    found = _checkpoint.load(context.resume, work, context.device, context.log)
    answers = teacher(prepared, context) if found else fit_head(prepared, context).teacher
    finish = set_up(prepared)
    loop = Loop(prepared, answers, options, work, context)
    start, progress = 0, Progress()
    if found:
        start, progress = found[0], loop.restore(found[1], found[2])
        context.log.info("going on from the checkpoint after %d steps", start)
    progress = loop.run(start, progress)
    prepared.classifier.model = finish()
    temperature = calibrate(prepared, context)
    remember(prepared)
    prepared.classifier.save(out)
    return {**_figures(prepared, progress, loop), "temperature": temperature}


def _figures(prepared: Prepared, progress: Progress, loop: Loop) -> dict[str, JSON]:
    kept = "the fitted head alone" if progress.best == 0 else f"epoch {progress.best}"
    figures: dict[str, JSON] = {
        "examples": len(prepared.new) + loop.replayed,
        "new_rows": len(prepared.new),
        "memory_rows": len(prepared.memory),
        "epochs": len(progress.scores) - 1,
        "train_loss": progress.train_loss,
        "bf16": loop.bf16,
        "note": f"kept {kept}, the best on {len(prepared.validation)} validation rows",
    }
    if len(prepared.validation):
        figures["validation_accuracy"] = progress.scores[progress.best][0]
        figures["validation_accuracy_each"] = [round(score[0], 4) for score in progress.scores]
    else:
        figures["note"] = "kept the last epoch: there were no validation rows"
    return figures
