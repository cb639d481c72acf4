"""Two-sample tests by permutation: a classifier of windows, and shares of categories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    Ints = NDArray[np.int64]

RIDGE = 10.0
"""Penalty, in units of the mean eigenvalue of the kernel. Of 1, 3, 10 and 100 the best over n-grams,
embeddings and both."""


@dataclass(frozen=True)
class Smoother:
    """Ridge regression on a centred kernel: fitted values are `hat` times what is to be fitted, for
    any labels at once.

    Attributes:
        hat: float32 (n, n), symmetric.
    """

    hat: Floats

    def left_out(self, members: Floats) -> Floats:
        """Leave-one-out scores: of each row, from a fit to all the others.

        Args:
            members: float32 (splits, n), 1 for rows of the current window, 0 for the reference.

        Returns:
            float32 (splits, n), larger for rows more like the current window. Exact for ridge
            regression about the mean of both windows (Hastie, Tibshirani and Friedman 2009, The
            Elements of Statistical Learning, 7.10).
        """
        targets = members - members.mean(axis=1, keepdims=True)
        own = np.minimum(np.diag(self.hat), 0.999)
        others = self.hat / (1.0 - own)
        others[np.diag_indices(len(own))] -= own / (1.0 - own)
        return np.asarray(targets @ others, dtype=np.float32)


def smoother(kernel: Floats, ridge: float = RIDGE) -> Smoother:
    """Hat matrix K (K + ridge I)^-1 of a centred kernel with mean diagonal one. Single precision does: with
    the ridge no eigenvalue is more than n / 10 + 1 times another."""
    from scipy.linalg import lapack

    places = np.diag_indices(len(kernel))
    shifted = np.array(kernel, np.float32, order="F")
    shifted[places] += ridge
    factor, failed = lapack.spotrf(shifted, lower=1, overwrite_a=1)
    inverse, failed_too = lapack.spotri(factor, lower=1, overwrite_c=1)
    if failed or failed_too:
        raise np.linalg.LinAlgError("the kernel of two windows is not positive definite")
    diagonal = 1.0 - ridge * inverse[places]
    inverse *= -ridge  # the lower half; the other one is zero
    hat = inverse + inverse.T
    hat[places] = diagonal
    return Smoother(np.asarray(hat, np.float32))


def splits(reference: int, current: int, permutations: int, seed: int) -> Floats:
    """Memberships float32 (1 + permutations, reference + current): first the real one (reference rows,
    then current ones), then random ones of the same sizes."""
    rng = np.random.default_rng(seed)
    total = reference + current
    members = np.zeros((1 + permutations, total), np.float32)
    members[0, reference:] = 1.0
    draws = rng.random((permutations, total), dtype=np.float32).argpartition(current - 1, axis=1)[:, :current]
    np.put_along_axis(members[1:], draws, 1.0, axis=1)
    return members


def margins(scores: Floats, members: Floats) -> Doubles:
    """Mean score of current rows less that of reference rows, (splits,)."""
    current = members.sum(axis=1, dtype=np.float64)
    inside = (scores * members).sum(axis=1, dtype=np.float64)
    outside = scores.sum(axis=1, dtype=np.float64) - inside
    return np.asarray(inside / current - outside / (members.shape[1] - current), dtype=np.float64)


def p_value(statistics: Doubles) -> float:
    """(1 + how many permutations reach the real split) / (1 + permutations); `statistics[0]` is the
    real one. Ties within rounding count against it (Phipson and Smyth 2010, "Permutation p-values
    should never be zero")."""
    slack = 1e-5 * float(np.abs(statistics).max(initial=0.0))
    return float((1 + (statistics[1:] >= statistics[0] - slack).sum()) / len(statistics))


def auc(scores: Floats, current: NDArray[np.bool_]) -> float:
    """Probability that a current row scores above a reference row, ties one half."""
    from scipy.stats import rankdata

    n, m = int(current.sum()), int((~current).sum())
    return float((rankdata(scores)[current].sum() - n * (n + 1) / 2) / (n * m))


@dataclass(frozen=True)
class Shares:
    """Two tables of counts compared: p-value, total variation distance 0..1, and the mean distance of
    two windows drawn alike."""

    p: float
    distance: float
    usual: float


def compare_shares(
    reference: Ints, current: Ints, permutations: int, seed: int, inflation: float = 1.0, freedom: int = 0
) -> Shares:
    """Chi-square of counts (classes,) in two windows, against permutations of the rows between them.

    Args:
        inflation: how much larger the variance of the difference is than that of independent rows,
            because rows of one day are alike (the design effect; Rao and Scott 1981).
        freedom: degrees of freedom of that figure, which is itself estimated; 0: it is not.
    """
    rng = np.random.default_rng(seed)
    pooled = reference + current
    present = pooled > 0
    pooled, n, m = pooled[present], int(current.sum()), int(reference.sum())
    drawn = rng.multivariate_hypergeometric(pooled, n, size=permutations, method="marginals")
    tables = np.vstack([current[present], drawn]).astype(np.float64)
    expected = pooled * (n / (n + m))
    chi = ((tables - expected) ** 2 / (expected * (m / (n + m)))).sum(axis=1)
    chi[1:] *= inflation
    if freedom:
        chi[1:] *= freedom / rng.chisquare(freedom, permutations)
    distances = np.abs(tables / n - (pooled - tables) / m).sum(axis=1) / 2
    return Shares(p_value(chi), float(distances[0]), float(distances[1:].mean()))
