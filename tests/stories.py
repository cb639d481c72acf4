"""Stories for tests of reports, in the shape that `keeperd.store.views.story` gives them."""

from __future__ import annotations

import copy
from typing import Any

INTAKE = {
    "batch": "ab" * 32,
    "rows": 2140,
    "labelled": 420,
    "holdout": 84,
    "bad_rows": 3,
    "duplicates": 12,
    "near_duplicates": 4,
    "leaks": 0,
    "late_labels": 0,
    "files": {"accepted": 9, "duplicate": 0, "quarantined": 1, "waiting": 0},
    "labels": {"refund": 200, "login": 220},
}

WORDS = [
    {"term": "passkey", "z": 14.1, "current": 0.121, "reference": 0.003},
    {"term": "log in", "z": 9.8, "current": 0.162, "reference": 0.041},
    {"term": "fax", "z": -8.2, "current": 0.004, "reference": 0.058},
    {"term": "authenticator", "z": 7.7, "current": 0.067, "reference": 0.009},
    {"term": "two-factor", "z": 6.9, "current": 0.052, "reference": 0.006},
    {"term": "branch office", "z": -5.1, "current": 0.011, "reference": 0.047},
]

ASSESS: dict[str, Any] = {
    "rows": 2140,
    "labelled": 420,
    "drifted": True,
    "signals": [
        {
            "name": "text",
            "drifted": True,
            "summary": "The text is different from the reference (AUC 0.71, usually 0.52).",
            "p_value": 0.0005,
            "effect": 0.71,
            "effect_unit": "AUC",
            "baseline": 0.52,
            "words": WORDS,
            "slices": [
                {
                    "name": "passkey, log in, lost",
                    "kind": "cluster",
                    "z": 9.1,
                    "current": 0.118,
                    "reference": 0.014,
                    "examples": ["3f"],
                },
                {"name": "login", "kind": "predicted class", "z": 5.2, "current": 0.31, "reference": 0.22},
            ],
            "warning": False,
            "facts": {},
        },
        {
            "name": "new characters",
            "drifted": False,
            "summary": "2.4 % of the rows have characters that the reference has nowhere (U+00C3).",
            "warning": True,
            "facts": {},
        },
        {
            "name": "predicted labels",
            "drifted": False,
            "summary": "The champion answers in the usual proportions.",
            "p_value": 0.4,
            "effect": 0.03,
            "effect_unit": "total variation",
            "baseline": 0.04,
            "words": [],
            "warning": False,
            "facts": {},
        },
    ],
    "harm": {
        "how": "labels",
        "rows": 420,
        "accepted": 0.894,
        "accuracy": 0.812,
        "estimate": 0.082,
        "low": 0.046,
        "high": 0.121,
        "abstained": False,
        "why": "",
    },
    "suspect": {"suspect": False, "disagreement": 0.188, "expected": 0.106, "why": ""},
    "new_labels": {},
    "states": {},
    "examples": [
        {"side": "current", "id": "3f", "text": "My passkey is gone since the last update"},
        {"side": "reference", "id": "a1", "text": "Please fax me the form of the branch office"},
    ],
    "watch": {
        "alarmed": True,
        "wealth": 31.0,
        "rows": 420,
        "since": "2026-11-20",
        "error": 0.188,
        "limit": 0.156,
    },
    "seconds": 4.2,
}


def _check(name: str, figure: float | None, text: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "passed": True,
        "text": text,
        "figure": figure,
        "low": None,
        "high": None,
        "limit": None,
        "rows": 0,
        "p_value": None,
        "judged": True,
        **more,
    }


