"""`keeperd verify`: every kind of damage is found; what is safe is mended, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from keeperd import repair, unix, versions
from keeperd.cli import app
from keeperd.finding import Finding
from keeperd.lock import hold
from keeperd.store import Store, open_readonly
from tests import made_state
from tests.made_state import MadeState


@pytest.fixture
def state(tmp_path: Path) -> MadeState:
    return made_state.make(tmp_path)


def faults(state: MadeState, *, daemon: bool = False) -> list[Finding]:
    with open_readonly(state.paths.database) as ledger:
        return [one for one in repair.verify(ledger.db, state.paths, daemon=daemon) if one.level != "ok"]


def verify(state: MadeState, *args: str) -> Result:
    return CliRunner().invoke(app, ["verify", *args], env={"KEEPERD_CONFIG": str(state.config)})


def close_cycles(state: MadeState) -> None:
    store = Store(state.paths.database)
    for cycle in store.open_cycles():
        store.move_cycle(cycle.id, "REJECTED", made_state.START, {}, closed=True)
    store.close()


def snapshot(folder: Path) -> dict[str, bytes]:
    """All that must never change: versions and batches."""
    return {
        str(path): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def test_all_is_whole(state: MadeState) -> None:
    assert faults(state) == []
    result = verify(state)
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["ok"] * 5


def test_a_changed_file_of_the_champion(state: MadeState) -> None:
    artefact = state.model.version(2) / "onnx" / "model.onnx"
    artefact.write_bytes(b"WEIGHTSWEIGHTS")
    [fault] = faults(state)
    assert (fault.level, fault.repair) == ("wrong", None)
    assert f"{artefact}: changed after it was sealed" in fault.found
    assert "keeperd rollback reviews" in fault.do
    before = snapshot(state.model.folder)
    assert verify(state, "--repair").exit_code == 1
    assert snapshot(state.model.folder) == before


def test_another_manifest_than_the_accepted_one(state: MadeState) -> None:
    folder = state.model.version(1)
    (folder / "onnx" / "model.onnx").write_bytes(b"other")
    versions.seal(folder, "reviews", 1)
    [fault] = faults(state)
    assert "is not the one that was accepted" in fault.found
    assert "cannot be rolled back to" in fault.do


@pytest.mark.parametrize("kind", ["missing", "extra", "folder"])
def test_versions_with_too_little_or_too_much(state: MadeState, kind: str) -> None:
    folder = state.model.version(1)
    if kind == "missing":
        (folder / "onnx" / "model.onnx").unlink()
    elif kind == "extra":
        (folder / "extra").write_text("x")
    else:
        shutil.rmtree(folder)
    [fault] = faults(state)
    assert fault.level == "wrong"
    assert "missing" in fault.found or "not in the manifest" in fault.found


def test_a_version_that_nobody_knows(state: MadeState) -> None:
    state.model.version(9).mkdir()
    [fault] = faults(state)
    assert (fault.level, fault.repair) == ("warn", None)
    verify(state, "--repair")
    assert state.model.version(9).exists()


@pytest.mark.parametrize("how", ["gone", "older", "dangling"])
def test_live_is_put_right(state: MadeState, how: str) -> None:
    state.model.live.unlink()
    if how != "gone":
        state.model.live.symlink_to(f"versions/{1 if how == 'older' else 77}")
    [fault] = faults(state)
    assert fault.level == "wrong"
    assert "the champion is 2" in fault.found
    result = verify(state, "--repair")
    assert result.exit_code == 0
    assert "mended" in result.stdout
    assert versions.live_version(state.model) == 2
    assert faults(state) == []


def test_live_is_no_link(state: MadeState) -> None:
    state.model.live.unlink()
    state.model.live.mkdir()
    [fault] = faults(state)
    assert (fault.level, fault.repair) == ("wrong", None)
    assert "not a link to a version" in fault.found


def test_live_is_not_moved_to_a_damaged_champion(state: MadeState) -> None:
    versions.flip(state.model, 1)
    (state.model.version(2) / "onnx" / "model.onnx").write_bytes(b"x")
    assert verify(state, "--repair").exit_code == 1
    assert versions.live_version(state.model) == 1


def test_live_without_a_champion(state: MadeState) -> None:
    store = Store(state.paths.database)
    store.set_model("reviews", champion=None)
    store.close()
    [fault] = faults(state)
    assert "the ledger has no champion" in fault.found
    state.model.live.unlink()
    assert faults(state) == []


@pytest.mark.parametrize("moving", ["PROMOTE", "ROLLBACK"])
def test_live_that_is_about_to_move_is_left_alone(state: MadeState, moving: str) -> None:
    versions.flip(state.model, 1)
    store = Store(state.paths.database)
    store.move_cycle(4, moving, made_state.START, {})
    store.close()
    assert faults(state) == []
    assert verify(state, "--repair").exit_code == 0
    assert versions.live_version(state.model) == 1


def test_batches_bear_their_hash(state: MadeState) -> None:
    first, second = sorted(state.model.batches.glob("*.parquet"))
    first.write_bytes(b"other rows")
    second.unlink()
    found = {Path(fault.what): fault.found for fault in faults(state)}
    assert found == {first: "its bytes are not those of its name", second: "No such file or directory"}
    assert verify(state, "--repair").exit_code == 1
    assert first.read_bytes() == b"other rows"


def test_a_batch_that_was_never_recorded(state: MadeState) -> None:
    """Only while no cycle is open: an open one may be about to record it."""
    orphan = state.model.batch("f" * 64)
    orphan.write_bytes(b"rows")
    assert faults(state) == []
    close_cycles(state)
    [fault] = faults(state)
    assert "did not finish" in fault.found
    assert verify(state, "--repair").exit_code == 0
    assert not orphan.exists()


def test_what_crashes_left_is_removed(state: MadeState) -> None:
    before = snapshot(state.model.folder)
    state.model.quarantine.mkdir()
    unix.listen(state.paths.socket).close()
    left = [
        state.paths.folder / ".control.sock.tmp",
        state.model.folder / ".live.tmp",
        state.model.batches / ".x.parquet.tmp",
        state.model.quarantine / ".7.jsonl.tmp",
        state.paths.run(77) / "spec.json",
        state.paths.runs / ".8.tmp" / "out",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    store = Store(state.paths.database)
    kept = state.paths.run(store.add_run(4, "reviews", "train", 1, made_state.START))
    store.close()
    kept.mkdir()
    assert len(faults(state)) == len(left) + 1
    assert {fault.level for fault in faults(state)} == {"warn"}
    assert faults(state, daemon=True) == []  # a daemon may be writing them
    result = verify(state, "--repair")
    assert result.exit_code == 0
    assert not any(path.exists() for path in left)
    assert not state.paths.run(77).exists()
    assert not state.paths.socket.exists()
    assert kept.exists()
    assert faults(state) == []
    assert snapshot(state.model.folder) == before


def test_links_are_removed_not_followed(state: MadeState, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    state.paths.runs.mkdir()
    (state.paths.runs / "99").symlink_to(precious)
    assert verify(state, "--repair").exit_code == 0
    assert (precious / "file").exists()
    assert not (state.paths.runs / "99").is_symlink()


def test_a_damaged_ledger(state: MadeState) -> None:
    data = bytearray(state.paths.database.read_bytes())
    assert not state.paths.database.with_name("keeperd.db-wal").exists()
    data[4096 * 3 : 4096 * 5] = os.urandom(8192)
    state.paths.database.write_bytes(data)
    result = verify(state)
    assert result.exit_code == 1
    assert result.stdout.startswith("WRONG  ledger")
    assert "restore it from a backup" in result.stdout


def test_repair_needs_the_lock(state: MadeState) -> None:
    with hold(state.paths.lock):
        result = verify(state, "--repair")
    assert result.exit_code == 75
    assert "held by process" in result.stderr


def test_as_json(state: MadeState) -> None:
    (state.model.folder / ".live.tmp").write_text("x")
    told = json.loads(verify(state, "--repair", "--json").stdout)
    [mended] = [one for one in told if one["repaired"]]
    assert mended["what"].endswith(".live.tmp")
    assert {one["level"] for one in told} == {"ok", "warn"}
