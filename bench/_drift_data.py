"""What the benchmarks of drift share: rows of a file, the Chinese texts, and Evidently's text test."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Figure = tuple[str, str, str]
"""Number and name, what is to hold, and what was measured."""
Figures = Callable[[Path, int, int], Iterator[Figure]]
"""(data folder, runs, seed) -> figures, as they are measured."""


def main(description: str | None, figures: Figures, runs: int = 20) -> None:
    """Read the command line of one part and print its figures."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=int, default=runs)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name, hold, measured in figures(options.data, options.runs, options.seed):
        print(f"{name} [{hold}]: {measured}", flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def evidently_finds(reference: Sequence[str], current: Sequence[str], seed: int) -> bool:
    """Whether Evidently's text test finds drift; texts without a word that it knows count as no."""
    from evidently.legacy.utils.data_drift_utils import roc_auc_domain_classifier
    from pandas import Series

    texts = Series([*reference, *current])
    is_new = np.arange(len(texts)) >= len(reference)
    order = np.random.default_rng(seed).permutation(len(texts))
    train, test = order[: len(texts) // 2], order[len(texts) // 2 :]
    try:
        auc, _, _ = roc_auc_domain_classifier(
            texts.iloc[train], texts.iloc[test], is_new[train].astype(int), is_new[test].astype(int)
        )
    except ValueError:
        return False
    new = int(is_new[test].sum())
    old = len(test) - new
    return bool(auc > 0.5 + 1.645 * np.sqrt((old + new + 1) / (12 * old * new)))
