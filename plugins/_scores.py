"""Figures of a classifier on labelled rows, with numpy alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BINS = 15
LEAST = float(np.finfo(np.float32).eps)
"""Least probability that the log loss counts with, so that one label that the model does not know does
not make it infinite."""


def right(classes: Sequence[str], labels: Sequence[str], logits: np.ndarray) -> np.ndarray:
    """float64 (n,): 1.0 where the largest logit is the label's, else 0.0; rows with a logit that is not
    finite are wrong."""
    wanted = _numbers(classes, labels)
    answered = np.argmax(logits, axis=1) if len(labels) else np.zeros(0, np.int64)
    return np.asarray((answered == wanted) & np.isfinite(logits).all(axis=1), dtype=np.float64)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """float64 (n, classes): softmax of the logits."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def log_loss(classes: Sequence[str], labels: Sequence[str], logits: np.ndarray) -> float:
    """Mean negative log probability of the labels, in nats; NaN where a logit is not finite."""
    wanted, shares = _numbers(classes, labels), probabilities(logits)
    given = np.where(wanted >= 0, shares[np.arange(len(wanted)), wanted], 0.0)
    return float(-np.log(np.maximum(given, LEAST)).mean())


def calibration_error(classes: Sequence[str], labels: Sequence[str], logits: np.ndarray) -> float:
    """Expected calibration error, 0..1, over 15 equal bins of confidence (Guo et al. 2017, "On
    Calibration of Modern Neural Networks", ICML); NaN where a logit is not finite."""
    confidence = probabilities(logits).max(axis=1)
    if not np.isfinite(confidence).all():
        return float("nan")
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights=right(classes, labels, logits) - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def recalls(classes: Sequence[str], labels: Sequence[str], logits: np.ndarray) -> dict[str, float]:
    """Share of each label's rows that are right, for the labels that occur, sorted by name."""
    names, which = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
    rows = np.bincount(which)
    hits = np.bincount(which, weights=right(classes, labels, logits))
    return {str(name): float(share) for name, share in zip(names, hits / rows, strict=True)}


def macro_f1(classes: Sequence[str], labels: Sequence[str], logits: np.ndarray) -> float:
    """Mean F1 over the labels that occur or are answered."""
    answered = np.asarray(classes, dtype=object)[np.argmax(logits, axis=1)].astype(str)
    truth = np.asarray(labels, dtype=object).astype(str)
    hits = right(classes, labels, logits).astype(bool)
    scores = [
        2.0 * (hits & (truth == name)).sum() / ((truth == name).sum() + (answered == name).sum())
        for name in np.union1d(truth, answered)
    ]
    return float(np.mean(scores))


def _numbers(classes: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """int64 (n,): class numbers, -1 for a label that is none of the classes."""
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers.get(label, -1) for label in labels], dtype=np.int64)
