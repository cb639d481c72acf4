"""Killed anywhere, restarted from disk alone: the invariants hold and the story ends the same."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from keeperd import versions
from keeperd.paths import StatePaths
from keeperd.store import Store
from tests.crash_scenario import DROPS, play

SAMPLE = int(os.environ.get("KEEPERD_CRASH_SAMPLE", "5"))
"""Every n-th system call is a kill point, and every third commit, run start and pointer change; all of
them in the nightly run (1)."""
SYSCALLS = ("fsync", "fdatasync", "rename", "pwrite64", "symlink", "mkdir", "unlink")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory where there is one: killing a process loses nothing there that a disk
    would keep, and fsync is free."""
    memory = Path("/dev/shm")  # noqa: S108 - removed again below
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def check_invariants(folder: Path) -> None:
    """I1-I4 and I6 of a state directory at rest."""
    store = Store(folder / "keeperd.db")
    files = StatePaths(folder).model("m")
    row = store.model("m")
    by_number = {one["version"]: one for one in store.versions("m")}
    # I1, I2: live names the ledger's champion, whose bytes are those that were accepted.
    live = versions.live_version(files)
    assert live == row["champion"]
    if live is not None:
        versions.verify(files.version(live), by_number[live]["manifest"])
        assert by_number[live]["state"] == "champion"
    # I3, I4: every accepted file is in exactly one committed batch, and that batch is on disk.
    accepted = store._all("SELECT sha256, batch FROM files WHERE status='accepted'")
    assert len({one["sha256"] for one in accepted}) == len(accepted)
    for one in accepted:
        assert files.batch(one["batch"]).exists()
    # I6: nothing half-made is left but in folders of runs that were given up, which are cleared.
    assert not [path for path in folder.rglob(".*.tmp") if "runs" not in path.relative_to(folder).parts]
    assert not store.open_runs()
    store.close()


def check_the_end(folder: Path) -> None:
    """The story had its one possible end, with nothing lost and nothing trained twice."""
    check_invariants(folder)
    store = Store(folder / "keeperd.db")
    assert store.model("m")["champion"] == 2
    assert [one["state"] for one in store.versions("m")][:3] == ["retired", "champion", "rolled back"]
    shas = [batch.sha[0] for batch in store.batches("m")]
    assert shas == list(DROPS)
    trained = store._all("SELECT sha, version FROM batches WHERE version IS NOT NULL ORDER BY number")
    assert len({one["sha"] for one in trained}) == len(trained)
    assert not store.open_cycles()
    store.close()


def killed(folder: Path, at: int) -> bool:
    """Play in a forked child that dies at this point; False when the story ended before."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            play(folder, at)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


@pytest.mark.timeout(1200)
def test_killed_at_every_commit_run_start_and_pointer_change(place: Path) -> None:
    points = play(place / "whole")
    check_the_end(place / "whole")
    assert points > 100
    chosen = range(1, points + 1, (SAMPLE + 1) // 2)
    for at in chosen:
        folder = place / "state"
        assert killed(folder, at), f"point {at} was not reached"
        play(folder)
        check_the_end(folder)
        shutil.rmtree(folder)
    print(f"killed at {len(chosen)} of {points} points, recovered at {len(chosen)}")


def test_killed_again_and_again_in_one_life(place: Path) -> None:
    folder = place / "state"
    deaths = 0
    while killed(folder, 7 + deaths % 5):
        deaths += 1
        assert deaths < 500
    assert deaths > 20
    check_the_end(folder)


def _strace(folder: Path, log: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = [
        "strace",
        "-f",
        "-o",
        str(log),
        *options,
        sys.executable,
        "-m",
        "tests.crash_scenario",
        str(folder),
    ]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, check=False)


def _count(log: Path, syscall: str) -> int:
    return sum(f" {syscall}(" in line for line in log.read_text(errors="replace").splitlines())


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How often a whole story makes each system call."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    folder = tmp_path_factory.mktemp("strace")
    done = _strace(folder / "state", folder / "log", "-e", f"trace={','.join(SYSCALLS)}")
    if done.returncode != 0:
        pytest.skip(f"strace cannot trace here: {done.stderr.decode()[-200:]}")
    return {syscall: _count(folder / "log", syscall) for syscall in SYSCALLS}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("syscall", SYSCALLS)
def test_killed_at_system_calls(place: Path, counts: dict[str, int], syscall: str) -> None:
    folder, log = place / "state", place / "log"
    step = SAMPLE * max(1, counts[syscall] // 60) if SAMPLE > 1 else 1
    deaths = 0
    for when in range(1, counts[syscall] + 1, step):
        done = _strace(
            folder, log, "-e", f"trace={syscall}", "-e", f"inject={syscall}:signal=SIGKILL:when={when}"
        )
        deaths += done.returncode != 0
        play(folder)
        check_the_end(folder)
        shutil.rmtree(folder)
    assert deaths > 0 or counts[syscall] == 0
    print(f"{syscall}: killed at {deaths} of {counts[syscall]} calls, recovered at {deaths}")
