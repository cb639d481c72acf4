"""A new temperature for the champion (Guo et al. 2017)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from keeperd.api import JSON, Context, PluginError, TrainJob
from keeperd_plugins import _classifier, _figures, _head, _prepare


def recalibrate(job: TrainJob, out: Path, context: Context) -> dict[str, JSON]:
    """Save the champion with the temperature that is best on new and validation rows. It was trained on
    neither; the memory's rows it knows, and would look too sure on them.

    Returns:
        figures, "temperature" among them.

    Raises:
        PluginError: there is no champion, a label is new, there are too few rows, or the logits are not
            finite.
    """
    if job.first:
        raise PluginError("there is no champion to recalibrate; choose another first_strategy")
    meter = _figures.Meter(context.device)
    prepared = _prepare.prepare(job, context)
    if new := job.classes[prepared.known :]:
        raise PluginError(f"label {new[0]!r} is new; a temperature cannot teach it: choose another strategy")
    labels = np.concatenate([prepared.new.labels, prepared.validation.labels])
    if len(labels) < _head.LEAST_CALIBRATION:
        raise PluginError(
            f"{len(labels)} labelled rows are too few for a temperature; wait for {_head.LEAST_CALIBRATION}"
        )
    answers = _prepare.champions_answers(prepared, context)
    logits = np.concatenate([answers.rows[: len(prepared.new)], answers.validation])
    if not np.isfinite(logits).all():
        raise PluginError("the champion's logits are not finite; the model or its texts are broken")
    temperature = _head.calibrate(prepared.classifier.last_linear, logits, labels)
    after = _classifier.run(prepared.classifier, prepared.validation.tokens, context).logits
    prepared.classifier.save(out)
    context.progress(1.0, "recalibrated")
    figures: dict[str, JSON] = {
        "examples": len(labels),
        "new_rows": len(prepared.new),
        "memory_rows": 0,
        "epochs": 0,
        "temperature": temperature,
        "note": f"temperature from {len(labels)} rows; the answers are the champion's",
    }
    if len(prepared.validation):
        figures["validation_accuracy"] = float((after.argmax(1) == prepared.validation.labels).mean())
    return figures | _figures.compare(prepared, answers.validation, after) | meter.read()
