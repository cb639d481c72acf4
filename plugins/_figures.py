"""What a training has come to, in figures: on old and new validation rows, before and after; and its cost."""

from __future__ import annotations

import resource
import time

import numpy as np
import torch

from keeperd.api import JSON
from keeperd_plugins._prepare import Prepared


class Meter:
    """The cost of what happens from here on, in this process."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.wall, self.cpu = time.monotonic(), time.process_time()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def read(self) -> dict[str, JSON]:
        """ "seconds" and "cpu_seconds" (of all threads); "peak_mb", the most memory that the process has
        held since it began; on a GPU also "gpu_peak_mb", the most that was allocated there."""
        figures: dict[str, JSON] = {
            "seconds": round(time.monotonic() - self.wall, 2),
            "cpu_seconds": round(time.process_time() - self.cpu, 2),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
        if self.device == "cuda":
            figures["gpu_peak_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
        return figures


def compare(prepared: Prepared, before: np.ndarray, after: np.ndarray) -> dict[str, JSON]:
    """Candidate and champion on the validation rows.

    Args:
        prepared: labels of the v validation rows, and which of them are new.
        before: float32 (v, known), the champion's logits; no columns where there is no champion.
        after: float32 (v, classes), the candidate's.

    Returns:
        for "new" and "old" rows, where there are any: "new_rows_validated", "new_accuracy",
        "new_accuracy_before", "new_positive_flips" (shares of the rows that were wrong and are right now),
        "new_negative_flips" (the other way round) and the same with "old"; "backward_transfer", by how
        much the accuracy on old rows has risen (Lopez-Paz and Ranzato 2017, NeurIPS); "kl_to_champion",
        the mean KL divergence in nats of the candidate's answers from the champion's. All accuracies are
        0..1. Without a champion, only the accuracies after.
    """
    figures: dict[str, JSON] = {}
    labels = prepared.validation.labels
    right = after.argmax(1) == labels
    champion = bool(before.shape[1])
    was_right = before.argmax(1) == labels if champion else right
    for name, rows in (("new", prepared.fresh), ("old", ~prepared.fresh)):
        if not rows.any():
            continue
        figures[f"{name}_rows_validated"] = int(rows.sum())
        figures[f"{name}_accuracy"] = _mean(right[rows])
        if champion:
            figures[f"{name}_accuracy_before"] = _mean(was_right[rows])
            figures[f"{name}_positive_flips"] = _mean((right & ~was_right)[rows])
            figures[f"{name}_negative_flips"] = _mean((~right & was_right)[rows])
    if champion and (~prepared.fresh).any():
        gain = figures["old_accuracy"] - figures["old_accuracy_before"]
        figures["backward_transfer"] = round(gain, 4)
    if champion and len(labels):
        figures["kl_to_champion"] = _divergence(before, after)
    return figures


def _mean(flags: np.ndarray) -> float:
    return round(float(flags.mean()), 4)


def _divergence(before: np.ndarray, after: np.ndarray) -> float:
    goal = torch.tensor(before).double().log_softmax(1)
    answer = torch.tensor(after).double().log_softmax(1)[:, : before.shape[1]]
    return round(float((goal.exp() * (goal - answer)).sum(1).mean()), 5)
