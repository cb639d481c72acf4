"""The intake job with a real ledger, golden file and champion."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from keeperd import config, paths, plugins, rows
from keeperd.api import BadInputError, Component, Context
from keeperd.jobs import Job
from keeperd.jobs.intake import run
from keeperd.store import Store
from tests.fakes import FakeClock
from tests.intake_kit import load

PROTECTED = (
    "a text of the golden set, which nobody may ever train on, however it is written down or spelt or cut"
)
HELD = "a text of the holdout, which nobody may train on either, however it is written down"


class House:
    """A state directory with a ledger, and intake jobs that are committed to it."""

    def __init__(self, folder: Path) -> None:
        self.drop = folder / "drop"
        self.drop.mkdir()
        self.folders = [self.drop]
        self.state = paths.StatePaths(folder / "state")
        self.model = self.state.model("m")
        self.model.batches.mkdir(parents=True)
        self.store = Store(self.state.database)
        self.store.ensure_model("m")
        self.batches: list[str] = []
        self.settings: dict[str, Any] = {"base": folder / "base", "watch": [self.drop]}
        self.runs = 0

    def run(self, champion: int | None = None, bootstrap: Path | None = None) -> dict[str, Any]:
        self.runs += 1
        folder = self.state.run(self.runs)
        (folder / "out").mkdir(parents=True)
        job = Job(
            kind="intake",
            model="m",
            folder=folder,
            state=self.state,
            settings=config.Model.model_validate(self.settings),
            inputs={
                "folders": [str(folder) for folder in self.folders],
                "bootstrap": str(bootstrap) if bootstrap else None,
                "champion": champion,
                "settle_s": 0.5,
                "now": time.time() + 1,
                "batches": list(self.batches),
            },
            context=Context(workdir=folder),
            load=load,
        )
        result = run(job)
        if result["batch"]:
            shutil.copy(job.out / "batch.parquet", self.model.batch(result["batch"]))
            self.store.add_batch(
                "m", result["batch"], 1, FakeClock().now(), result["rows"], result["labelled"]
            )
            self.batches.append(result["batch"])
        lines = [json.loads(line) for line in (job.out / "files.jsonl").read_text().splitlines()]
        self.store.add_files("m", 1, result["batch"], lines)
        return result

    def texts(self) -> list[str]:
        table = rows.read([self.model.batch(self.batches[-1])])
        texts: list[str] = table.column("text").to_pylist()
        return texts


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_every_file_is_taken_once(house: House) -> None:
    (house.drop / "a.txt").write_text("one\ntwo")
    (house.drop / "b.xyz").write_text("what is this")
    first = house.run()
    assert first["files"] == {"accepted": 1, "duplicate": 0, "quarantined": 1, "waiting": 0}
    shutil.copy(house.drop / "a.txt", house.drop / "copy.txt")
    (house.drop / "c.jsonl").write_text('{"text": "TWO!", "label": "x"}\n{"text": "three"}')
    second = house.run()
    assert second["files"] == {"accepted": 1, "duplicate": 1, "quarantined": 0, "waiting": 0}
    assert (second["rows"], second["late_labels"]) == (2, 1)
    assert house.texts() == ["TWO!", "three"]
    assert house.run()["files"] == {"accepted": 0, "duplicate": 0, "quarantined": 0, "waiting": 0}


def test_golden_and_holdout_rows_are_leaks(house: House, tmp_path: Path) -> None:
    golden = tmp_path / "golden.jsonl"
    golden.write_text(json.dumps({"text": PROTECTED, "label": "a"}))
    house.settings["gate"] = {"golden": golden}
    version = house.model.version(3)
    version.mkdir(parents=True)
    rows.write(
        version / "holdout.parquet", rows.SCHEMA.empty_table().from_pylist([{"text": HELD}], rows.SCHEMA)
    )
    (house.drop / "a.txt").write_text(f"{PROTECTED}\n{HELD.upper()}\n{PROTECTED}x\nharmless")
    result = house.run(champion=3)
    assert (result["leaks"], house.texts()) == (3, ["harmless"])


def test_a_golden_file_that_cannot_be_read_ends_the_run(house: House, tmp_path: Path) -> None:
    house.settings["gate"] = {"golden": tmp_path / "golden.jsonl"}
    with pytest.raises(BadInputError, match=r"golden\.jsonl: No such file"):
        house.run()


def test_a_champion_without_its_holdout_ends_the_run(house: House) -> None:
    with pytest.raises(BadInputError, match=r"holdout\.parquet: missing"):
        house.run(champion=3)


def test_a_lost_batch_ends_the_run(house: House) -> None:
    (house.drop / "a.txt").write_text("one")
    house.batches = ["0" * 64]
    with pytest.raises(BadInputError, match="not a readable batch"):
        house.run()


def test_the_bootstrap_file_is_taken_alone_and_unsettled(house: House, tmp_path: Path) -> None:
    (house.drop / "a.txt").write_text("waits in the folder")
    bootstrap = tmp_path / "first.csv"
    bootstrap.write_text("text,label\none,a\ntwo,b\n")
    result = house.run(bootstrap=bootstrap)
    assert (house.texts(), result["labels"]) == (["one", "two"], {"a": 1, "b": 1})
    assert result["files"] == {"accepted": 1, "duplicate": 0, "quarantined": 0, "waiting": 0}
    shutil.copy(bootstrap, house.drop / "again.csv")
    assert house.run()["files"] == {"accepted": 1, "duplicate": 1, "quarantined": 0, "waiting": 0}


def test_a_second_bootstrap_adds_nothing(house: House, tmp_path: Path) -> None:
    bootstrap = tmp_path / "first.txt"
    bootstrap.write_text("one\ntwo")
    assert house.run(bootstrap=bootstrap)["rows"] == 2
    again = house.run(bootstrap=bootstrap)
    assert (again["batch"], again["files"]["duplicate"]) == (None, 1)


def test_a_bootstrap_file_that_is_not_there_ends_the_run(house: House, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"first\.csv: No such file"):
        house.run(bootstrap=tmp_path / "first.csv")


def test_all_readers_that_are_installed_are_used(house: House) -> None:
    kinds = {info.name for info in plugins.installed() if info.kind == "reader"}
    assert {"text", "jsonl", "csv", "parquet"} <= kinds
    component: Component[Any] = load("reader", "parquet")
    assert component.name == "parquet"


def test_rows_of_several_folders_bear_the_folder_as_their_source(house: House) -> None:
    other = house.drop.parent / "web"
    other.mkdir()
    (house.drop / "a.txt").write_text("alone there is no source")
    house.run()
    assert rows.read([house.model.batch(house.batches[-1])]).column("source").to_pylist() == [None]
    house.folders.append(other)
    (house.drop / "b.txt").write_text("from the first folder")
    (other / "c.jsonl").write_text('{"text": "from the second"}\n{"text": "named", "source": "fax"}\n')
    house.run()
    table = rows.read([house.model.batch(house.batches[-1])])
    found = dict(zip(table.column("text").to_pylist(), table.column("source").to_pylist(), strict=True))
    assert found == {"from the first folder": "drop", "from the second": "web", "named": "fax"}
