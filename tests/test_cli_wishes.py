"""Commands that ask for something, with and without a daemon, as its user and as another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from keeperd import config
from keeperd.clock import SystemClock
from keeperd.control import ControlServer
from keeperd.desk import LedgerDesk
from keeperd.lock import hold
from keeperd.store import Store, open_readonly, views
from tests import made_state
from tests.cli_kit import error_line, keeperd
from tests.made_state import MadeState


@pytest.fixture
def state(tmp_path: Path) -> MadeState:
    return made_state.make(tmp_path)


def answer_of(state: MadeState, cycle: int) -> Any:
    store = Store(state.paths.database)
    try:
        return store.cycle(cycle).answer
    finally:
        store.close()


@contextmanager
def serving(state: MadeState, errors: tuple[str, ...] = ()) -> Iterator[Store]:
    """A daemon's control socket, with the lock held as the daemon holds it."""
    store = Store(state.paths.database)
    desk = LedgerDesk(store, SystemClock(), config.load(state.config), reread=lambda: list(errors))
    with hold(state.paths.lock):
        server = ControlServer(desk, state.paths.socket)
        server.start()
        try:
            yield store
        finally:
            server.stop()
            store.close()


def test_wishes_without_a_daemon_go_to_the_ledger(state: MadeState) -> None:
    assert "begins when one starts" in keeperd(state, "trigger", "reviews", "--why", "new season").stdout
    assert json.loads(keeperd(state, "trigger", "reviews", "--json").stdout) == {
        "trigger": 5,
        "daemon": False,
    }
    assert keeperd(state, "pause", "reviews", "--why", "holiday").exit_code == 0
    assert "paused (holiday)" in keeperd(state, "status").stdout
    assert keeperd(state, "resume", "reviews").exit_code == 0
    assert keeperd(state, "approve", "4").exit_code == 0
    assert answer_of(state, 4) == "approve"
    assert keeperd(state, "reject", "4").exit_code == 0
    assert answer_of(state, 4) == "reject"
    refused = keeperd(state, "approve", "3")
    assert refused.exit_code == 1
    assert "waits for no answer" in error_line(refused)
    with open_readonly(state.paths.database) as ledger:
        assert (
            views.event(ledger.db, ledger.db.execute("SELECT MAX(id) FROM events").fetchone()[0])["facts"][
                "by"
            ]
            == "operator"
        )


def test_wishes_go_to_the_daemon_where_one_runs(state: MadeState) -> None:
    with serving(state) as store:
        assert json.loads(keeperd(state, "trigger", "reviews", "--json").stdout)["daemon"] is True
        assert keeperd(state, "pause", "reviews").exit_code == 0
        assert store.model("reviews")["paused"] == "by hand"
        assert "daemon running" in keeperd(state, "status").stdout
        reloaded = keeperd(state, "reload")
        assert (reloaded.exit_code, reloaded.stderr) == (0, "")
        with open_readonly(store.path) as ledger:
            by = views.event(ledger.db, ledger.db.execute("SELECT MAX(id) FROM events").fetchone()[0])[
                "facts"
            ]["by"]
        assert by == f"uid {os.getuid()}"


def test_a_bad_reload_fails_visibly(state: MadeState) -> None:
    with serving(state, errors=("keeperd.toml: model.x: \x1b[1mwrong", "keeperd.toml: y: wrong")):
        result = keeperd(state, "reload")
    assert result.exit_code == 78
    assert result.stderr == "keeperd: keeperd.toml: model.x: \\x1b[1mwrong\nkeeperd: keeperd.toml: y: wrong\n"


def test_without_a_daemon_a_reload_is_for_later(state: MadeState) -> None:
    result = keeperd(state, "reload")
    assert result.exit_code == 75
    assert "no daemon runs" in error_line(result)


def test_a_held_lock_without_a_socket_is_temporary(state: MadeState) -> None:
    with hold(state.paths.lock):
        result = keeperd(state, "pause", "reviews")
        assert result.exit_code == 75
        assert f"held by process {os.getpid()}" in error_line(result)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_nobody_else_may_leave_files_in_the_state(state: MadeState) -> None:
    os.chown(state.paths.folder, 65534, 65534)
    result = keeperd(state, "pause", "reviews")
    assert result.exit_code == 1
    assert "run as that user: runuser -u nobody -- keeperd" in error_line(result)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_refused_at_the_socket(state: MadeState) -> None:
    state.paths.folder.chmod(0o755)
    code = (
        "import os\nfrom pathlib import Path\nfrom keeperd.client import Client\n"
        "os.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\nClient(Path('control.sock')).is_up()"
    )
    with serving(state):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=state.paths.folder
        )
    assert "you may not use it" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_what_the_system_refuses_is_one_line(mode: int) -> None:
    """A folder that may not be searched; a ledger that cannot be opened without its writer."""
    code = (
        "import os\nimport keeperd.plugins, keeperd.store.views, rich.table\nfrom keeperd.cli import main\n"
        "os.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\nmain()"
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # unlike pytest's own, which others may not enter
        state = made_state.make(Path(folder))
        state.paths.folder.chmod(mode)
        env = {**os.environ, "KEEPERD_CONFIG": str(state.config)}
        args = [sys.executable, "-c", code, "timeline", "reviews"]
        done = subprocess.run(args, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 1, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith(f"keeperd: {state.paths.database}: ")
    assert "owner" in line or "owns" in line
