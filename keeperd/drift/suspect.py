"""Do the labels look wrong? A poisoned or mixed-up batch disagrees with the champion far more often
than the champion's own doubt explains.

Honest drift lowers agreement too, but with it the champion's confidence; so agreement is compared with
confidence and not with the accepted accuracy. Two kinds of rows are left out, because there the champion
has no say: those whose labels it does not know, and those unlike anything that it was tested on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keeperd.drift import Suspect

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST_ROWS = 20
"""Fewer labelled rows raise no suspicion."""
SURE = 3.0
"""Standard errors by which agreement must fall short."""
APART = 0.3
"""Total variation distance of labels from the champion's answers to the same rows, from which half
the excess of disagreement is enough."""
FLOOD = 0.5
"""Share of labelled rows that repeat another row, from which a batch is a flood."""


@dataclass(frozen=True)
class Calibration:
    """How much the champion's confidence is worth: logits are divided by `temperature` (Guo et al. 2017,
    "On calibration of modern neural networks", ICML), then `excess` is taken off the mean confidence."""

    temperature: float = 1.0
    excess: float = 0.0


def calibrate(logits: NDArray[np.float32], answers: Sequence[int | None]) -> Calibration:
    """The temperature that fits held-out rows best.

    Args:
        answers: column of the right class of each row, None where there is none.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar

    known = [
        row for row, answer in enumerate(answers) if answer is not None and np.isfinite(logits[row]).all()
    ]
    columns = [answers[row] for row in known]
    if len(known) < LEAST_ROWS:
        return Calibration()
    rows = logits[known].astype(np.float64)

    def loss(log_temperature: float) -> float:
        scaled = rows / math.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        logs = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        return -float(logs[np.arange(len(known)), columns].mean())

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20.0)), method="bounded")
    return Calibration(math.exp(float(found.x)))


def confidence(logits: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float64]:
    """Calibrated probability of each answer, (n,)."""
    import numpy as np

    scaled = (
        np.nan_to_num(logits.astype(np.float64), nan=0.0, posinf=0.0, neginf=-1e9) / calibration.temperature
    )
    largest = 1.0 / np.exp(scaled - scaled.max(axis=1, keepdims=True)).sum(axis=1)
    return np.asarray(np.maximum(largest - calibration.excess, 1.0 / scaled.shape[1]))


def judge(
    labels: Sequence[str],
    logits: NDArray[np.float32],
    classes: Sequence[str],
    calibration: Calibration,
    threshold: float,
    texts: Sequence[str] = (),
) -> Suspect:
    """Compare labels with the champion's answers.

    Args:
        labels: of labelled rows that are familiar to the champion (`harm.familiar`); rows with labels
            that are not in `classes` are left out.
        logits: float32 (n, classes), the champion's on the same rows.
        threshold: excess of disagreement, 0..1, that makes labels suspect; 1: never.
        texts: of all labelled rows, to find a flood of one text.
    """
    import numpy as np

    repeated = 1 - len({" ".join(text.lower().split()) for text in texts}) / len(texts) if texts else 0.0
    if len(texts) >= LEAST_ROWS and repeated >= FLOOD and threshold < 1:
        return Suspect(suspect=True, why=f"{repeated:.0%} of the labelled rows repeat another row")
    known = [row for row, label in enumerate(labels) if label in set(classes)]
    if len(known) < LEAST_ROWS:
        return Suspect(why=f"{len(known)} rows that the champion can judge are too few to judge labels by")
    given = [labels[row] for row in known]
    sure = confidence(logits[known], calibration)
    answers = [classes[column] for column in np.nan_to_num(logits[known]).argmax(axis=1).tolist()]
    agreement = float(np.mean([one == other for one, other in zip(given, answers, strict=True)]))
    expected = float(sure.mean())
    excess = expected - agreement
    sd = math.sqrt(max(float((sure * (1 - sure)).sum()), 0.25)) / len(known)
    apart = distance(given, answers)
    told = (
        f"they agree with the champion on {agreement:.0%} of {len(known)} rows, where {expected:.0%} was to"
        " be expected"
    )
    why = ""
    if excess >= threshold and excess >= SURE * sd:
        why = told
    elif excess >= threshold / 2 and excess >= SURE * sd and apart >= APART:
        shares = f"their shares are {apart:.0%} away from its answers"
        only = f"all are {given[0]!r}" if len(set(given)) == 1 else shares
        why = f"{told}, and {only}"
    return Suspect(
        suspect=bool(why) and threshold < 1,
        disagreement=1 - agreement,
        expected=1 - expected,
        why=why or told,
    )


def distance(one: Sequence[str], other: Sequence[str]) -> float:
    """Total variation distance of two lists' shares of names, 0..1."""
    a, b = Counter(one), Counter(other)
    return sum(abs(a[name] / len(one) - b[name] / len(other)) for name in a.keys() | b.keys()) / 2
