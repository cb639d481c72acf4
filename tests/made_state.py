"""A state directory as a few weeks of keeperd leave it, made through the real store."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from keeperd import versions
from keeperd.paths import ModelPaths, StatePaths
from keeperd.store import Store

START = datetime(2025, 11, 1, 3, 0, tzinfo=UTC)
HOSTILE = "in\x1b[2J\u202e<3>\n.jsonl"


@dataclass(frozen=True)
class MadeState:
    """Where everything is."""

    config: Path
    paths: StatePaths
    model: ModelPaths


def write_config(folder: Path, extra: str = "", model: str = "") -> Path:
    """A configuration of one model, "reviews", whose state is `folder/state`."""
    (folder / "in").mkdir(exist_ok=True)
    (folder / "base").mkdir(exist_ok=True)
    path = folder / "keeperd.toml"
    path.write_text(
        f'state = "{folder / "state"}"\n{extra}\n[model.reviews]\nbase = "{folder / "base"}"\n'
        f'watch = ["{folder / "in"}"]\n{model}\n',
        encoding="utf-8",
    )
    return path


def make(folder: Path) -> MadeState:
    """Version 1 made, version 2 kept after probation, version 3 rejected, version 4 waiting for approval."""
    config = write_config(folder)
    paths = StatePaths(folder / "state")
    paths.folder.mkdir(mode=0o750)
    files = paths.model("reviews")
    store = Store(paths.database)
    store.ensure_model("reviews")
    for number in (1, 2):
        _publish(store, files, number)
    versions.flip(files, 2)
    store.set_model("reviews", champion=2, predecessor=1)
    store.set_version("reviews", 1, "retired")
    store.set_version("reviews", 2, "champion")
    store.measure("reviews", 2, START, "verify", 300, 0.905, 4.12)
    store.measure("reviews", 2, START, "probation", 1240, 0.912)
    _rejected(store)
    _waiting(store)
    store.close()
    return MadeState(config, paths, files)


def _publish(store: Store, files: ModelPaths, number: int) -> None:
    """A promoted version: its cycle in the ledger, its sealed folder, the batch it was trained on."""
    at = START + timedelta(days=number)
    first = number == 1
    trigger, why = ("init", "asked for") if first else ("files", f"new file {HOSTILE!r}")
    facts = {**story_facts(number), "version": number}
    cycle = _cycle(store, at, trigger, why)
    folder = files.version(number)
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").write_bytes(b"weights" * number)
    manifest = versions.seal(folder, "reviews", number)
    store.add_version("reviews", cycle, None if first else number - 1, at)
    store.set_version("reviews", number, "candidate", manifest)
    data = f"rows {number}".encode()
    sha = hashlib.sha256(data).hexdigest()
    files.batches.mkdir(parents=True, exist_ok=True)
    files.batch(sha).write_bytes(data)
    store.add_batch("reviews", sha, cycle, at, 1240, 600)
    steps = [("QUEUED", "INTAKE"), ("INTAKE", "ASSESS"), ("ASSESS", "UPDATE"), ("UPDATE", "GATE"),
             ("GATE", "EXPORT"), ("EXPORT", "VERIFY"), ("VERIFY", "PROMOTE")]  # fmt: skip
    at = _steps(store, cycle, at, steps)
    if first:
        _event(store, cycle, at, "promoted", "PROMOTE", "COMPLETED", "version 1 is the first champion")
    else:
        _event(store, cycle, at, "promoted", "PROMOTE", "PROBATION", "version 2 serves in place of 1")
        at += timedelta(days=2)
        _event(store, cycle, at, "completed", "PROBATION", "COMPLETED", "The champion was not found worse.")
    store.move_cycle(cycle, "COMPLETED", at, facts, closed=True)


def _rejected(store: Store) -> None:
    at = START + timedelta(days=9)
    cycle = _cycle(store, at, "schedule", "the schedule says so")
    facts = story_facts(3)
    facts["gate"] = {**facts["gate"], "passed": False, "summary": "Rejected: forgets too much."}
    facts["gate"]["checks"][0]["passed"] = False
    del facts["verify"], facts["probation"]
    steps = [("QUEUED", "INTAKE"), ("INTAKE", "ASSESS"), ("ASSESS", "UPDATE"), ("UPDATE", "GATE")]
    at = _steps(store, cycle, at, steps)
    store.add_version("reviews", cycle, 2, at)
    store.set_version("reviews", 3, "rejected")
    _event(store, cycle, at, "rejected", "GATE", "REJECTED", "Rejected: forgets too much.")
    store.move_cycle(cycle, "REJECTED", at, {**facts, "version": 3}, closed=True)


def _waiting(store: Store) -> None:
    at = START + timedelta(days=12)
    cycle = _cycle(store, at, "files", "new file 'b.jsonl'")
    store.add_version("reviews", cycle, 2, at)
    at = _steps(store, cycle, at, [("QUEUED", "INTAKE"), ("INTAKE", "ASSESS")])
    _event(store, cycle, at, "approval", "VERIFY", "APPROVAL", "version 4 waits for you")
    store.move_cycle(cycle, "APPROVAL", at, {**story_facts(4), "version": 4, "batches": []})


def _cycle(store: Store, at: datetime, trigger: str, why: str) -> int:
    number = store.add_trigger("reviews", trigger, why, at)
    cycle = store.open_cycle("reviews", "QUEUED", trigger, why, at, {})
    store.take_triggers(cycle, [number])
    return cycle


def _steps(store: Store, cycle: int, at: datetime, steps: list[tuple[str, str]]) -> datetime:
    for before, after in steps:
        at += timedelta(seconds=61)
        _event(store, cycle, at, "step", before, after, f"{before.lower()} is done")
    return at


def _event(store: Store, cycle: int, at: datetime, kind: str, before: str, after: str, why: str) -> None:
    store.add_event(at, "reviews", kind, why, cycle, before, after)


def story_facts(version: int) -> dict[str, Any]:
    """Facts as the jobs leave them."""
    facts = {
        "intake": {
            "batch": "ab" * 32, "rows": 1240, "labelled": 600, "holdout": 120, "bad_rows": 4,
            "duplicates": 11, "near_duplicates": 3, "leaks": 0, "late_labels": 0,
            "labels": {"praise": 400, "\x1b[31mcomplaint": 200},
            "files": {"accepted": 3, "duplicate": 1, "quarantined": 1, "waiting": 0},
        },
        "train": {
            "version": version, "strategy": "full", "examples": 1100, "classes": ["praise", "complaint"],
            "figures": {"epochs": 3, "train_loss": 0.31}, "seconds": 312.0, "peak_mb": 1420,
        },
        "gate": _verdict(),
        "verify": _parity(),
    }  # fmt: skip
    if version > 1:
        facts["assess"] = _drift()
        facts["decision"] = {
            "action": "update", "why": "the text has drifted and it hurts",
            "reasons": ["drift in text", "accuracy fell by 5 points", "600 labelled rows are enough"],
        }  # fmt: skip
        facts["probation"] = {
            "bets": [0.2], "fortunes": [0.3], "peak": 1.1, "both": 1000, "champion": 90, "predecessor": 40,
            "neither": 110,
        }  # fmt: skip
    return facts


def _drift() -> dict[str, Any]:
    text = {
        "name": "text", "summary": "The text is not what it was.", "drifted": True, "p_value": 0.0004,
        "effect": 0.71, "effect_unit": "AUC", "baseline": 0.52, "warning": False, "facts": {},
        "words": [{"term": "crypto", "z": 8.1, "current": 0.2, "reference": 0.01},
                  {"term": "hello\x1b]0;x\x07", "z": -6.0, "current": 0.0, "reference": 0.1}],
    }  # fmt: skip
    labels = {
        "name": "predicted labels", "summary": "As before.", "drifted": False, "p_value": 0.4, "effect": 0.02,
        "effect_unit": "total variation", "baseline": None, "warning": False, "facts": {}, "words": [],
    }  # fmt: skip
    return {
        "rows": 1240, "labelled": 600, "drifted": True, "new_labels": {"refund": 12},
        "signals": [text, labels],
        "harm": {"how": "labels", "rows": 600, "accepted": 0.91, "accuracy": 0.86, "estimate": 0.05,
                 "low": 0.021, "high": 0.08, "p_value": 0.002, "abstained": False, "why": ""},
        "suspect": {"suspect": False, "disagreement": 0.1, "expected": 0.09, "why": ""},
    }  # fmt: skip


def _check(name: str, text: str, **figures: Any) -> dict[str, Any]:
    return {
        "name": name, "passed": True, "text": text, "figure": 0.012, "low": -0.004, "high": 0.028,
        "limit": -0.01, "rows": 500, "p_value": 0.4, "judged": True, **figures,
    }  # fmt: skip


def _verdict() -> dict[str, Any]:
    return {
        "passed": True, "harmful": False, "summary": "Passed: better on new rows and as good on old ones.",
        "checks": [
            _check("holdout", "No measurable loss."),
            _check("new", "Better.", limit=0.0),
            _check("flips", "Few.", low=None, high=None, limit=0.1),
            *(_check(f"label: topic {n}", "As good.", figure=n / 100) for n in range(40)),
        ],
        "champion": {"accuracy": 0.9}, "candidate": {"accuracy": 0.92}, "golden_sha": None,
    }  # fmt: skip


def _parity() -> dict[str, Any]:
    def artefact(precision: str, agreement: float, ms: float, mb: float, why: str = "") -> dict[str, Any]:
        return {
            "file": f"onnx/{precision}.onnx", "precision": precision, "provider": "cpu",
            "agreement": agreement, "p50_ms": ms, "p95_ms": ms * 1.3, "mb": mb, "passed": not why, "why": why,
        }  # fmt: skip

    return {
        "passed": True, "chosen": "onnx/int8.onnx",
        "summary": "int8 on cpu gives the same labels on 99.2 % of 300 rows.",
        "artefacts": [
            artefact("fp32", 1.0, 9.1, 90.1),
            artefact("int8", 0.992, 4.12, 23.4),
            artefact("fp16", 0.91, 19.0, 45.0, "agrees on 91.0 % only"),
        ],
    }  # fmt: skip