VERDICT: dict[str, Any] = {
    "passed": True,
    "harmful": False,
    "summary": "Passed: Right on 88.9 % of 420 new rows, champion 81.2 % (+7.7 points): better (p = 0.0003).",
    "checks": [
        _check("answers", None, "Every one of 1620 rows has a sound answer.", rows=1620),
        _check(
            "holdout",
            0.003,
            "Right on 90.4 % of 1000 holdout rows.",
            low=-0.006,
            high=0.012,
            limit=-0.01,
            rows=1000,
        ),
        _check("new", 0.077, "Right on 88.9 % of 420 new rows.", low=0.052, high=0.101, limit=0.0, rows=420),
        _check(
            "golden",
            -0.005,
            "Right on 92.5 % of 200 golden rows.",
            low=-0.02,
            high=0.01,
            limit=-0.01,
            rows=200,
        ),
        _check("macro-F1", 0.004, "Macro-F1 on old rows 0.89.", low=-0.01, high=0.02, limit=-0.02, rows=1200),
        _check("flips", 0.021, "2.1 % of the old rows turned wrong.", limit=0.1, rows=1200),
        _check("label: refund", -0.01, "Right on 91 % of label 'refund'.", rows=200),
        _check("gains", 0.06, "6 % of the rows turned right.", judged=False),
    ],
    "champion": {
        "accuracy": 0.88,
        "rows": 1620,
        "sets": {
            "new": {"accuracy": 0.812, "macro_f1": 0.8},
            "holdout": {"accuracy": 0.901},
            "golden": {"accuracy": 0.93},
        },
    },
    "candidate": {
        "accuracy": 0.90,
        "rows": 1620,
        "sets": {
            "new": {"accuracy": 0.889, "macro_f1": 0.88},
            "holdout": {"accuracy": 0.904},
            "golden": {"accuracy": 0.925},
        },
    },
    "golden_sha": "cd" * 32,
}

PARITY = {
    "passed": True,
    "summary": "int8 on cpu chosen",
    "chosen": "onnx/model.int8.onnx",
    "rows": 300,
    "manifest": "ef" * 32,
    "artefacts": [
        {
            "file": "onnx/model.onnx",
            "precision": "fp32",
            "provider": "cpu",
            "agreement": 1.0,
            "p50_ms": 6.0,
            "p95_ms": 7.1,
            "passed": True,
            "why": "",
        },
        {
            "file": "onnx/model.int8.onnx",
            "precision": "int8",
            "provider": "cpu",
            "agreement": 0.993,
            "p50_ms": 2.6,
            "p95_ms": 3.1,
            "passed": True,
            "why": "",
        },
    ],
}

TRAIN = {
    "version": 4,
    "strategy": "full",
    "examples": 3356,
    "classes": ["refund", "login"],
    "seconds": 247.0,
    "peak_mb": 2100.0,
    "figures": {"epochs": 2, "train_loss": 0.31},
}

WHYS = {
    "opened": ("QUEUED", "9 new files"),
    "drift": (
        "UPDATE",
        "the text has drifted and it hurts: accuracy 81.2%, accepted at 89.4%",
    ),
    "ask": (
        "SKIPPED",
        "the text has drifted; that it hurts is not proven: accuracy 88.1%, accepted at 89.4%",
    ),
    "suspect": ("SKIPPED", "the new labels disagree with the champion too often"),
    "skipped": ("SKIPPED", "only 31 rows so far, 50 are needed"),
    "rejected": ("REJECTED", "Rejected: Right on 81.0 % of 420 new rows, champion 81.2 %: not better."),
    "failed": (
        "FAILED",
        "UPDATE failed: train (run 31): killed by the system, most likely for lack of memory",
    ),
    "approval": ("APPROVAL", "version 4 waits for you"),
    "promoted": ("PROBATION", "version 4 serves in place of 3"),
    "rolled back": (
        "ROLLED_BACK",
        "version 3 serves again in place of 4: the champion is worse than its predecessor",
    ),
    "completed": ("COMPLETED", "The champion was not found worse."),
    "alert": ("PROMOTE", "PROMOTE: [Errno 28] No space left on device"),
}
FROM = {
    "drift": "ASSESS",
    "ask": "ASSESS",
    "suspect": "ASSESS",
    "skipped": "ASSESS",
    "rejected": "GATE",
    "failed": "UPDATE",
    "approval": "VERIFY",
    "promoted": "PROMOTE",
    "rolled back": "ROLLBACK",
    "completed": "PROBATION",
    "alert": "PROMOTE",
}
AFTER = ("promoted", "rolled back", "completed")
KINDS = tuple(WHYS)


