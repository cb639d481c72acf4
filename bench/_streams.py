"""The streams of bench/strategies.py: a first set of rows, then six periods, each with tests of its own.

Rows of a period and its tests are drawn by the seed; what is drawn as a test is never trained on.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIRST, NEW, TESTS = 1800, 450, 300
"""Most rows of the first version, of each later period, and of each test."""
STEPS = 6

Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class Period:
    """Labelled texts to train on, and others to test with."""

    train: Rows
    test: Rows


def read(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def cut(pools: Sequence[tuple[Rows, Rows]], rng: random.Random) -> list[Period]:
    """Draw each period from its pools of rows and of test rows; the first pool is the first version's."""
    return [
        Period(
            rng.sample(rows, min(NEW if number else FIRST, len(rows))),
            rng.sample(tests, min(TESTS, len(tests))),
        )
        for number, (rows, tests) in enumerate(pools)
    ]


def apart(rows: Rows, share: float, rng: random.Random) -> tuple[Rows, Rows]:
    """Some rows as tests, the rest to train on."""
    mixed = rng.sample(rows, len(rows))
    tests = round(share * len(mixed))
    return mixed[tests:], mixed[:tests]


def repo_trends(folder: Path, rng: random.Random) -> list[Period]:
    """Two years, then six periods to 2026; two labels appear in 2020, one dies out."""
    ends = ("2016", "2018", "2020", "2021", "2023", "2025", "2027")
    pools: list[Rows] = [[] for _ in ends]
    for row in read(folder / "repo-trends" / "data.jsonl"):
        pools[next(i for i, end in enumerate(ends) if row["time"] < end)].append((row["text"], row["label"]))
    return cut([apart(pool, 0.3, rng) for pool in pools], rng)


def policy_topics(folder: Path, rng: random.Random) -> list[Period]:
    """Titles of bills, then headlines in the order of time."""
    bills = [(row["text"], row["label"]) for row in read(folder / "policy-topics" / "bills.jsonl")]
    lines = sorted(read(folder / "policy-topics" / "headlines.jsonl"), key=lambda row: str(row["time"]))
    headlines = [(row["text"], row["label"]) for row in lines]
    size = len(headlines) // STEPS
    parts = [headlines[at * size : (at + 1) * size] for at in range(STEPS)]
    return cut([apart(bills, 0.2, rng), *(apart(part, 0.25, rng) for part in parts)], rng)


def reviews(folder: Path, rng: random.Random) -> list[Period]:
    """Three domains of reviews, then six times two others."""
    groups = by_domain(folder / "reviews-15", rng)
    return cut(joined(groups, [3] + [2] * STEPS), rng)


def clinc(folder: Path, rng: random.Random) -> list[Period]:
    """Four domains of intents, then six times one other with 15 labels of its own."""
    groups = [group for group in by_domain(folder / "clinc150", rng) if group[0][0][1] != "oos"]
    return cut(joined(groups, [4] + [1] * STEPS), rng)


def by_domain(folder: Path, rng: random.Random) -> list[tuple[Rows, Rows]]:
    """Training and test rows of each domain, the domains in the order of the seed."""
    sides: list[dict[str, Rows]] = []
    for name in ("train", "test"):
        found: dict[str, Rows] = {}
        for row in read(folder / f"{name}.jsonl"):
            found.setdefault(row["domain"], []).append((row["text"], row["label"]))
        sides.append(found)
    names = sorted(sides[0])
    rng.shuffle(names)
    return [(sides[0][name], sides[1][name]) for name in names]


def joined(groups: Sequence[tuple[Rows, Rows]], sizes: Sequence[int]) -> list[tuple[Rows, Rows]]:
    """So many groups at a time as one."""
    pools, at = [], 0
    for size in sizes:
        some = groups[at : at + size]
        pools.append(([row for rows, _ in some for row in rows], [row for _, rows in some for row in rows]))
        at += size
    return pools


STREAMS: Mapping[str, Callable[[Path, random.Random], list[Period]]] = {
    "repo-trends": repo_trends,
    "policy-topics": policy_topics,
    "reviews-15": reviews,
    "clinc150": clinc,
}


def stream(name: str, folder: Path, seed: int) -> list[Period]:
    """The periods of a stream; the same for the same seed."""
    return STREAMS[name](folder, random.Random(f"{name} {seed}"))
