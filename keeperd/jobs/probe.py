"""Job `probe`: champion and predecessor on labelled rows that neither was trained on.

Both answer with the very artefacts that serve or have served, each file checked as it is loaded.

inputs: {"champion": version, "predecessor": version, "batches": [sha, oldest first]}
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from keeperd import rows
from keeperd.api import JSON, Task
from keeperd.inference import Predictor
from keeperd.jobs import Job

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]

PAIRS = np.array(["n", "p", "c", "b"])
"""By 2 x champion right + predecessor right; see `keeperd.probation`."""


def run(job: Job) -> dict[str, JSON]:
    """Answer every labelled row of the batches with both versions.

    Returns:
        "pairs": a character a row, in order of arrival ("b" both right, "c" only the champion,
        "p" only the predecessor, "n" neither), "rows", each one's metrics under "champion" and
        "predecessor" ({} without rows), and "latency_ms", the champion's mean time a row (None
        without rows).

    Raises:
        BadInputError: a file of a version is missing or changed.
        VersionError: a version has no readable manifest.
    """
    batches = rows.read([job.paths.batch(sha) for sha in job.inputs["batches"]])
    window = rows.window(rows.labelled(batches))
    if not len(window):
        return {"pairs": "", "champion": {}, "predecessor": {}, "rows": 0, "latency_ms": None}
    labels = [label for label in window.labels if label is not None]
    task = cast("Task[Any]", job.load("task", job.settings.task))
    champion, metrics, seconds = _answer(job, task, job.inputs["champion"], window.texts, labels)
    job.context.progress(0.5, "the champion has answered")
    predecessor, others, _ = _answer(job, task, job.inputs["predecessor"], window.texts, labels)
    return {
        "pairs": "".join(PAIRS[2 * champion.astype(int) + predecessor.astype(int)].tolist()),
        "champion": metrics,
        "predecessor": others,
        "rows": len(window),
        "latency_ms": 1000 * seconds / len(window),
    }


def _answer(
    job: Job, task: Task[Any], version: int, texts: Sequence[str], labels: Sequence[str]
) -> tuple[Bools, dict[str, JSON], float]:
    """Which rows a version has right (n,), its metrics, and the seconds that it took."""
    with Predictor(job.paths.version(version), job.settings.export.providers) as predictor:
        started = time.monotonic()
        logits = predictor.predict(texts).logits
        seconds = time.monotonic() - started
    # Whoever asks for a label and gets NaN was not served: such a row is wrong.
    sound = np.isfinite(logits).all(axis=1)
    logits = np.where(sound[:, None], logits, 0.0)
    right = sound & (np.asarray(task.scores(predictor.classes, labels, logits)) >= 0.5)
    metrics = task.metrics(predictor.classes, labels, logits).items() if sound.all() else ()
    figures = {name: float(value) if math.isfinite(value) else None for name, value in metrics}
    return right, {**figures, "accuracy": float(right.mean())}, seconds
