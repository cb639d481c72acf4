"""The champion as an assessment sees it: its folder, its answers, and what it was accepted on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keeperd import rows
from keeperd.api import BadInputError, Prediction, Task, Window
from keeperd.drift import reference
from keeperd.drift import window as drift_window
from keeperd.drift.window import Predictor


@dataclass(frozen=True)
class Tested:
    """Held-out rows: the champion's answers, whether each is right, and the labels."""

    answers: Prediction
    right: np.ndarray
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Champion:
    """The champion at work.

    Attributes:
        predictor: answers as it does when it serves.
        accuracy: that it was accepted with, 0..1, on `accuracy_rows` rows; None: not known.
    """

    folder: Path
    predictor: Predictor
    task: Task[Any]
    accuracy: float | None
    accuracy_rows: int

    @classmethod
    def of(cls, folder: Path, predictor: Predictor, task: Task[Any]) -> Champion:
        """Read the version's profile.

        Raises:
            BadInputError: it is missing or damaged.
        """
        try:
            profile = json.loads((folder / "profile.json").read_bytes())
        except (OSError, ValueError) as error:
            raise BadInputError(
                f"{folder}: profile.json is not readable ({error}); run keeperd verify"
            ) from error
        return cls(folder, predictor, task, profile.get("accuracy"), int(profile.get("rows") or 0))

    def rows(self) -> Window:
        """The reference window."""
        return reference.window(rows.read([self.folder / "reference" / "rows.parquet"]))

    def reference(self) -> Window:
        """The reference window, answered."""
        return drift_window.answered(self.rows(), self.predictor)

    def right(self, labels: Sequence[str], logits: np.ndarray) -> np.ndarray:
        """bool (n,): which rows it has right; an answer that is not a number is wrong."""
        if not labels:
            return np.zeros(0, bool)
        sound = np.isfinite(logits).all(axis=1)
        scores = self.task.scores(self.predictor.classes, labels, np.where(sound[:, None], logits, 0.0))
        return np.asarray(sound & (np.asarray(scores) >= 0.5))

    def tested(self) -> Tested:
        """It on its holdout, as it answered when it was verified.

        Raises:
            BadInputError: the kept answers are damaged, or are to other rows.
        """
        holdout = rows.labelled(rows.read([self.folder / "holdout.parquet"], ["text", "label"]))
        labels = [str(label) for label in holdout.column("label").to_pylist()]
        answers = reference.load_holdout(self.folder / "reference")
        if answers is None:
            answers = self.predictor.predict(holdout.column("text").to_pylist())
        if len(answers.logits) != len(labels):
            raise BadInputError(f"{self.folder}: answers to other holdout rows; run keeperd verify")
        return Tested(answers, self.right(labels, answers.logits), tuple(labels))
