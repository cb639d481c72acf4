"""The command line beside a real daemon in a process of its own, and in place of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keeperd import versions
from keeperd.client import Client
from keeperd.store import Store
from tests import made_state
from tests.made_state import MadeState

START_SECONDS = 60


@pytest.fixture
def state(tmp_path: Path) -> MadeState:
    return made_state.make(tmp_path)


def keeperd(state: MadeState, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "keeperd.cli", *args],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "KEEPERD_CONFIG": str(state.config)},
    )  # fmt: skip


@pytest.fixture
def daemon(state: MadeState, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`keeperd run`, once it answers."""
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "keeperd.cli", "run", "--config", str(state.config)],
            stderr=log,
            stdout=log,
        )
    client, give_up = Client(state.paths.socket), time.monotonic() + START_SECONDS
    try:
        while not client.is_up():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < give_up
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def test_rollback_without_a_daemon_is_done_right_here(state: MadeState) -> None:
    done = keeperd(state, "rollback", "reviews", "--why", "complaints")
    assert (done.returncode, done.stderr) == (0, "")
    assert "version 1 serves again in place of 2: complaints" in done.stdout
    assert versions.live_version(state.model) == 1
    assert not state.paths.socket.exists()
    assert json.loads(keeperd(state, "status", "--json").stdout)["models"][0]["champion"] == 1
    assert "rollback to" not in keeperd(state, "verify").stdout
    assert keeperd(state, "verify").returncode == 0


def test_rollback_by_the_daemon(state: MadeState, daemon: subprocess.Popen[bytes]) -> None:
    done = keeperd(state, "rollback", "reviews", "--to", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ROLLED_BACK" in done.stdout
    assert versions.live_version(state.model) == 1
    again = keeperd(state, "rollback", "reviews", "--to", "1")
    assert again.returncode == 1
    assert again.stderr == "keeperd: reviews: version 1 serves already; others: 2\n"
    assert daemon.poll() is None


def test_a_daemon_is_seen_and_is_alone(state: MadeState, daemon: subprocess.Popen[bytes]) -> None:
    assert "daemon running" in keeperd(state, "status").stdout
    second = keeperd(state, "run")
    assert second.returncode == 75
    assert f"held by process {daemon.pid}" in second.stderr
    assert keeperd(state, "verify").returncode == 0
    assert keeperd(state, "verify", "--repair").returncode == 75


def test_reload(state: MadeState, daemon: subprocess.Popen[bytes]) -> None:
    assert keeperd(state, "reload").returncode == 0
    good = state.config.read_text()
    state.config.write_text(good + "oops = 1\n")
    bad = keeperd(state, "reload")
    assert bad.returncode == 78
    [line] = bad.stderr.splitlines()
    assert line.startswith(f"keeperd: {state.config}: model.reviews.oops: unknown key; remove it")
    state.config.write_text(good)
    assert keeperd(state, "reload").returncode == 0
    assert daemon.poll() is None


def test_pause_and_the_answer_reach_the_daemon(state: MadeState, daemon: subprocess.Popen[bytes]) -> None:
    assert keeperd(state, "reject", "4").returncode == 0
    assert keeperd(state, "pause", "reviews", "--why", "holiday").returncode == 0
    waiting = keeperd(state, "trigger", "reviews", "--wait")
    assert waiting.returncode == 1
    assert "paused (holiday); the trigger waits for `keeperd resume reviews`" in waiting.stderr
    give_up = time.monotonic() + START_SECONDS
    while (last := json.loads(keeperd(state, "timeline", "reviews", "--json").stdout)[3])[
        "closed_at"
    ] is None:
        assert time.monotonic() < give_up
    assert (last["state"], last["outcome"]) == ("REJECTED", "version 4 refused by the operator")
    assert daemon.poll() is None


def test_the_daemon_stops_at_once(state: MadeState, daemon: subprocess.Popen[bytes]) -> None:
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(30) == 0
    assert not state.paths.socket.exists()
    assert keeperd(state, "reload").returncode == 75


def test_a_newer_ledger_is_refused(state: MadeState) -> None:
    store = Store(state.paths.database)
    store._db.execute("PRAGMA user_version=99")
    store.close()
    done = keeperd(state, "run")
    assert done.returncode == 78
    assert done.stderr.splitlines()[-1].startswith("keeperd: ")
    assert "newer keeperd" in done.stderr
