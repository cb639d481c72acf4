"""Runs: one subprocess each, started once, looked at every tick, stopped with all that it started.

`result.json`, written last by rename, is success; whatever else a worker leaves behind counts for
nothing. A retry is a new folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from keeperd import config
from keeperd.api import JSON, KeeperdError
from keeperd.clock import Clock
from keeperd.paths import StatePaths, write_durably
from keeperd.store import Run, Store

GRACE = 8.0
"""Seconds between TERM and KILL."""

MESSAGES = {"notify", "hear"}
"""Kinds of runs that send word; short, and never in each other's way."""

MESSAGE_DEADLINE = 300.0
"""Seconds that a message may take."""

INTERRUPTED = "interrupted: the daemon stopped before the run had ended"


class RunFailedError(KeeperdError):
    """A run ended without a result. `retry` is False when the same would happen again."""

    def __init__(self, message: str, *, retry: bool) -> None:
        super().__init__(message)
        self.retry = retry


@dataclass
class _Child:
    """A live worker: its process and, on the monotonic clock, when to stop and to kill it."""

    process: subprocess.Popen[bytes]
    deadline: float | None
    kill_at: float | None = None


class Runs:
    """Starts workers and knows how each one is doing."""

    def __init__(self, store: Store, paths: StatePaths, settings: config.Settings, clock: Clock) -> None:
        self.store = store
        self.paths = paths
        self.settings = settings
        self.clock = clock
        self._children: dict[int, _Child] = {}

    def ensure(
        self, cycle: int, model: str, kind: str, inputs: Mapping[str, JSON], serial: int | str = 0
    ) -> tuple[int, dict[str, JSON]] | None:
        """The result of this run, once there is one; starts it when it was never started.

        Args:
            serial: tells apart several runs of one kind in one cycle.

        Returns:
            (run id, result), or None while it runs or waits for a free worker.

        Raises:
            RunFailedError: it ended without a result; calling again starts another attempt.
        """
        key = f"{kind}.{serial}" if serial else kind
        run = self.store.last_run(cycle, key)
        if run is None or run.state == "failed":
            if self._free_worker(kind):
                self._start(cycle, model, kind, key, run.attempt + 1 if run else 1, inputs)
            return None
        if run.state == "succeeded":
            return run.id, self._outcome(run)["result"]
        return self._look(run)

    def _free_worker(self, kind: str) -> bool:
        """Messages go out beside the work; everything else shares the configured workers."""
        if kind in MESSAGES:
            return True
        busy = sum(run.kind.partition(".")[0] not in MESSAGES for run in self.store.open_runs())
        return busy < self.settings.daemon.workers

    def _start(
        self, cycle: int, model: str, kind: str, key: str, attempt: int, inputs: Mapping[str, JSON]
    ) -> None:
        run = self.store.add_run(cycle, model, key, attempt, self.clock.now())
        folder = self.paths.run(run)
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "out").mkdir(parents=True)
        spec = self._spec(cycle, model, kind, key, inputs)
        write_durably(folder / "spec.json", json.dumps(spec, allow_nan=False, indent=1).encode())
        with (folder / "output.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "keeperd.worker", str(folder), str(os.getpid())],
                env=self._environment(spec["threads"], folder),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        limit = spec["deadline"]
        self._children[run] = _Child(process, self.clock.monotonic() + limit + GRACE if limit else None)
        self.store.set_run_pid(run, process.pid)

    def _spec(
        self, cycle: int, model: str, kind: str, key: str, inputs: Mapping[str, JSON]
    ) -> dict[str, Any]:
        settings = self.settings.model.get(model)
        daemon = self.settings.daemon
        return {
            "kind": kind,
            "model": model,
            "cycle": cycle,
            "state": str(self.paths.folder),
            "settings": settings.model_dump(mode="json") if settings else None,
            "inputs": dict(inputs),
            "seed": settings.seed if settings else 0,
            "device": settings.device if settings else "cpu",
            "deadline": (
                MESSAGE_DEADLINE
                if settings is None or kind in MESSAGES
                else settings.training.deadline.total_seconds()
            ),
            "threads": config.worker_threads(self.settings),
            "memory": daemon.memory,
            "nice": daemon.nice,
            "plugins": str(daemon.plugins) if daemon.plugins else None,
            "resume": str(self.paths.runs / f"resume-{cycle}-{key}"),
        }

    @staticmethod
    def _environment(threads: int, folder: Path) -> dict[str, str]:
        """No network, no telemetry, no spinning threads; the same thread count every time."""
        return {
            **os.environ,
            "OMP_WAIT_POLICY": "PASSIVE",
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
            "ORT_DISABLE_TELEMETRY": "1",
            "MPLBACKEND": "Agg",
            "HOME": str(folder / "out"),
            "TMPDIR": str(folder / "out"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "KEEPERD_RUN": str(folder),
        }

    def _look(self, run: Run) -> tuple[int, dict[str, JSON]] | None:
        child = self._children.get(run.id)
        if child is not None and child.process.poll() is None:
            self._enforce_deadline(child)
            return None
        if child is not None:
            del self._children[run.id]
            end_leftovers(self.paths.run(run.id))
        outcome = self._outcome(run)
        if outcome.get("ok"):
            self.store.end_run(run.id, "succeeded", self.clock.now())
            return run.id, outcome["result"]
        error = outcome.get("error") or self._why_it_died(run, child)
        self.store.end_run(run.id, "failed", self.clock.now(), error)
        raise RunFailedError(f"{run.kind} (run {run.id}): {error}", retry=outcome.get("retry", True))

    def _outcome(self, run: Run) -> dict[str, Any]:
        try:
            outcome: dict[str, Any] = json.loads((self.paths.run(run.id) / "result.json").read_bytes())
        except FileNotFoundError:
            return {}
        return outcome

    def _why_it_died(self, run: Run, child: _Child | None) -> str:
        if child is None:
            return INTERRUPTED
        code = child.process.returncode
        if child.kill_at is not None:
            return "stopped: it took longer than its deadline"
        if code == -signal.SIGKILL:
            return "killed by the system, most likely for lack of memory; see the kernel's log"
        if code < 0:
            return f"died of {signal.Signals(-code).name}; see {self.paths.run(run.id)}/output.log"
        return f"ended with status {code} and left no result; see {self.paths.run(run.id)}/output.log"

    def _enforce_deadline(self, child: _Child) -> None:
        now = self.clock.monotonic()
        if child.kill_at is not None and now > child.kill_at:
            end_group(child.process.pid)
        elif child.kill_at is None and child.deadline is not None and now > child.deadline:
            child.kill_at = now + GRACE
            child.process.terminate()

    def active(self) -> bool:
        """True while any worker lives."""
        return bool(self._children)

    def progress(self, run: int) -> dict[str, JSON]:
        """{"fraction", "text"} of a run, {} where it has not said anything yet."""
        try:
            told: dict[str, JSON] = json.loads((self.paths.run(run) / "progress.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return told

    def stop_all(self) -> None:
        """Ask every worker to end, then make it; their runs are done again after the next start."""
        for child in self._children.values():
            child.process.terminate()
        give_up = self.clock.monotonic() + GRACE
        for child in self._children.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, give_up - self.clock.monotonic()))
            end_group(child.process.pid)
            child.process.wait()
        self._children.clear()

    def recover(self) -> None:
        """After a start: end what an earlier daemon left running. A run that had written its
        result counts; every other one is done again in a new folder."""
        for run in self.store.open_runs():
            end_leftovers(self.paths.run(run.id))
            if not self._outcome(run).get("ok"):
                shutil.rmtree(self.paths.run(run.id) / "out", ignore_errors=True)  # half done; logs stay
                self.store.end_run(run.id, "failed", self.clock.now(), INTERRUPTED)

    def clean(self, keep: timedelta) -> None:
        """Remove folders of runs whose cycle was closed longer ago than `keep`, and checkpoints of
        closed cycles. Messages (cycle 0) keep theirs as long as run folders are kept."""
        for run in self.store.old_runs(self.clock.now() - keep):
            shutil.rmtree(self.paths.run(run), ignore_errors=True)
        open_cycles = {cycle.id for cycle in self.store.open_cycles()}
        for folder in self.paths.runs.glob("resume-*"):
            cycle = int(folder.name.split("-")[1])
            age = self.clock.now().timestamp() - folder.stat().st_mtime
            if cycle not in open_cycles and (cycle or age > keep.total_seconds()):
                shutil.rmtree(folder, ignore_errors=True)


def end_group(leader: int) -> None:
    """Kill what is left of a worker's process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def end_leftovers(folder: Path) -> None:
    """Kill every process that carries this run folder in its environment. Process ids are used
    again by the system; the mark in the environment is not."""
    mark = f"KEEPERD_RUN={folder}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # ended meanwhile, or another user's: not ours
        if mark in environment.split(b"\0"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(entry.name), signal.SIGKILL)