def event(kind: str, **more: Any) -> dict[str, Any]:
    """A row of the ledger."""
    return {
        "id": 481,
        "at": "2026-11-22T02:14:07.120000+00:00",
        "model": "tickets",
        "cycle": 12,
        "kind": kind,
        "from_state": FROM.get(kind),
        "to_state": WHYS[kind][0],
        "why": WHYS[kind][1],
        "facts": {},
        **more,
    }


def story(kind: str) -> dict[str, Any]:
    """Cycle 12 of the model "tickets", up to an event of this kind."""
    facts: dict[str, Any] = {"intake": INTAKE, "batches": ["ab" * 32], "assess": ASSESS}
    facts["decision"] = {"action": "update", "why": WHYS["drift"][1], "reasons": []}
    if kind in {"ask", "suspect", "skipped"}:
        facts["decision"] = {
            "action": {"skipped": "wait"}.get(kind, kind),
            "why": WHYS[kind][1],
            "reasons": [],
        }
    if kind == "suspect":
        facts["assess"] = {
            **ASSESS,
            "suspect": {"suspect": True, "disagreement": 0.41, "expected": 0.12, "why": "x"},
        }
    if kind in {*AFTER, "rejected", "failed", "approval", "alert"}:
        facts |= {"version": 4, "train": TRAIN, "gate": VERDICT}
    if kind == "rejected":
        facts["gate"] = _rejected()
    if kind in {*AFTER, "approval", "alert"}:
        facts |= {"export": {"artefacts": []}, "verify": PARITY}
    if kind in AFTER:
        facts |= {"predecessor": 3, "promoted_at": "2026-11-22T02:14:07+00:00"}
        good = kind == "completed"
        facts["probation"] = {
            "bets": [0.2],
            "fortunes": [0.0],
            "peak": 0.1,
            "both": 0,
            "champion": 0,
            "predecessor": 0,
            "neither": 0,
        }
        if kind != "promoted":
            counts = (240, 31, 9, 20) if good else (152, 8, 29, 21)
            facts["probation"] |= dict(
                zip(("both", "champion", "predecessor", "neither"), counts, strict=True)
            )
    if kind == "rolled back":
        facts |= {"restored": 3, "rollback_why": "the champion is worse than its predecessor"}
    told = {
        "model": "tickets",
        "champion": 4 if kind in {"promoted", "completed"} else 3,
        "predecessor": 3 if kind in {"promoted", "completed"} else 2,
        "cycle": {
            "id": 12,
            "state": WHYS[kind][0],
            "trigger": "files",
            "why": "9 new files",
            "opened_at": "2026-11-22T02:02:00+00:00",
            "closed_at": None,
            "attempt": 1,
            "retry_at": None,
        },
        "events": [event("opened", id=470), *_watched(kind), event(kind)],
        "runs": [],
        "facts": facts,
    }
    return copy.deepcopy(told)


def _watched(kind: str) -> list[dict[str, Any]]:
    trail = {
        "rolled back": [(30, 1.2), (60, 1.9), (90, 4.1), (120, 7.7), (150, 21.0), (180, 48.0), (210, 131.0)],
        "completed": [(60, 1.0), (120, 1.2), (180, 1.2), (240, 1.2), (300, 1.2)],
    }.get(kind, [])
    rows = [{"rows": n, "evidence": e, "limit": 100.0} for n, e in trail]
    return [
        {**event("promoted", id=471 + i), "kind": "watched", "facts": told} for i, told in enumerate(rows)
    ]


def _rejected() -> dict[str, Any]:
    verdict = copy.deepcopy(VERDICT)
    verdict |= {"passed": False, "summary": WHYS["rejected"][1]}
    by_name = {check["name"]: check for check in verdict["checks"]}
    by_name["new"] |= {
        "passed": False,
        "figure": 0.012,
        "low": -0.009,
        "high": 0.033,
        "text": "Right on 82.4 % of 420 new rows, champion 81.2 % (+1.2 points): not proven "
        "better (p = 0.21); about 1510 labelled new rows would decide it.",
    }
    by_name["label: refund"] |= {
        "passed": False,
        "figure": -0.14,
        "text": "Right on 71.0 % of 200 rows with label 'refund', champion 85.0 %.",
    }
    verdict["candidate"]["sets"]["new"] = {"accuracy": 0.824}
    return verdict
