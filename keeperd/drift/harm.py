"""Does it hurt? The champion's accuracy on a window against the one it was accepted with.

With labels it is measured. Without, it can only be guessed: under real drift in time such guesses
were 4 to 15 points too good, so they come with a wide range and are given up readily. They never say
that there is no harm.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

from keeperd.drift import Harm

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from keeperd.api import Prediction

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

CONFIDENCE = 0.9
"""Level of the two-sided intervals."""
LEAST_LABELLED = 20
"""Fewer labelled rows measure nothing."""
LEAST_WINDOW, LEAST_HOLDOUT = 100, 300
"""Fewer rows than these, and nothing is estimated without labels."""
MOST_NOVEL = 0.2
OPTIMISM = 0.15
"""How many points too good estimates without labels have been under real drift, at the worst."""
NEIGHBOUR = 5
EDGE = 0.05
"""Share of held-out rows that are further from the others than what counts as familiar."""


def wilson(right: float, rows: float) -> tuple[float, float]:
    """Interval of a share, right out of rows (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = (right + z * z / 2) / (rows + z * z)
    half = z / (rows + z * z) * math.sqrt(right * (rows - right) / rows + z * z / 4)
    return middle - half, middle + half


def difference(before: float, before_rows: int, now: float, now_rows: int) -> tuple[float, float]:
    """Interval of before - now, two shares of independent rows (Newcombe 1998, method 10). Without
    `before_rows` the first share counts as exact."""
    low_now, high_now = wilson(now * now_rows, now_rows)
    low, high = wilson(before * before_rows, before_rows) if before_rows else (before, before)
    step = before - now
    return (
        step - math.hypot(before - low, high_now - now),
        step + math.hypot(high - before, now - low_now),
    )


def p_worse(before: float, before_rows: int, now: float, now_rows: int) -> float:
    """One-sided p-value of "accuracy has not fallen", by the normal approximation."""
    share = (before * before_rows + now * now_rows + 1) / (before_rows + now_rows + 2)
    variance = share * (1 - share) * (1 / now_rows + (1 / before_rows if before_rows else 0.0))
    return 1 - NormalDist().cdf((before - now) / math.sqrt(variance))


def measured(right: int, rows: int, accepted: float, accepted_rows: int) -> Harm:
    """Harm from labels.

    Args:
        right: labelled rows that the champion has right, of `rows`; a label that it does not know
            is an error.
        accepted, accepted_rows: accuracy that it was accepted with, and on how many rows.
    """
    accuracy = right / rows
    low, high = difference(accepted, accepted_rows, accuracy, rows)
    return Harm(
        how="labels",
        rows=rows,
        accepted=accepted,
        accuracy=accuracy,
        estimate=accepted - accuracy,
        low=low,
        high=high,
        p_value=p_worse(accepted, accepted_rows, accuracy, rows),
        abstained=False,
        why=f"measured on {rows} labelled rows; they stand for the window only if they were not picked",
    )


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
    spread = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(
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
