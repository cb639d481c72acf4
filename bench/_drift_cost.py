"""CPU seconds of a drift check, and bytes of what is kept, beside Evidently's text check in the same run.

    python bench/_drift_cost.py DATA_FOLDER [--runs 5] [--seed 0]

DATA_FOLDER holds tweet-sentiment and reviews-15. Rows are drawn anew for every run; the fitting of what is
stored with a version is left out of the monitor's daily check, and counts for the single check. Evidently
gets the same two tables of one text column and chooses its test itself (Report of ValueDrift). One thread,
n-grams alone, imports left out.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from _drift_data import Figure, main, read
from threadpoolctl import threadpool_limits

from keeperd.api import Context, Window
from keeperd_plugins.monitor_detector import MonitorDetector
from keeperd_plugins.two_sample_detector import TwoSampleDetector

SETS = {"tweets": "tweet-sentiment/data.jsonl", "reviews": "reviews-15/train.jsonl"}
DAYS, DAILY, REFERENCE = 30, 250, 1000
LONG = 400
"""Characters of a text that are looked at: reviews at least as long as that are the dearest rows."""
CHEAPER, MOST_MB, MOST_SECONDS = 15, 8, 1.0
PLANTED, SHARE = "click here to win ", 0.5

Texts = Sequence[str]


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of some work."""
    started = time.process_time()
    work()
    return time.process_time() - started


def evidently(reference: Texts, current: Texts) -> float:
    """CPU seconds of its check of the same rows."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    definition = DataDefinition(text_columns=["text"])

    def check() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            old, new = (
                Dataset.from_pandas(pd.DataFrame({"text": list(texts)}), data_definition=definition)
                for texts in (reference, current)
            )
            Report([ValueDrift(column="text")]).run(new, old).dict()

    return cpu(check)


def window(texts: Texts, day: int | None = None) -> Window:
    times = () if day is None else [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day)] * len(texts)
    return Window(list(texts), times=times, ids=[f"{day}-{row}" for row in range(len(texts))])


def dated(texts: Texts) -> Window:
    """`DAYS` days of as many rows each."""
    size = len(texts) // DAYS
    start = datetime(2026, 1, 1, tzinfo=UTC)
    times = [start + timedelta(days=min(row // size, DAYS - 1)) for row in range(len(texts))]
    return Window(list(texts), times=times, ids=[str(row) for row in range(len(texts))])


def planted(texts: Texts) -> list[str]:
    """Half of the rows begin with the same words."""
    return [PLANTED + text if row < SHARE * len(texts) else text for row, text in enumerate(texts)]


def daily(texts: Texts, folder: Path, seed: int) -> tuple[dict[str, float], float]:
    """CPU seconds of a quiet day, of a day with an alarm, and of Evidently's; megabytes that are kept."""
    detector, context = MonitorDetector(), Context(folder, seed=seed)
    before, quiet = texts[: DAYS * DAILY], texts[DAYS * DAILY : (DAYS + 1) * DAILY]
    statistics = detector.fit(dated(before), context)
    state = detector.detect(statistics, window(quiet, DAYS), None, context)[1]
    seconds = {}
    for name, rows in (("a quiet day", quiet), ("an alarm, explained", planted(quiet))):
        again = MonitorDetector()  # nothing is kept in memory from one day to the next
        seconds[name] = cpu(
            lambda again=again, rows=rows: again.detect(statistics, window(rows, DAYS + 1), state, context)
        )
    seconds["Evidently"] = evidently(before[:REFERENCE], planted(quiet))
    size = sum(array.nbytes for array in statistics.arrays.values())
    size += len(json.dumps(dict(statistics.values))) + len(json.dumps(state))
    return seconds, size / 1e6


def single(texts: Texts, current: int, folder: Path, seed: int) -> dict[str, float]:
    """CPU seconds of one check of two windows, fitting and all."""
    context = Context(folder, seed=seed)
    before, now = texts[:REFERENCE], texts[REFERENCE : REFERENCE + current]

    def check(rows: Texts) -> None:
        detector = TwoSampleDetector()
        detector.detect(detector.fit(window(before), context), window(rows), None, context)

    seconds = {"no drift": cpu(lambda: check(now)), "drift, explained": cpu(lambda: check(planted(now)))}
    return {**seconds, "Evidently": evidently(before, planted(now))}


def told(found: Sequence[dict[str, float]]) -> str:
    """Medians, and how many times cheaper than Evidently."""
    middle = {name: float(np.median([one[name] for one in found])) for name in found[0]}
    theirs = middle.pop("Evidently")
    parts = [f"{name} {seconds:.3f} s ({theirs / seconds:.0f}x)" for name, seconds in middle.items()]
    return f"{', '.join(parts)}; Evidently {theirs:.2f} s"


def figures(data: Path, runs: int, seed: int) -> Iterator[Figure]:
    """What was measured: its name, what it should be, and what it is."""
    rng = np.random.default_rng(seed)
    with TemporaryDirectory() as name:
        warm = read(data / SETS["tweets"])[: REFERENCE + DAILY]
        single([row["text"] for row in warm], DAILY, Path(name), seed)  # loads every library
        with threadpool_limits(1):  # of those that are loaded
            for which, path in SETS.items():
                texts = [row["text"] for row in read(data / path)]
                if which == "reviews":
                    texts = [text for text in texts if len(text) >= LONG]
                drawn = [[texts[row] for row in rng.permutation(len(texts)).tolist()] for _ in range(runs)]
                yield from figures_of(which, drawn, Path(name), seed)


def figures_of(which: str, drawn: Sequence[Texts], folder: Path, seed: int) -> Iterator[Figure]:
    """The figures of one set of rows, drawn several times."""
    cheaper = f">= {CHEAPER}x cheaper"
    days = [daily(one, folder, seed) for one in drawn]
    yield f"8 monitor, a day of {DAILY} {which}", cheaper, told([seconds for seconds, _ in days])
    yield f"8 what is kept, {which}", f"<= {MOST_MB} MB", f"{max(size for _, size in days):.1f} MB"
    for rows, hold in ((300, cheaper), (REFERENCE, f"< {MOST_SECONDS:g} s")):
        found = [single(one, rows, folder, seed) for one in drawn]
        yield f"8 single check, {REFERENCE} and {rows} {which}", hold, told(found)


if __name__ == "__main__":
    main(__doc__, figures, runs=5)
