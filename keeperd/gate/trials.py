"""The test sets with both models' answers, as the gate judges them; no decisions but whether they
can be judged at all. numpy is imported inside the functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keeperd.gate import paired
from keeperd.gate.verdict import short

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Answers:
    """What one model said about the n rows of one test set.

    Attributes:
        logits: float (n, classes), in the order of the model's classes.
        scores: float64 (n,), each row's own score, 0 (wrong) .. 1 (right); a row counts as right
            from one half on.
        metrics: the task's figures of the set.
    """

    logits: np.ndarray
    scores: np.ndarray
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """One test set and both models' answers: "golden", "holdout" (both old) or "new". For version 1
    the champion is None."""

    name: str
    labels: Sequence[str]
    sources: Sequence[str | None]
    candidate: Answers
    champion: Answers | None


def unsound(
    trials: Sequence[Trial], champion: tuple[str, ...] | None, candidate: tuple[str, ...]
) -> str | None:
    """Why these answers cannot be judged, in a few words, or None where they can."""
    if not candidate or len(set(candidate)) != len(candidate):
        return "the candidate's labels are missing or not unique"
    if champion is not None:
        if missing := [label for label in champion if label not in candidate]:
            return f"the candidate does not know the champion's label {short(missing[0])!r}"
        if candidate[: len(champion)] != champion:
            return "the candidate has the champion's labels in another order"
    for trial in trials:
        if (champion is None) != (trial.champion is None):
            return f"the champion's answers on the {trial.name} rows are missing"
        both = (("champion", trial.champion, champion), ("candidate", trial.candidate, candidate))
        for who, answers, classes in both:
            if answers is None or classes is None:
                continue
            if reason := _unusable(answers, len(trial.labels), len(classes)):
                return f"the {who}'s answers on the {trial.name} rows are unusable: {reason}"
    return None


def _unusable(answers: Answers, rows: int, classes: int) -> str | None:
    import numpy as np

    if answers.logits.shape != (rows, classes):
        return f"logits of shape {answers.logits.shape} instead of {(rows, classes)}"
    if bad := int((~np.isfinite(answers.logits)).any(axis=1).sum()):
        return f"{bad} of {rows} rows have a logit that is NaN or infinite"
    # Asked this way round, NaN is refused too.
    if answers.scores.shape != (rows,) or not ((answers.scores >= 0) & (answers.scores <= 1)).all():
        return "scores are missing or not within 0 and 1"
    if rows and not answers.metrics:
        return "metrics are missing"
    if odd := [name for name, value in answers.metrics.items() if rows and not math.isfinite(value)]:
        return f"the metric {short(odd[0])!r} is not a finite number"
    return None


@dataclass(frozen=True)
class Side:
    """One model's answers on the pooled n rows: label codes int64 (n,), whether each is right
    (bool), and the probability it gave to its answer (float64, 0..1)."""

    predicted: np.ndarray
    right: np.ndarray
    confidence: np.ndarray


@dataclass(frozen=True)
class Pool:
    """The n rows of all test sets, set by set.

    Attributes:
        sets: names of the sets (n,).
        old: bool (n,), whether the champion was accepted on such rows.
        names: labels by code, sorted.
        truth: int64 (n,) codes of the true labels.
        sources: (n,) where rows came from, None where unknown.
        champion: None for version 1.
    """

    sets: np.ndarray
    old: np.ndarray
    names: tuple[str, ...]
    truth: np.ndarray
    sources: Sequence[str | None]
    champion: Side | None
    candidate: Side

    def counts(self, rows: np.ndarray) -> paired.Counts:
        """Paired outcomes on the rows (bool mask) of a pool with a champion."""
        assert self.champion is not None  # noqa: S101 - a caller's mistake, not an input's
        return paired.count(self.champion.right[rows], self.candidate.right[rows])


def pool(trials: Sequence[Trial], champion: tuple[str, ...] | None, candidate: tuple[str, ...]) -> Pool:
    """The rows of all sets together; `unsound` must have found nothing."""
    import numpy as np

    labels = [label for trial in trials for label in trial.labels]
    names = tuple(sorted({*labels, *candidate}))
    code = {name: i for i, name in enumerate(names)}
    sets = np.array([trial.name for trial in trials for _ in trial.labels], dtype=object)

    def side(answers: Sequence[Answers], classes: tuple[str, ...]) -> Side:
        columns = np.array([code[name] for name in classes])
        empty = np.empty((0, len(classes)))
        logits = np.concatenate([empty, *(a.logits for a in answers)])
        scores = np.concatenate([np.empty(0), *(a.scores for a in answers)])
        return Side(columns[logits.argmax(axis=1)], scores >= 0.5, paired.confidence(logits))

    before = [trial.champion for trial in trials if trial.champion is not None]
    return Pool(
        sets=sets,
        old=sets != "new",
        names=names,
        truth=np.array([code[label] for label in labels], dtype=np.int64),
        sources=[source for trial in trials for source in trial.sources],
        champion=None if champion is None else side(before, champion),
        candidate=side([trial.candidate for trial in trials], candidate),
    )


def figures(trials: Sequence[Trial], rows: Pool, who: str) -> dict[str, Any]:
    """Metrics of "champion" or "candidate" over all rows, and the task's own of each set; {} for
    the champion of version 1."""
    side: Side | None = getattr(rows, who)
    if side is None or not len(rows.truth):
        return {}
    return {
        "accuracy": float(side.right.mean()),
        "macro_f1": paired.f1_difference(rows.truth, side.predicted, side.predicted)[0],
        "ece": paired.calibration_error(side.confidence, side.right),
        "rows": len(rows.truth),
        "sets": {trial.name: {**getattr(trial, who).metrics, "rows": len(trial.labels)} for trial in trials},
    }
