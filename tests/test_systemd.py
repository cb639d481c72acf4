"""The units that ship: systemd takes every line, and grants little."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parent.parent / "systemd"
MOST_EXPOSURE = 1.5

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian package systemd)"
)


class Unit:
    """A unit file; a setting may stand there several times."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")

    def all(self, key: str) -> list[str]:
        return [line.partition("=")[2] for line in self.text.splitlines() if line.startswith(f"{key}=")]

    def one(self, key: str) -> str:
        (value,) = self.all(key)
        return value


@pytest.fixture
def service() -> Unit:
    return Unit(UNITS / "keeperd.service")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit as it would be installed here: its program must exist for systemd-analyze."""
    program, unit = tmp_path / "keeperd", tmp_path / "keeperd.service"
    program.symlink_to(sys.executable)
    text = (UNITS / "keeperd.service").read_text(encoding="utf-8")
    unit.write_text(text.replace("/opt/keeperd/bin/keeperd", str(program)), encoding="utf-8")
    return unit


def silent(unit: Path) -> bool:
    """Its exit status is 0 even when it ignores a line, so what counts is silence."""
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    print(done.stderr)
    return done.returncode == 0 and not done.stderr


@needs_systemd
def test_systemd_has_nothing_to_say_against_the_unit(unit: Path) -> None:
    assert silent(unit)


@needs_systemd
def test_systemd_has_nothing_to_say_against_it_with_a_gpu(unit: Path) -> None:
    drop_ins = unit.with_name("keeperd.service.d")
    drop_ins.mkdir()
    shutil.copy(UNITS / "gpu.conf", drop_ins)
    assert silent(unit)


@needs_systemd
def test_systemd_would_not_be_silent_about_a_wrong_line(unit: Path) -> None:
    unit.write_text(
        unit.read_text(encoding="utf-8").replace("Type=notify", "Type=notify-please"), encoding="utf-8"
    )
    assert not silent(unit)


@needs_systemd
def test_the_unit_exposes_little(unit: Path) -> None:
    limit = f"--threshold={MOST_EXPOSURE * 10:.0f}"
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", limit, str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr
    assert "Overall exposure level for keeperd.service: " in done.stdout


def test_the_daemon_is_watched_and_started_again(service: Unit) -> None:
    assert service.one("Type") == "notify"  # notify-reload turns into simple before systemd 253
    assert service.one("WatchdogSec") == "60"
    assert service.one("Restart") == "always"
    assert service.one("RestartPreventExitStatus") == "78"
    assert service.one("OOMPolicy") == "continue"
    assert service.one("ExecReload").endswith("keeperd reload")
    assert service.all("TimeoutStartSec") != []


def test_stopping_leaves_time_for_workers(service: Unit) -> None:
    from keeperd.runs import GRACE

    assert service.one("KillMode") == "mixed"
    assert int(service.one("TimeoutStopSec")) > 2 * GRACE


def test_the_watchdog_waits_longer_than_the_loop_ever_does(service: Unit) -> None:
    from keeperd.daemon import IDLE

    assert int(service.one("WatchdogSec")) > 10 * IDLE


def test_numerical_libraries_work_at_full_speed(service: Unit) -> None:
    assert service.all("MemoryDenyWriteExecute") == []  # oneDNN writes machine code
    assert service.all("ProcSubset") == []  # without /proc/cpuinfo torch uses no AVX
    assert any("sched_setaffinity" in line for line in service.all("SystemCallFilter"))
    assert service.one("SystemCallErrorNumber") == "EPERM"


def test_no_child_talks_to_a_hub(service: Unit) -> None:
    environment = " ".join(service.all("Environment")).split()
    assert {"HF_HUB_OFFLINE=1", "DO_NOT_TRACK=1", "ORT_DISABLE_TELEMETRY=1"} <= set(environment)


def test_every_hardening_switch_stands_below_a_comment(service: Unit) -> None:
    begin, end = service.text.index("# --- what it may not do"), service.text.index("[Install]")
    blocks = service.text[begin:end].strip().split("\n\n")
    assert [block for block in blocks if not block.startswith("#")] == []


needs_tools = pytest.mark.skipif(
    not (shutil.which("systemd-sysusers") and shutil.which("systemd-tmpfiles")),
    reason="needs systemd-sysusers and systemd-tmpfiles",
)


@needs_tools
def test_the_user_and_the_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    root = f"--root={tmp_path}"
    for command in (
        ["systemd-sysusers", root, str(UNITS / "keeperd.sysusers")],
        ["systemd-tmpfiles", root, "--create", str(UNITS / "keeperd.tmpfiles")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "keeperd:" in (tmp_path / "etc" / "passwd").read_text(encoding="utf-8")
    folder = tmp_path / "etc" / "keeperd"
    assert {path.name for path in folder.iterdir()} == {"plugins", "secrets"}
    assert folder.stat().st_mode & 0o7777 == 0o750
    assert (folder / "plugins").stat().st_mode & 0o022 == 0
    assert (tmp_path / "var" / "lib" / "keeperd").stat().st_mode & 0o7777 == 0o750
