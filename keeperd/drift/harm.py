"""Does it hurt? The champion's accuracy on a window against the one it was accepted with.

With labels it is measured, in each window and over time (`bets`). Without, it can only be guessed: under
real drift in time such guesses were 4 to 15 points too good, so they come with a wide range and are given
up readily. They never say that there is no harm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from keeperd.api import JSON, Prediction
from keeperd.drift import Harm, bets, powered

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Numbers = NDArray[np.int64]
    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

LEAST_LABELLED = 10
"""Fewer labelled rows measure nothing."""
LEAST_WINDOW, LEAST_HOLDOUT = 100, 300
"""Fewer rows than these, and nothing is estimated without labels."""
MOST_NOVEL = 0.2
OPTIMISM = 0.15
"""How many points too good estimates without labels have been under real drift, at the worst."""
NEIGHBOUR = 5
EDGE = 0.05
"""Share of held-out rows that are further from the others than what counts as familiar."""
UNLABELLED = 20
"""Rows without a label to each labelled one, from which confidence makes bets less noisy."""


@dataclass(frozen=True)
class Accepted:
    """What the champion was accepted with.

    Attributes:
        answers: its answers to the holdout, by the artefact that answered the window.
        right: (holdout rows,) whether they are right.
        accuracy: the accuracy it was accepted with, 0..1; None: that on the holdout.
        rows: rows that `accuracy` was counted on; 0: it counts as exact.
    """

    answers: Prediction
    right: Bools
    accuracy: float | None = None
    rows: int = 0


@dataclass(frozen=True)
class Asked:
    """A window with the champion's answers.

    Attributes:
        answers: of all n rows.
        labelled: (n,) which rows have a label; they count as a random sample of the window.
        right: (n,) whether the answer is that label, one that the champion does not know being wrong;
            of no meaning without a label.
        sampled: (n,) False for rows that are here only for their label; None: there are none.
        fresh: (n,) False for labelled rows that an earlier call has counted; None: all are fresh.
        batch: (n,) number of the batch that each row came in, rising with time; None: they are one.
    """

    answers: Prediction
    labelled: Bools
    right: Bools
    sampled: Bools | None = None
    fresh: Bools | None = None
    batch: Numbers | None = None


def judge(
    asked: Asked, accepted: Accepted, state: JSON = None, *, at: str = "", alpha: float = bets.ALPHA
) -> tuple[Harm, JSON, bets.LabelWatch]:
    """Does drift hurt, in this window and over time?

    Args:
        state: of the bets, as the last call for this champion returned it; None at the first.
        at: the time of this window, in words that `LabelWatch.since` may repeat.
        alpha: chance of a false alarm over time.

    Returns:
        the window's harm, the new state of the bets, and what all labels so far say together.
    """
    accuracy, rows = _accepted(accepted)
    if accuracy is None:
        return loss(asked, accepted), state, bets.LabelWatch()
    borne = bets.limit(accuracy, rows)
    after, watch = bets.count(state, blocks(asked, accepted), borne, alpha=alpha, at=at)
    return loss(asked, accepted), after, watch


def loss(asked: Asked, accepted: Accepted) -> Harm:
    """Harm of one window: measured where `LEAST_LABELLED` rows have labels, else guessed at best."""
    accuracy, rows = _accepted(accepted)
    if accuracy is None:
        return unknown("what accuracy the champion was accepted with is not known")
    sampled = slice(None) if asked.sampled is None else asked.sampled
    window = Prediction(asked.answers.logits[sampled], asked.answers.embeddings[sampled])
    labelled = int(asked.labelled.sum())
    if labelled < LEAST_LABELLED:
        return estimated(window, accepted.answers, accepted.right, accuracy)
    sure = confidence(asked.answers, accepted)
    right = asked.right[asked.labelled]
    now = powered.accuracy(right, sure[asked.labelled], sure[sampled])
    return of_labels(now, labelled, powered.counted(accuracy, rows))


def _accepted(accepted: Accepted) -> tuple[float | None, int]:
    if accepted.accuracy is not None:
        return accepted.accuracy, accepted.rows
    return (float(accepted.right.mean()), len(accepted.right)) if len(accepted.right) else (None, 0)


def confidence(answers: Prediction, accepted: Accepted) -> Doubles:
    """Chance, 0..1, that each answer is right, as far as the holdout tells."""
    calibration = powered.calibrate(accepted.answers.logits, accepted.right)
    return powered.confidence(answers.logits, calibration)


def of_labels(now: powered.Accuracy, rows: int, before: powered.Accuracy) -> Harm:
    """Harm from the accuracy now, measured with so many labelled rows, and the one that was accepted."""
    low, high = powered.difference(before, now)
    return Harm(
        how="labels",
        rows=rows,
        accepted=before.share,
        accuracy=now.share,
        estimate=before.share - now.share,
        low=low,
        high=high,
        p_value=powered.p_worse(before, now),
        abstained=False,
        why=f"measured on {rows} labelled rows; they stand for the window only if they were not picked",
    )


def blocks(asked: Asked, accepted: Accepted) -> list[bets.Block]:
    """Fresh labelled rows as the bets count them, a block for each batch.

    Where a batch has rows in plenty without labels, a row's loss is corrected by how much surer or less
    sure of it the champion is than of those on average: the expectation stays, the noise shrinks
    (prediction-powered, as in `powered`), and so does the harm done by picking hard rows to label.
    """
    import numpy as np

    doubt = 1 - confidence(asked.answers, accepted)
    fresh = asked.labelled if asked.fresh is None else asked.labelled & asked.fresh
    batch = np.zeros(len(fresh), np.int64) if asked.batch is None else asked.batch
    found = []
    for number in np.unique(batch[fresh]):
        here = batch == number
        rows, others = here & fresh, here & ~asked.labelled
        wrong, least = (~asked.right[rows]).astype(float), 0.0
        losses = wrong
        if others.sum() >= UNLABELLED * rows.sum():
            usual = float(doubt[others].mean())
            losses, least = wrong - (doubt[rows] - usual), usual - float(doubt[here].max())
        found.append(bets.Block(losses.tolist(), least, int(wrong.sum())))
    return found


def unknown(why: str, *, rows: int = 0, accepted: float | None = None) -> Harm:
    """Nothing honest can be said."""
    return Harm(how="unknown", rows=rows, accepted=accepted, why=why)


def estimated(window: Prediction, holdout: Prediction, right: Bools, accepted: float) -> Harm:
    """Harm without labels, or an abstention.

    The point is the share of rows on which the champion is as sure as on those held-out rows that it
    has right (negative entropy above a threshold; "ATC", Garg et al. 2022, "Leveraging unlabeled data to
    predict out-of-distribution performance", ICLR). The pessimistic end counts every novel row as wrong
    and adds what such estimates were too good by under real drift.

    Args:
        window, holdout: the champion's answers, by the same artefact.
        right: (holdout rows,) whether it has them right.
        accepted: accuracy that it was accepted with.
    """
    rows, held = len(window.logits), len(right)
    if held < LEAST_HOLDOUT or rows < LEAST_WINDOW:
        few = f"{held} held-out rows (of {LEAST_HOLDOUT})" if held < LEAST_HOLDOUT else f"{rows} rows"
        return unknown(
            f"without labels, {few} are too few to guess accuracy from; label some rows", accepted=accepted
        )
    novel = novel_share(window.embeddings, holdout.embeddings)
    if novel > MOST_NOVEL:
        return unknown(
            f"{novel:.0%} of the rows are unlike anything the champion was tested on; label some of them",
            rows=rows,
            accepted=accepted,
        )
    import numpy as np

    tested = float(np.mean(right))
    sure = negative_entropy(holdout.logits)
    accuracy = _as_sure(negative_entropy(window.logits), sure, tested)
    spread = NormalDist().inv_cdf((1 + powered.LEVEL) / 2) * math.sqrt(
        max(accuracy * (1 - accuracy), 0.01) / rows + max(tested * (1 - tested), 0.01) / held
    )
    return Harm(
        how="estimate",
        rows=rows,
        accepted=accepted,
        accuracy=accuracy,
        estimate=tested - accuracy,
        low=tested - accuracy - spread,
        high=min(tested - accuracy * (1 - novel) + OPTIMISM, tested),
        abstained=False,
        why="guessed from how sure the champion is; under real drift such guesses were up to 15 points"
        " too good, so only labels can tell",
    )


def negative_entropy(logits: Floats) -> Doubles:
    """Sum of p log p over the classes, (n,): 0 where the answer is certain, less where it is not."""
    import numpy as np

    shifted = np.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=-1e9).astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    entropies: Doubles = (np.exp(logs) * np.maximum(logs, -700)).sum(axis=1)
    return entropies


def _as_sure(window: Doubles, holdout: Doubles, share: float) -> float:
    """Share of the window above the value that this share of the holdout is above; of rows at the very
    value, as many as there."""
    import numpy as np

    threshold = np.quantile(holdout, 1 - share)

    def parts(values: Doubles) -> tuple[float, float]:
        at = np.isclose(values, threshold, rtol=0.0, atol=1e-6)
        return float(np.mean((values > threshold) & ~at)), float(np.mean(at))

    above, at = parts(holdout)
    counted = min(max((share - above) / at, 0.0), 1.0) if at else 0.0
    return sum(part * weight for part, weight in zip(parts(window), (1.0, counted), strict=True))


def familiar(window: Floats, holdout: Floats) -> Bools:
    """bool (n,): rows whose fifth nearest held-out row (by cosine) is at least as near as that of all
    but 5 % of the held-out rows themselves. With hardly any held-out rows all count as familiar."""
    import numpy as np

    def directions(rows: Floats) -> Floats:
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(np.nan_to_num(rows / np.maximum(lengths, 1e-12)), np.float32)

    here, there = directions(window), directions(holdout)
    if len(there) <= NEIGHBOUR:
        return np.ones(len(here), bool)
    own = there @ there.T
    np.fill_diagonal(own, -np.inf)
    limit = np.quantile(np.partition(own, -NEIGHBOUR, axis=1)[:, -NEIGHBOUR], EDGE)
    nearness = np.partition(here @ there.T, -NEIGHBOUR, axis=1)[:, -NEIGHBOUR]
    return np.asarray(nearness >= limit - 1e-6)


def novel_share(window: Floats, holdout: Floats) -> float:
    """Share of rows, 0..1, that are not familiar, beyond what is usual."""
    strange = 1 - float(familiar(window, holdout).mean())
    return max((strange - EDGE) / (1 - EDGE), 0.0)
