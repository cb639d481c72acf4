"""Intake of many small files, and of many rows: seconds, counts and peak memory.

    python bench/intake.py [FILES] [ROWS]

FILES files of one row each (default 100,000), then one file of ROWS rows (default 1,000,000).
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from keeperd import intake, plugins
from keeperd.api import Component, Context
from keeperd.config import Intake

BEGINNINGS = ("ka", "lo", "mi", "ru", "te", "sho", "na", "vel", "dor")
WORDS = [begin + end for begin in BEGINNINGS for end in ("ra", "ne", "ti", "on", "us", "em", "al")]


class NothingKnown:
    """A ledger that has seen no file."""

    def is_known(self, path: str, size: int, mtime_ns: int, inode: int) -> bool:
        return False

    def has_content(self, sha256: str) -> bool:
        return False


def line(random_: random.Random) -> str:
    text = " ".join(random_.choices(WORDS, k=random_.randint(8, 24)))
    return json.dumps(
        {"text": text, "label": random_.choice("abc"), "time": random_.randint(10**9, 2 * 10**9)}
    )


def load(kind: str, name: str) -> Component[Any]:
    return plugins.load(kind, name)


def measure(title: str, drop: Path, folder: Path) -> None:
    started, cpu = time.monotonic(), time.process_time()
    found = intake.scan([str(drop)], NothingKnown(), time.time() + 60, 1.0)
    scanned = time.monotonic() - started
    settings = Intake()
    result = intake.freeze(
        found,
        settings=settings,
        rows=intake.FileRows(settings, intake.READERS, load),
        known=NothingKnown(),
        batches=[],
        protected=intake.Protected([]),
        out=folder,
        context=Context(workdir=folder),
    )
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    size = (folder / "batch.parquet").stat().st_size >> 20
    figures = f"{seconds:.1f} s ({scanned:.1f} s scan), {cpu:.1f} CPU-s, peak {peak} MiB, batch {size} MiB"
    print(f"{title}: {figures}")
    print({key: value for key, value in result.items() if key not in ("batch", "labels")})


def in_child(title: str, drop: Path, folder: Path) -> None:
    """A process of its own, so that peak memory is this run's alone."""
    child = os.fork()
    if child == 0:
        folder.mkdir()
        measure(title, drop, folder)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)


def main(files: int, rows: int) -> None:
    random_ = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(files):
            path = folder / "small" / f"{index % 1000:03}" / f"{index}.jsonl"
            if index < 1000:
                path.parent.mkdir(parents=True)
            path.write_text(line(random_) + "\n")
        if files:
            in_child(f"{files:,} files of one row", folder / "small", folder / "out1")
        (folder / "large").mkdir()
        with (folder / "large" / "rows.jsonl").open("w") as file:
            file.writelines(line(random_) + "\n" for _ in range(rows))
        if rows:
            in_child(f"one file of {rows:,} rows", folder / "large", folder / "out2")


if __name__ == "__main__":
    main(*(int(argument) for argument in (*sys.argv[1:], *("100000", "1000000")[len(sys.argv) - 1 :])))
