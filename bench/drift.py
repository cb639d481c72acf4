"""All figures of drift, each with what is to hold, on real text.

    python bench/drift.py DATA_FOLDER [--runs 20] [--seed 0] [--only days,check,explain,harm,cost]

DATA_FOLDER holds clinc150, reviews-15, policy-topics, tweet-sentiment and repo-trends as JSON lines with
`text`, and `label`, `domain` or `time`. Each part is a file of its own beside this one, says in its head what
it does, and can be run alone. What Evidently 0.7 does on the same rows is measured in the same run.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import _drift_check
import _drift_cost
import _drift_days
import _drift_explain
import _drift_harm

PARTS = {
    "days": _drift_days.figures,
    "check": _drift_check.figures,
    "explain": _drift_explain.figures,
    "harm": _drift_harm.figures,
    "cost": _drift_cost.figures,
}


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(PARTS))
    options = parser.parse_args()
    for part in options.only.split(","):
        started = time.process_time()
        for name, hold, measured in PARTS[part](options.data, options.runs, options.seed):
            print(f"{name:68} [{hold}]: {measured}", flush=True)
        print(f"-- {part}: {time.process_time() - started:.0f} CPU seconds\n", flush=True)


if __name__ == "__main__":
    main()
