"""Runs: real worker processes that succeed, crash, hang, fork, or lose their daemon.

The workers run event hooks dropped into a plugin folder: the smallest real job there is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keeperd import config
from keeperd.paths import StatePaths
from keeperd.runs import RunFailedError, Runs
from keeperd.store import Store
from tests.fakes import FakeClock

HOOK = "from keeperd.api import hookimpl\n@hookimpl\ndef keeperd_on_event(event, context):\n"
EVENT = {
    "id": 1,
    "at": "2026-01-05T03:00:00+00:00",
    "model": "m",
    "cycle": None,
    "kind": "alert",
    "why": "x",
    "facts": {},
}
PATIENCE = 60.0


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o755)
    settings = config.Settings.model_validate(
        {
            "state": str(tmp_path / "state"),
            "daemon": {"plugins": str(folder), "workers": 2},
            "model": {"m": {"base": "/b", "watch": ["/w"]}},
        }
    )
    paths = StatePaths(settings.state)
    paths.folder.mkdir()
    store = Store(paths.database)
    made = Runs(store, paths, settings, FakeClock())
    yield made
    made.stop_all()
    store.close()


def hook(runs: Runs, name: str, body: str) -> None:
    assert runs.settings.daemon.plugins is not None
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    path = runs.settings.daemon.plugins / f"hook_{name}.py"
    path.write_text(HOOK + indented)
    path.chmod(0o644)


def once(runs: Runs, name: str):  # type: ignore[no-untyped-def]
    return runs.ensure(0, "m", "hear", {"plugin": name, "event": EVENT}, serial=name)


def finish(runs: Runs, name: str):  # type: ignore[no-untyped-def]
    """Look until it has ended, as the daemon's loop does."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        if (done := once(runs, name)) is not None:
            return done
        time.sleep(0.02)
    raise AssertionError("the run never ended")


def until(condition) -> None:  # type: ignore[no-untyped-def]
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_run_is_started_once_and_its_result_stays(runs: Runs, tmp_path: Path) -> None:
    hook(runs, "good", f"open({str(tmp_path / 'log')!r}, 'a').write('x')\nprint('noise on stdout')")
    first = finish(runs, "good")
    assert first[1] == {"heard": 1}
    assert once(runs, "good") == first
    assert (tmp_path / "log").read_text() == "x"
    assert "noise" in (runs.paths.run(first[0]) / "output.log").read_text()


@pytest.mark.parametrize(
    ("name", "body", "said", "retry"),
    [
        ("raises", "raise ValueError('broken\\nhook')", "ValueError: broken", True),
        (
            "refuses",
            "from keeperd.api import PluginError\nraise PluginError('not with these rows')",
            "not with",
            False,
        ),
        ("exits", "import os\nos._exit(3)", "status 3 and left no result", True),
        ("leaves", "import sys\nsys.exit(0)", "left no result", True),
        ("killed", "import os\nos.kill(os.getpid(), 9)", "lack of memory", True),
        ("aborts", "import os\nos.abort()", "SIGABRT", True),
        ("typo", "this is no Python", "SyntaxError", False),
    ],
)
def test_every_way_to_fail_has_its_sentence(runs: Runs, name: str, body: str, said: str, retry: bool) -> None:
    hook(runs, name, body)
    with pytest.raises(RunFailedError, match=said) as caught:
        finish(runs, name)
    assert caught.value.retry is retry


def test_a_failed_run_is_tried_again_in_a_new_folder(runs: Runs, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    hook(
        runs,
        "second",
        f"import pathlib\nif not pathlib.Path({str(flag)!r}).exists(): raise ValueError('first')",
    )
    with pytest.raises(RunFailedError):
        finish(runs, "second")
    flag.touch()
    number, result = finish(runs, "second")
    assert result == {"heard": 1}
    run = runs.store.last_run(0, "hear.second")
    assert run is not None
    assert (run.attempt, run.id) == (2, number)
    assert runs.paths.run(number - 1).is_dir()


def test_a_hang_past_its_deadline_is_killed_with_its_children(runs: Runs, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    hook(
        runs, "hangs",
        "import os, signal, subprocess, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"child = subprocess.Popen(['sleep', '600'])\nopen({str(pid)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)",
    )  # fmt: skip
    assert once(runs, "hangs") is None
    until(lambda: pid.exists() and pid.read_text())
    clock = runs.clock
    assert isinstance(clock, FakeClock)
    clock.forward(seconds=400)  # past the deadline: asked to end, in vain
    assert once(runs, "hangs") is None
    clock.forward(seconds=20)  # past the grace: killed
    with pytest.raises(RunFailedError, match="longer than its deadline"):
        finish(runs, "hangs")
    until(lambda: not Path(f"/proc/{pid.read_text()}").exists() or _is_zombie(int(pid.read_text())))


def _is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def test_after_a_restart_an_interrupted_run_is_done_again(runs: Runs) -> None:
    hook(runs, "slow", "import time\ntime.sleep(600)")
    assert once(runs, "slow") is None
    run = runs.store.last_run(0, "hear.slow")
    assert run is not None
    assert run.pid is not None
    other = Runs(runs.store, runs.paths, runs.settings, FakeClock())
    other.recover()
    until(lambda: _is_zombie(run.pid or 0))
    assert not (runs.paths.run(run.id) / "out").exists()
    hook(runs, "slow", "pass")
    assert finish(other, "slow")[1] == {"heard": 1}
    again = runs.store.last_run(0, "hear.slow")
    assert again is not None
    assert again.attempt == 2


def test_a_result_that_was_written_counts_after_a_restart(runs: Runs) -> None:
    hook(runs, "done", "pass")
    assert once(runs, "done") is None
    until((runs.paths.run(1) / "result.json").exists)
    other = Runs(runs.store, runs.paths, runs.settings, FakeClock())
    other.recover()
    assert once(other, "done") == (1, {"heard": 1})


def test_stopping_ends_every_worker(runs: Runs) -> None:
    hook(runs, "sleeper", "import time\ntime.sleep(600)")
    once(runs, "sleeper")
    run = runs.store.last_run(0, "hear.sleeper")
    assert run is not None
    assert runs.active()
    started = runs.paths.run(run.id) / "log.jsonl"
    until(started.exists)
    for child in runs._children.values():  # it does not obey TERM: a hook that sleeps cannot look
        child.process.send_signal(signal.SIGKILL)
    runs.stop_all()
    assert not runs.active()
    with pytest.raises(ProcessLookupError):
        os.kill(run.pid or 0, 0)


def test_what_a_run_leaves_running_is_ended_even_in_another_session(runs: Runs, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    hook(
        runs, "forks",
        "import subprocess\nchild = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid))",
    )  # fmt: skip
    finish(runs, "forks")
    child = int(pid.read_text())

    def gone() -> bool:
        with contextlib.suppress(OSError):
            return _is_zombie(child)
        return True

    until(gone)
