"""The single check of the n-gram detector on real text: false alarms, power, seconds.

    python bench/drift.py FILE.jsonl... [--group domain] [--runs 40] [--reference 1000] [--window 300]

Each line of a file holds "text", and "label" or another key to group by; with "time" the days are
tested too. Printed for each file: how often a window drawn like the reference alarms (rows shuffled, and
whole days shuffled, which keeps the bursts of real streams), how often a window with a share of rows of
one group, which the reference never has, is found, and CPU seconds of a check. Windows have no
embeddings; a model's make the check stronger.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from keeperd.api import Context, Signal, Statistics, Window
from keeperd_plugins.two_sample_detector import TwoSampleDetector

LEVELS = (0.05, 0.01)
MIXES = (0.1, 0.2, 0.5)


def rows_of(path: Path, group: str) -> list[dict[str, Any]]:
    """The lines of a file; those without the group's key are left out."""
    with path.open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return [line for line in lines if line.get(group) is not None]


def as_window(rows: list[dict[str, Any]], *, dated: bool = False) -> Window:
    """A window of these lines."""
    times = [datetime.fromisoformat(row["time"]).replace(tzinfo=UTC) for row in rows] if dated else ()
    return Window(
        [row["text"] for row in rows], times=times, ids=[str(number) for number in range(len(rows))]
    )


class Checks:
    """Runs checks and counts their CPU time."""

    def __init__(self, workdir: Path) -> None:
        self.detector = TwoSampleDetector()
        self.context = Context(workdir)
        self.seconds: list[float] = []

    def fit(self, rows: list[dict[str, Any]], *, dated: bool = False) -> Statistics:
        """Statistics of a reference."""
        return self.detector.fit(as_window(rows, dated=dated), self.context)

    def text(self, statistics: Statistics, rows: list[dict[str, Any]], *, dated: bool = False) -> Signal:
        """The signal about the text."""
        started = time.process_time()
        signals, _ = self.detector.detect(statistics, as_window(rows, dated=dated), None, self.context)
        self.seconds.append(time.process_time() - started)
        return next(signal for signal in signals if signal.name == "text")


def shares(p_values: list[float]) -> str:
    """How often p was at or below each level."""
    found = np.array(p_values)
    return "  ".join(f"{(found <= level).mean():6.2f}" for level in LEVELS)


def mixed(
    rows: list[dict[str, Any]], group: str, mix: float, options: argparse.Namespace, rng: np.random.Generator
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Pairs of reference and window; the window has this share of rows of a group left out of the
    reference. The groups take turns, the most frequent first."""
    groups = [name for name, _ in Counter(row[group] for row in rows).most_common(8)]
    for run in range(options.runs):
        unseen = groups[run % len(groups)]
        old = [row for row in rows if row[group] != unseen]
        new = [row for row in rows if row[group] == unseen]
        count = min(round(mix * options.window), len(new))
        drawn = rng.permutation(len(old))[: options.reference + options.window - count]
        kept = [old[i] for i in drawn]
        fresh = [new[i] for i in rng.permutation(len(new))[:count]]
        yield kept[: options.reference], kept[options.reference :] + fresh


def shuffled_days(
    rows: list[dict[str, Any]], options: argparse.Namespace, rng: np.random.Generator
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Pairs of a reference of 30 days and one day as the window, days being consecutive rows in order
    of time, shuffled and given new dates: bursty, but drawn alike."""
    ordered = sorted(rows, key=lambda row: row["time"])
    size = max(options.window // 3, 20)
    days = [ordered[i : i + size] for i in range(0, len(ordered) - size + 1, size)]
    for _ in range(options.runs):
        chosen = [days[i] for i in rng.permutation(len(days))[:31]]
        if len(chosen) < 31:
            return
        dated = [
            [{**row, "time": f"2026-{1 + number // 28:02}-{1 + number % 28:02}"} for row in day]
            for number, day in enumerate(chosen)
        ]
        yield [row for day in dated[:30] for row in day], dated[30]


def measure(path: Path, options: argparse.Namespace, checks: Checks) -> None:
    """Print the table of one file."""
    rows = rows_of(path, options.group)
    rng = np.random.default_rng(options.seed)
    print(
        f"{path.parent.name}/{path.name}: {len(rows)} rows, reference {options.reference},"
        f" window {options.window}"
    )
    print(f"  {'':38}" + "  ".join(f"p<={level}" for level in LEVELS))
    for mix in (0.0, *MIXES):
        found = [
            checks.text(checks.fit(old), new).p_value
            for old, new in mixed(rows, options.group, mix, options, rng)
        ]
        name = f"{mix:.0%} of an unseen {options.group}" if mix else "false alarms, rows shuffled"
        print(f"  {name:38}{shares([p or 0.0 for p in found])}", flush=True)
    if all("time" in row for row in rows):
        signals = [
            checks.text(checks.fit(old, dated=True), new, dated=True)
            for old, new in shuffled_days(rows, options, rng)
        ]
        if signals:
            rowwise = shares([float(signal.facts["p_by_rows"]) for signal in signals])
            print(f"  {'false alarms, days shuffled, by rows':38}{rowwise}")
            daywise = shares([signal.p_value or 0.0 for signal in signals])
            print(f"  {'false alarms, days shuffled, by days':38}{daywise}")
    print(f"  {np.median(checks.seconds):.2f} CPU seconds a check (median)")


def main() -> None:
    """Read the command line and measure each file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--group", default="label")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--reference", type=int, default=1000)
    parser.add_argument("--window", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not options.files:
        print("drift: no file given, nothing to measure")
    for path in options.files:
        measure(path, options, Checks(Path.cwd()))


if __name__ == "__main__":
    main()
