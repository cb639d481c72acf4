"""The child process: read spec.json, do one job, write result.json last.

Started as `python -m keeperd.worker RUN_FOLDER DAEMON_PID` in a session of its own. All heavy
libraries and all plugin code are loaded here and nowhere else.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keeperd import config, paths, plugins
from keeperd.api import JSON, BadInputError, Component, Context, KeeperdError, PluginError
from keeperd.jobs import Job
from keeperd.versions import VersionError

PR_SET_PDEATHSIG = 1
PROGRESS_EVERY = 0.3
"""Seconds between two writes of progress.json."""


class JsonLines(logging.Handler):
    """Log records as JSON lines; whatever a message holds, a record stays one line."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("a", encoding="utf-8")

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        entry = {
            "at": record.created,
            "level": record.levelname,
            "name": record.name,
            "text": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()


def die_with_parent(parent: int) -> None:
    """End this process when the daemon ends, however it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("keeperd.worker: the daemon is gone")


def limit_self(memory: int, nice: int) -> None:
    """Give way to others, be the first to go when memory runs out, and keep to the configured
    limit (bytes, 0: none). It is one on data: CUDA reserves address space many times over, and does not
    start under a limit on that."""
    os.nice(nice)
    Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def _progress_writer(folder: Path) -> Callable[[float, str], None]:
    last = 0.0

    def write(fraction: float, text: str) -> None:
        nonlocal last
        if fraction >= 1.0 or time.monotonic() - last > PROGRESS_EVERY:
            last = time.monotonic()
            temporary = folder / ".progress.tmp"
            temporary.write_text(json.dumps({"fraction": fraction, "text": text}), encoding="utf-8")
            temporary.rename(folder / "progress.json")

    return write


def _device(wanted: str) -> str:
    """ "cuda" or "cpu"; "auto" asks the driver, without loading torch."""
    if wanted != "auto":
        return wanted
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "cpu"
    count = ctypes.c_int(0)
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    return "cuda" if found else "cpu"


def make_context(spec: dict[str, Any], folder: Path) -> Context:
    """The surroundings that the job's components see."""
    stop = False

    def ask_to_stop(*_: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, ask_to_stop)
    resume = Path(spec["resume"])
    resume.mkdir(parents=True, exist_ok=True)
    workdir = folder / "out" / "work"
    workdir.mkdir(parents=True, exist_ok=True)
    return Context(
        workdir=workdir,
        seed=spec["seed"],
        device=_device(spec["device"]),
        deadline=time.monotonic() + spec["deadline"] if spec["deadline"] else None,
        resume=resume,
        log=logging.getLogger(f"keeperd.run.{spec['kind']}"),
        on_progress=_progress_writer(folder),
        stop_asked=lambda: stop,
    )


def make_job(spec: dict[str, Any], folder: Path) -> Job:
    """The job that a specification describes."""
    # A message may be about a model that is configured no longer.
    settings = config.Model.model_validate(spec["settings"] or {"base": "/", "watch": ["/"]})
    dropped_in = Path(spec["plugins"]) if spec["plugins"] else None

    def load(kind: str, name: str) -> Component[Any]:
        return plugins.load(kind, name, settings.options.get(name), dropped_in)

    return Job(
        kind=spec["kind"],
        model=spec["model"],
        folder=folder,
        state=paths.StatePaths(Path(spec["state"])),
        settings=settings,
        inputs=spec["inputs"],
        context=make_context(spec, folder),
        load=load,
        plugin_folder=dropped_in,
    )


def perform(spec: dict[str, Any], folder: Path) -> dict[str, JSON]:
    """Do the job; an expected error becomes a result, a bug becomes one with a traceback."""
    log = logging.getLogger("keeperd.run")
    try:
        module = importlib.import_module(f"keeperd.jobs.{spec['kind']}")
        result = module.run(make_job(spec, folder))
        json.dumps(result, allow_nan=False)
    except KeeperdError as error:
        log.error("%s", error)
        final = (
            isinstance(error, BadInputError | PluginError | VersionError)
            or getattr(error, "retry", True) is False
        )
        return {"ok": False, "error": str(error), "kind": type(error).__name__, "retry": not final}
    except Exception as error:  # the boundary: told in full to the daemon and the log
        log.exception("the run failed")
        text = f"{type(error).__name__}: {error}"
        return {
            "ok": False,
            "error": text,
            "kind": type(error).__name__,
            "retry": True,
            "traceback": traceback.format_exc(),
        }
    return {"ok": True, "result": result}


def main(folder: Path, parent: int) -> int:
    """Run one run folder; 0 when it succeeded."""
    die_with_parent(parent)
    spec = json.loads((folder / "spec.json").read_bytes())
    limit_self(spec["memory"], spec["nice"])
    logging.basicConfig(level=logging.INFO, handlers=[JsonLines(folder / "log.jsonl")])
    started = time.monotonic()
    outcome = perform(spec, folder)
    outcome["seconds"] = round(time.monotonic() - started, 3)
    paths.write_durably(folder / "result.json", json.dumps(outcome, allow_nan=False).encode())
    return 0 if outcome["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
