"""Does an artefact answer as the model that was trained? Pure judging of answers that were measured.

A row agrees where both give the same label. The task's own figure is compared pair by pair on the
same rows, so that chance in the choice of rows cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keeperd import config
from keeperd.api import JSON, Prediction, Task, Window
from keeperd.inference.measure import Measured

FP32_AGREEMENT = 0.999
"""What the plain artefact must reach whatever is configured: below it the export itself is wrong."""

FP32_TOLERANCE = 1e-3
"""Largest difference of its outputs at odd shapes, relative to the largest value."""

TIE = 0.05
"""Artefacts whose throughput differs by less are equally fast; then the safer one, which the exporter
names first, is chosen."""

FIGURES = (
    "provider", "agreement", "max_logit_diff", "mean_logit_diff", "metric", "metric_torch", "loss",
    "loss_low", "loss_high", "p50_ms", "p95_ms", "p99_ms", "rows_per_s", "load_s", "peak_mb", "gpu_mb",
    "nodes",
)  # fmt: skip
"""What is told of an artefact that ran; None of one that did not."""

Answers = Sequence[tuple[np.ndarray, np.ndarray]]
"""Logits and embeddings at each shape."""


def same_labels(expected: np.ndarray, found: np.ndarray) -> float:
    """Share of rows, 0..1, whose largest logit is at the same place; (n, classes) each. Rows with a
    value that is not finite do not agree."""
    same = expected.argmax(axis=1) == found.argmax(axis=1)
    return float((same & np.isfinite(found).all(axis=1)).mean())


def compare(expected: Prediction, measured: Measured) -> dict[str, float]:
    """Agreement (the lesser of texts alone and in batches: int8 scales a batch as a whole), largest
    and mean difference of the logits."""
    n = len(expected.logits)
    alone = expected.logits[np.arange(len(measured.single)) % n]
    with np.errstate(invalid="ignore"):  # infinite answers are told by `judge`
        gaps = np.abs(expected.logits.astype(np.float64) - measured.batched.logits)
    return {
        "agreement": min(
            same_labels(expected.logits, measured.batched.logits), same_labels(alone, measured.single)
        ),
        "max_logit_diff": float(gaps.max()),
        "mean_logit_diff": float(gaps.mean()),
    }


def loss(
    task: Task[Any], classes: Sequence[str], window: Window, expected: np.ndarray, found: np.ndarray
) -> dict[str, float | None]:
    """The task's figure of both on the labelled rows, and how much the artefact loses, with a 95 %
    interval of the paired difference (normal approximation). None without labelled rows."""
    rows = [row for row, label in enumerate(window.labels) if label is not None]
    if not rows:
        return dict.fromkeys(("metric", "metric_torch", "loss", "loss_low", "loss_high"))
    labels = [str(window.labels[row]) for row in rows]
    right = np.asarray(task.scores(classes, labels, expected[rows]), np.float64)
    mine = np.asarray(task.scores(classes, labels, found[rows]), np.float64)
    lost = right - mine
    error = float(lost.std(ddof=1)) / math.sqrt(len(rows)) if len(rows) > 1 else 1.0
    mean = float(lost.mean())
    return {
        "metric": float(mine.mean()),
        "metric_torch": float(right.mean()),
        "loss": mean,
        "loss_low": mean - 1.96 * error,
        "loss_high": mean + 1.96 * error,
    }


def shape_fault(expected: Answers, measured: Measured, precision: str) -> str | None:
    """What is wrong at a shape of its own, or with a value, or None. How far reduced precision may be
    off is judged on real rows alone."""
    batched = measured.batched
    if not all(np.isfinite(one).all() for one in (batched.logits, batched.embeddings, measured.single)):
        return "answers that are not finite"
    for right, answer in zip(expected, measured.shapes, strict=True):
        for mine, theirs in zip(answer, right, strict=True):
            if mine.shape != theirs.shape:
                return f"answers of shape {mine.shape} where {theirs.shape} is expected"
            if not np.isfinite(mine).all():
                return f"answers that are not finite for a batch of {len(mine)}"
            gap = float(np.abs(mine.astype(np.float64) - theirs).max())
            if precision == "fp32" and not gap <= FP32_TOLERANCE * max(1.0, float(np.abs(theirs).max())):
                return f"off by {gap:.2g} for a batch of {len(mine)}"
    return None


def judge(figures: Mapping[str, JSON], fault: str | None, settings: config.Export) -> str:
    """Why an artefact is refused, or "".

    Args:
        figures: "precision", and those of `compare` and `loss`.
        fault: that of `shape_fault`.
        settings: the limits.
    """
    reasons = [fault] if fault else []
    fp32 = figures["precision"] == "fp32"
    needed = max(settings.agreement, FP32_AGREEMENT) if fp32 else settings.agreement
    if figures["agreement"] < needed:
        reasons.append(f"same label as torch on {figures['agreement']:.1%} of rows, {needed:.1%} needed")
    if figures["loss"] is not None and figures["loss"] > settings.max_loss + 1e-9:
        reasons.append(f"loses {figures['loss']:.1%} against torch, {settings.max_loss:.1%} allowed")
    return "; ".join(reasons)


def choose(artefacts: Sequence[Mapping[str, JSON]]) -> Mapping[str, JSON] | None:
    """The fastest that passed; of equally fast ones the one that comes first. None if none passed."""
    passed = [one for one in artefacts if one["passed"]]
    fastest = max((one["rows_per_s"] for one in passed), default=0.0)
    return next((one for one in passed if one["rows_per_s"] >= fastest * (1 - TIE)), None)


def summary(chosen: Mapping[str, JSON] | None, artefacts: Sequence[Mapping[str, JSON]], rows: int) -> str:
    """One sentence for people."""
    if chosen is None:
        why = "; ".join(f"{one['precision']}: {one['why']}" for one in artefacts) or "none was exported"
        return f"no artefact may serve: {why}"
    return (
        f"{chosen['precision']} on {chosen['provider']}: same labels as torch on {chosen['agreement']:.1%}"
        f" of {rows} rows, {chosen['p50_ms']:.1f} ms a text, {chosen['rows_per_s']:.0f} texts/s,"
        f" {chosen['mb']:.0f} MB"
    )


def habits(logits: np.ndarray, classes: Sequence[str]) -> dict[str, JSON]:
    """How a model answers a window: "confidence", its mean largest probability, and "labels", the share
    of each label that it gives. `logits` (n, classes), n at least 1."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    counts = np.bincount(logits.argmax(axis=1), minlength=len(classes))
    return {
        "confidence": float((powers.max(axis=1) / powers.sum(axis=1)).mean()),
        "labels": {name: float(n) / len(logits) for name, n in zip(classes, counts, strict=True) if n},
    }
