"""Options that the detectors of text share; apart from what computes, so that plugins list without numpy."""

from __future__ import annotations

from pydantic import Field

from keeperd.api import Options


class CheckOptions(Options):
    """Options of a single check."""

    alpha: float = Field(0.01, gt=0.0, lt=0.5, description="chance of a false alarm of one check")
    rows: int = Field(1000, ge=50, le=2000, description="most rows of each window that are laid side by side")
    permutations: int = Field(1999, ge=199, le=20_000, description="random splits that a p-value rests on")
    least_auc: float = Field(
        0.52, ge=0.5, le=1.0, description="a smaller difference is told but does not count as drift"
    )
