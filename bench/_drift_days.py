"""Day after day: false alarms in bursty years and on real streams, and how soon a change is found.

    python bench/_drift_days.py DATA_FOLDER [--runs 20] [--seed 0]

DATA_FOLDER holds clinc150 and the dated streams policy-topics, tweet-sentiment and repo-trends.

Years are made of clinc150: each day's shares of the domains are drawn anew (Dirichlet; the smaller kappa,
the burstier), 200 rows a day, 30 days of reference; a change is a share of rows of a domain that the
reference never has, from the 30th day on. Streams are real: rows in the order of time are cut into blocks,
and the blocks are shuffled, so that they are drawn alike but as bursty as they are. Beside the monitor a
test of the day's rows (Hotelling's T-squared), and Evidently's text test on some of the days. The features
are computed once for all days; that this changes nothing is tried with whole days through the detector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from _drift_data import Figure, evidently_finds, main, read
from scipy.stats import f as fisher

from keeperd.api import Context, Window
from keeperd_plugins import _blocks, _channels, _ngrams, _reference, _sequence
from keeperd_plugins.monitor_detector import MonitorDetector

Rows = np.ndarray
Day = Callable[[float], Rows]

ROWS, REFERENCE, YEAR = 200, 30, 365
START, LONG = 30, 90
BUDGET = 1.0
STREAMS = {
    "headlines": ("policy-topics/headlines.jsonl", 60),
    "tweets": ("tweet-sentiment/data.jsonl", 200),
    "repo-trends": ("repo-trends/data.jsonl", 200),
}
EVIDENTLY_DAYS = 12
NEVER = 10**6


@dataclass(frozen=True)
class Pool:
    """Rows to draw from: features float32 (n, d), texts and groups."""

    features: np.ndarray
    texts: Sequence[str]
    groups: np.ndarray

    @classmethod
    def of(cls, rows: list[dict[str, Any]], group: str) -> Pool:
        texts = [row["text"] for row in rows]
        features = _ngrams.sketch(_ngrams.features(_ngrams.count(texts)), _reference.SKETCH, 0)
        return cls(features, texts, np.array([row[group] for row in rows]))


def fit(pool: Pool, days: Sequence[Rows]) -> _channels.Channel:
    """The reference's blocks, a day each."""
    block = np.repeat(np.arange(len(days)), [len(rows) for rows in days])
    found = _channels.fit(pool.features[np.concatenate(days)], _blocks.Split(block, len(days), 1.0))
    assert found is not None
    return found


def date(number: int) -> str:
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)).date().isoformat()


class Follower:
    """The monitor on one stream of days."""

    def __init__(self, pool: Pool, reference: Sequence[Rows]) -> None:
        self.pool, self.number = pool, 0
        self.channel = fit(pool, reference)
        baseline = _sequence.Baseline(self.channel.model, self.channel.own)
        self.sequence = _sequence.Sequence(baseline, _sequence.State(), self.channel.rules(BUDGET))

    def look(self, rows: Rows) -> str:
        """What raised an alarm on this day, or ""."""
        self.number += 1
        parts = self.channel.parts(self.pool.features[rows], [date(self.number)] * len(rows))
        return "".join(look.alarm for look in self.sequence.follow(parts))

    def by_rows(self, rows: Rows) -> float:
        """p of the day's rows as if they were independent of one another."""
        model, n = self.channel.model, len(rows)
        total, k = int(model.sizes.sum()), model.means.shape[1]
        step = self.channel.axes.project(self.pool.features[rows]).mean(0) - model.means.mean(0)
        squared = step @ np.linalg.solve(model.within, step) * n * total / (n + total)
        free = n + total - k - 1
        return float(fisher.sf(squared * free / (k * (n + total - 2)), k, free))


# --- years that are made ----------------------------------------------------------------------------


def days_of(pool: Pool, unseen: str, kappa: float, rng: np.random.Generator) -> Day:
    """Draws a day with this share of rows of the unseen group."""
    groups = [np.flatnonzero(pool.groups == name) for name in np.unique(pool.groups) if name != unseen]
    new = np.flatnonzero(pool.groups == unseen)

    def draw(share: float) -> Rows:
        count = int(rng.binomial(ROWS, share))
        parts = rng.multinomial(ROWS - count, rng.dirichlet(np.full(len(groups), kappa / len(groups))))
        rows = [rng.choice(group, size) for group, size in zip(groups, parts, strict=True)]
        return np.concatenate([*rows, rng.choice(new, count)])

    return draw


def quiet_year(draw: Day, pool: Pool) -> tuple[int, int]:
    """Alarms of the monitor, and of the rows' test at 5 %."""
    follower = Follower(pool, [draw(0.0) for _ in range(REFERENCE)])
    alarms = by_rows = 0
    for _ in range(YEAR):
        rows = draw(0.0)
        alarms += bool(follower.look(rows))
        by_rows += follower.by_rows(rows) <= 0.05
    return alarms, by_rows


def delay(draw: Day, pool: Pool, share: float) -> int:
    """Days from the change to the first alarm after it, the day of the change being the first."""
    follower = Follower(pool, [draw(0.0) for _ in range(REFERENCE)])
    for _ in range(START):
        follower.look(draw(0.0))
    return next((day for day in range(1, LONG + 1) if follower.look(draw(share))), NEVER)


