"""The real daemon as a process: light, single, stoppable, and not to be killed for good."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from keeperd.store import Store, open_readonly, views

PATIENCE = 90.0
HEAVY = (
    "torch", "transformers", "evidently", "sklearn", "pandas", "pyarrow", "numpy", "onnxruntime", "scipy",
    "matplotlib", "jinja2", "keeperd_plugins",
)  # fmt: skip
MEMORY_MB = 80


def until(condition: Callable[[], Any]) -> Any:
    limit = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.05)
    return value


class Box:
    """A configuration, its folders, and daemons started on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inbox = folder / "in"
        self.inbox.mkdir()
        self.config = folder / "keeperd.toml"
        self.write()
        self.started: list[subprocess.Popen[str]] = []

    def write(self, extra: str = "") -> None:
        self.config.write_text(
            f'state = "{self.folder}/state"\n'
            '[daemon]\nsettle = "0.2s"\nrescan = "1s"\nretries = 1\n'
            f'[model.m]\nbase = "{self.folder}/no-such-model"\nwatch = ["{self.inbox}"]\n{extra}'
        )

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "keeperd", "--config", str(self.config), *words]
        return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def start(self) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "keeperd", "--config", str(self.config), "run"]
        with (self.folder / "daemon.log").open("a") as log:
            process = subprocess.Popen(line, stdout=log, stderr=log, text=True)
        self.started.append(process)
        until(lambda: (self.folder / "state" / "control.sock").exists() or process.poll() is not None)
        return process

    def drop(self, name: str, *texts: str) -> None:
        part = self.inbox / f"{name}.part"
        rows = ({"text": text, "label": "xy"[number % 2]} for number, text in enumerate(texts))
        part.write_text("".join(json.dumps(row) + "\n" for row in rows))
        part.rename(self.inbox / name)

    def query(self, sql: str) -> list[dict[str, Any]]:
        with open_readonly(self.folder / "state" / "keeperd.db") as reading:
            return [dict(row) for row in reading.db.execute(sql)]

    def closed(self) -> list[dict[str, Any]]:
        return self.query("SELECT * FROM cycles WHERE closed_at IS NOT NULL ORDER BY id")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_nothing_heavy_is_ever_imported() -> None:
    code = (
        "import sys, keeperd.daemon\n"
        f"bad = sorted(set({HEAVY!r}) & {{name.partition('.')[0] for name in sys.modules}})\n"
        "print(','.join(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_dropped_file_becomes_a_batch_and_a_cycle_that_says_what_is_wrong(box: Box) -> None:
    daemon = box.start()
    box.drop("a.jsonl", *(f"text number {n} about the weather" for n in range(30)))
    (cycle,) = until(box.closed)
    assert cycle["state"] == "FAILED", "the configured model folder does not exist"
    assert box.query("SELECT rows FROM batches") == [{"rows": 30}]
    failed = box.query("SELECT why FROM events WHERE kind='failed'")[0]["why"]
    assert "no-such-model" in failed
    memory = psutil.Process(daemon.pid).memory_info().rss / 2**20
    print(f"daemon resident after a cycle: {memory:.0f} MB")
    assert memory < MEMORY_MB
    assert not [child for child in psutil.Process(daemon.pid).children() if child.status() != "zombie"]
    # The same content under another name, and the same file again: seen, not taken twice.
    box.drop("b.jsonl", *(f"text number {n} about the weather" for n in range(30)))
    until(lambda: box.query("SELECT 1 FROM files WHERE status='duplicate'"))
    assert box.query("SELECT COUNT(*) AS n FROM batches") == [{"n": 1}]


def test_stop_is_quick_and_the_next_start_goes_on(box: Box) -> None:
    daemon = box.start()
    box.drop("a.jsonl", "one text", "another text")
    until(lambda: box.query("SELECT 1 FROM runs WHERE state='started'") or box.closed())
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(timeout=20) == 0
    assert not (box.folder / "state" / "control.sock").exists()
    box.start()
    until(box.closed)
    assert box.query("SELECT COUNT(*) AS n FROM files WHERE status='accepted'") == [{"n": 1}]


def test_kill_minus_nine_leaves_no_orphan_and_loses_nothing(box: Box) -> None:
    daemon = box.start()
    for number in range(3):
        box.drop(f"{number}.jsonl", f"text {number}", f"more {number}")
    run = until(lambda: box.query("SELECT pid FROM runs WHERE state='started' AND pid IS NOT NULL"))
    daemon.kill()
    daemon.wait()
    until(lambda: not psutil.pid_exists(run[0]["pid"]) or psutil.Process(run[0]["pid"]).status() == "zombie")
    box.start()
    until(lambda: box.query("SELECT COUNT(*) AS n FROM files WHERE status='accepted'")[0]["n"] == 3)
    until(box.closed)
    texts = {row["sha256"] for row in box.query("SELECT sha256 FROM files WHERE status='accepted'")}
    assert len(texts) == 3


def test_a_second_daemon_is_refused_in_one_line(box: Box) -> None:
    box.start()
    done = box.command("run")
    assert done.returncode == 75
    assert len(done.stderr.strip().splitlines()) == 1
    assert "state" in done.stderr


def test_a_bad_reload_fails_visibly_and_changes_nothing(box: Box) -> None:
    daemon = box.start()
    box.write("colour = 3\n")
    done = box.command("reload")
    assert done.returncode != 0
    assert "colour" in done.stderr
    assert daemon.poll() is None
    box.write('schedule = "0 3 * * *"\n')
    assert box.command("reload").returncode == 0
    assert daemon.poll() is None


def test_many_reloads_keep_descriptors_flat(box: Box) -> None:
    daemon = psutil.Process(box.start().pid)
    box.command("status")
    daemon.send_signal(signal.SIGHUP)
    time.sleep(1)
    before = daemon.num_fds()
    for _ in range(100):
        daemon.send_signal(signal.SIGHUP)
        time.sleep(0.01)
    until(lambda: daemon.num_fds() <= before + 3)


def test_a_bad_configuration_exits_with_78(box: Box) -> None:
    box.config.write_text("[model.m]\nwatch = 3\n")
    done = box.command("run")
    assert done.returncode == 78
    assert "model.m.base: missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_deleted_and_recreated_folder_is_watched_again(box: Box) -> None:
    box.start()
    box.inbox.rmdir()
    time.sleep(1.5)
    box.inbox.mkdir()
    box.drop("a.jsonl", "one text", "two text")
    until(lambda: box.query("SELECT 1 FROM files WHERE status='accepted'"))


def test_a_cycle_can_be_read_while_and_after_the_daemon_runs(box: Box) -> None:
    daemon = box.start()
    box.drop("a.jsonl", "one text")
    until(box.closed)
    for _ in range(2):
        status = json.loads(box.command("status", "--json").stdout)
        assert status["models"][0]["name"] == "m"
        assert box.command("why", "1").returncode == 0
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(timeout=20)
    with open_readonly(box.folder / "state" / "keeperd.db") as reading:
        assert views.story(reading.db, 1)["cycle"]["state"] == "FAILED"


def test_a_locked_ledger_is_waited_for(box: Box) -> None:
    box.start()
    blocker = Store(box.folder / "state" / "keeperd.db")
    with blocker.transaction():
        box.drop("a.jsonl", "one text")
        time.sleep(3)
    blocker.close()
    until(box.closed)


def test_an_unwritable_state_folder_is_one_line(box: Box, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        blocked = tmp_path / "file"
        blocked.touch()
        box.config.write_text(box.config.read_text().replace(f"{box.folder}/state", f"{blocked}/state"))
    else:
        tmp_path.chmod(0o500)
    done = box.command("run")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
