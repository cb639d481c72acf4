"""Stand-ins at the ports: a clock that tests move, and runs that end as a test says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from keeperd import config, drift, versions
from keeperd.paths import StatePaths
from keeperd.runs import RunFailedError
from keeperd.store import Store


class FakeClock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 5, 3, 0, tzinfo=UTC)
        self.seconds = 1000.0

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.seconds

    def forward(self, **by: float) -> None:
        step = timedelta(**by)
        self.time += step
        self.seconds += step.total_seconds()


Answer = Callable[[Mapping[str, Any], Path], dict[str, Any]]


class FakeRuns:
    """Runs whose results a test has written down: kind -> answers, in order; the last one stays.

    An answer is a result, an exception to raise, or a function (inputs, out folder) -> result.
    """

    def __init__(self, store: Store, settings: config.Settings) -> None:
        self.store = store
        self.settings = settings
        self.paths = StatePaths(settings.state)
        self.answers: dict[str, list[Any]] = {}
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    def ensure(
        self, cycle: int, model: str, kind: str, inputs: Mapping[str, Any], serial: int = 0
    ) -> tuple[int, dict[str, Any]] | None:
        key = f"{kind}.{serial}" if serial else kind
        run = self.store.last_run(cycle, key)
        if run is not None and run.state == "succeeded":
            out = self.paths.run(run.id)
            return run.id, json.loads((out / "result.json").read_text())
        now = datetime(2026, 1, 5, tzinfo=UTC)
        self.asked.append((key, inputs))
        number = self.store.add_run(cycle, model, key, run.attempt + 1 if run else 1, now)
        out = self.paths.run(number) / "out"
        out.mkdir(parents=True)
        answers = self.answers[kind]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            self.store.end_run(number, "failed", now, str(answer))
            raise answer
        result: dict[str, Any] = answer(inputs, out) if callable(answer) else answer
        (self.paths.run(number) / "result.json").write_text(json.dumps(result))
        self.store.end_run(number, "succeeded", now)
        return number, result

    def active(self) -> bool:
        return False

    def recover(self) -> None:
        pass

    def clean(self, keep: timedelta) -> None:
        pass

    def stop_all(self) -> None:
        pass


def failed(message: str = "it broke", *, retry: bool = True) -> RunFailedError:
    return RunFailedError(message, retry=retry)


def intake(sha: str = "a" * 64, rows: int = 100, labelled: int = 100) -> Answer:
    """An intake of one file with so many rows."""

    def answer(inputs: Mapping[str, Any], out: Path) -> dict[str, Any]:
        (out / "batch.parquet").write_bytes(sha.encode())
        line = {
            "path": f"/in/{sha[:8]}.jsonl", "size": rows, "mtime_ns": 1, "inode": 1, "sha256": sha,
            "status": "accepted", "reason": None, "rows": rows,
        }  # fmt: skip
        (out / "files.jsonl").write_text(json.dumps(line) + "\n")
        files = {"accepted": 1, "duplicate": 0, "quarantined": 0, "waiting": 0}
        return {
            "batch": sha, "rows": rows, "labelled": labelled, "holdout": rows // 5, "files": files,
            "bad_rows": 0, "duplicates": 0, "near_duplicates": 0, "leaks": 0, "late_labels": 0,
            "labels": {"x": labelled},
        }  # fmt: skip

    return answer


def nothing_new() -> dict[str, Any]:
    """An intake that found no row."""
    return {
        "batch": None, "rows": 0, "labelled": 0, "holdout": 0, "bad_rows": 0, "duplicates": 0,
        "near_duplicates": 0, "leaks": 0, "late_labels": 0, "labels": {},
        "files": {"accepted": 0, "duplicate": 0, "quarantined": 0, "waiting": 0},
    }  # fmt: skip


def train(inputs: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """A candidate folder with one file in it."""
    model = out / "candidate" / "model"
    model.mkdir(parents=True)
    (model / "weights").write_text(f"version {inputs['version']}")
    return {
        "version": inputs["version"], "strategy": inputs["strategy"], "examples": 80,
        "batches": inputs["batches"],
        "classes": ["x", "y"], "figures": {}, "seconds": 1.0, "peak_mb": 100.0, "manifest": "0" * 64,
    }  # fmt: skip


def verdict(passed: bool = True, harmful: bool = False) -> dict[str, Any]:
    """What the gate says."""
    return {
        "passed": passed, "harmful": harmful, "summary": "better" if passed else "no better", "checks": [],
        "champion": {}, "candidate": {}, "golden_sha": None,
    }  # fmt: skip


def parity(passed: bool = True) -> Answer:
    """A verification that seals a version folder."""

    def answer(inputs: Mapping[str, Any], out: Path) -> dict[str, Any]:
        folder = out / "version" / "model"
        folder.mkdir(parents=True)
        (folder / "weights").write_text(f"version {inputs['version']}")
        manifest = versions.seal(out / "version", "m", inputs["version"])
        chosen = {
            "file": "onnx/fp32.onnx", "precision": "fp32", "provider": "cpu", "metric": 0.9, "p50_ms": 1.0,
            "passed": True,
        }  # fmt: skip
        return {
            "passed": passed, "summary": "onnx agrees" if passed else "onnx disagrees", "rows": 100,
            "chosen": chosen["file"] if passed else None, "artefacts": [chosen], "manifest": manifest,
        }  # fmt: skip

    return answer


def exported(inputs: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """An export of one artefact."""
    (out / "onnx").mkdir()
    return {"artefacts": [{"file": "onnx/fp32.onnx", "precision": "fp32", "runs_on": "any"}], "seconds": 1.0}


def probe(pairs: str) -> dict[str, Any]:
    """What labels that arrived later say of champion and predecessor."""
    right = {
        "champion": pairs.count("b") + pairs.count("c"),
        "predecessor": pairs.count("b") + pairs.count("p"),
    }
    return {
        "pairs": pairs, "rows": len(pairs), "latency_ms": 1.0,
        **{who: {"accuracy": n / len(pairs)} for who, n in right.items()},
    }  # fmt: skip


def report(
    *, drifted: bool = True, rows: int = 100, labelled: int = 100, loss: float = 0.2, suspect: bool = False
) -> dict[str, Any]:
    """What the assessment says."""
    harm = {
        "how": "labels", "rows": labelled, "accepted": 0.9, "accuracy": 0.9 - loss, "estimate": loss,
        "low": loss - 0.05, "high": loss + 0.05, "abstained": False, "why": "",
    }  # fmt: skip
    return drift.Report(
        rows=rows,
        labelled=labelled,
        drifted=drifted,
        signals=(
            {"name": "text", "drifted": drifted, "summary": "the text is not what it was", "warning": False},
        ),
        harm=drift.Harm(**(harm if drifted else {**harm, "accuracy": 0.9, "estimate": 0.0, "low": -0.05})),
        suspect=drift.Suspect(suspect, 0.6, 0.2, "60 % of the labels disagree" if suspect else ""),
        states={"two-sample": {"n": 1}},
    ).to_json()