def evidently_days(draw: Day, pool: Pool) -> float:
    """Share of quiet days on which Evidently's text test finds drift."""
    reference = [pool.texts[row] for row in np.concatenate([draw(0.0) for _ in range(5)])]
    days = [[pool.texts[row] for row in draw(0.0)] for _ in range(EVIDENTLY_DAYS)]
    return float(np.mean([evidently_finds(reference, day, number) for number, day in enumerate(days)]))


# --- real streams -----------------------------------------------------------------------------------


def shuffled(pool: Pool, size: int, runs: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """Alarms of the monitor and of the rows' test, and blocks looked at."""
    blocks = [np.arange(start, start + size) for start in range(0, len(pool.features) - size + 1, size)]
    alarms = by_rows = looked = 0
    for _ in range(runs):
        order = [blocks[place] for place in rng.permutation(len(blocks))]
        follower = Follower(pool, order[:REFERENCE])
        for rows in order[REFERENCE : REFERENCE + YEAR]:
            alarms += bool(follower.look(rows))
            by_rows += follower.by_rows(rows) <= 0.05
            looked += 1
    return alarms, by_rows, looked


# --- the same by the detector -------------------------------------------------------------------------


def same_by_detector(draw: Day, pool: Pool) -> str:
    """Forty days, drifted from the twentieth, through the detector's own interface and through this
    file's short way: "yes" where both raise the same alarms on the same days."""
    reference = [draw(0.0) for _ in range(REFERENCE)]
    days = [draw(0.0 if number < 20 else 0.3) for number in range(40)]
    follower = Follower(pool, reference)
    short = [follower.look(rows) for rows in days]

    def window(rows: Sequence[Rows], first: int) -> Window:
        texts, times, ids = [], [], []
        for number, one in enumerate(rows, first):
            noon = datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(days=number)
            texts += [pool.texts[row] for row in one]
            times += [noon] * len(one)
            ids += [f"{number}-{place}" for place in range(len(one))]
        return Window(texts, times=times, ids=ids)

    with TemporaryDirectory() as folder:
        context, detector, state, told = Context(Path(folder)), MonitorDetector(), None, []
        statistics = detector.fit(window(reference, 0), context)
        for number, rows in enumerate(days, REFERENCE):
            signals, state = detector.detect(statistics, window([rows], number), state, context)
            told.append(next(one for one in signals if one.name == "text").facts["alarm"])
    return "yes" if told == short else f"no: {told} and {short}"


def figures(data: Path, runs: int, seed: int) -> Iterator[Figure]:
    """Number and name of each figure, what it must hold, and what was measured."""
    rng = np.random.default_rng(seed)
    rows = [row for part in ("train", "val", "test") for row in read(data / f"clinc150/{part}.jsonl")]
    pool = Pool.of([row for row in rows if row["domain"] != "oos"], "domain")
    names = np.unique(pool.groups).tolist()

    def draw(run: int, kappa: float) -> Day:
        return days_of(pool, names[run % len(names)], kappa, rng)

    for kappa, most in ((100.0, 1.0), (20.0, 1.5)):
        years = [quiet_year(draw(run, kappa), pool) for run in range(runs)]
        alarms, by_rows = np.mean(years, axis=0)
        told = f"{alarms:.2f} a year (a test of rows at 5 %: {by_rows:.0f})"
        yield f"1 false alarms in {runs} bursty years, kappa {kappa:.0f}", f"<= {most}", told
    share = evidently_days(draw(0, 20.0), pool)
    yield f"  Evidently's text test, {EVIDENTLY_DAYS} quiet days, kappa 20", "-", f"{YEAR * share:.0f} a year"
    total = np.zeros(3, int)
    for name, (file, size) in STREAMS.items():
        stream = Pool.of(sorted(read(data / file), key=lambda row: str(row["time"])), "label")
        found = np.array(shuffled(stream, size, max(runs // 2, 1), rng))
        total += found
        told = (
            f"{YEAR * found[0] / found[2]:.2f} per 365 of {found[2]} (rows: {YEAR * found[1] / found[2]:.0f})"
        )
        yield f"2 {name}, blocks of {size} shuffled", "-", told
    told = f"{YEAR * total[0] / total[2]:.2f} per 365 of {total[2]} (rows: {YEAR * total[1] / total[2]:.0f})"
    yield "2 real streams, blocks shuffled, pooled", "<= 3", told
    for mix, most in ((0.5, 2), (0.2, 9), (0.1, 40)):
        delays = [delay(draw(run, 100.0), pool, mix) for run in range(runs)]
        within = float(np.mean([one <= LONG for one in delays]))
        told = f"median {np.median(delays):.1f}, found in {LONG} days {within:.2f}"
        yield f"3 days to find {mix:.0%} of an unseen domain", f"median <= {most}, >= .90", told
    yield "  the detector itself raises the same alarms", "yes", same_by_detector(draw(0, 100.0), pool)


if __name__ == "__main__":
    main(__doc__, figures)
