"""The ledger as people and programs read it: status, timeline, story. Reads only; JSON-clean."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from keeperd.api import KeeperdError


class NotInLedgerError(KeeperdError):
    """No such model, cycle or version."""


def _rows(db: sqlite3.Connection, query: str, *values: Any) -> list[dict[str, Any]]:
    rows = [dict(row) for row in db.execute(query, values)]
    for row in rows:
        for column in ("facts", "states", "events"):
            if isinstance(row.get(column), str):
                row[column] = json.loads(row[column])
    return rows


def status(db: sqlite3.Connection) -> dict[str, Any]:
    """What every model does now, and what needs a person.

    Returns:
        {"models": [{"name", "paused", "champion", "predecessor", "cycle": {...}|None, "last": {...}|None,
        "serving": {"verified_ms", "accuracy", "rows"}|None, "batches": {status: n}, "needs": [str]}],
        "deliveries": {state: n}}
    """
    models = [_model_status(db, row) for row in _rows(db, "SELECT * FROM models ORDER BY name")]
    deliveries = _rows(db, "SELECT state, COUNT(*) AS n FROM deliveries GROUP BY state")
    return {"models": models, "deliveries": {row["state"]: row["n"] for row in deliveries}}


def _model_status(db: sqlite3.Connection, model: dict[str, Any]) -> dict[str, Any]:
    name = model["name"]
    # Without their facts, which may hold sample texts.
    cycles = _rows(
        db,
        "SELECT id, model, state, trigger, why, opened_at, state_since, closed_at, attempt, retry_at, answer"
        " FROM cycles WHERE model=? ORDER BY id DESC LIMIT 2",
        name,
    )
    current = next((cycle for cycle in cycles if cycle["closed_at"] is None), None)
    last = next((cycle for cycle in cycles if cycle["closed_at"] is not None), None)
    batches = _rows(db, "SELECT status, COUNT(*) AS n FROM batches WHERE model=? GROUP BY status", name)
    needs = []
    if model["paused"]:
        needs.append(f"paused ({model['paused']}): keeperd resume {name}")
    if current and current["state"] == "APPROVAL" and not current["answer"]:
        needs.append(f"cycle {current['id']} waits for you: keeperd approve {current['id']}")
    if current and current["retry_at"]:
        needs.append(
            f"cycle {current['id']} failed at {current['state']}, attempt {current['attempt']} follows"
        )
    if model["champion"] is None and current is None:
        needs.append(f"no champion yet: keeperd init {name}")
    return {
        "name": name,
        "paused": model["paused"],
        "champion": model["champion"],
        "predecessor": model["predecessor"],
        "cycle": current,
        "last": last,
        "serving": _serving(db, name, model["champion"]),
        "batches": {row["status"]: row["n"] for row in batches},
        "needs": needs,
    }


def _serving(db: sqlite3.Connection, model: str, version: int | None) -> dict[str, Any] | None:
    """Latency at verification and accuracy on all labels that came since, of one version."""
    if version is None:
        return None
    rows = _rows(
        db,
        "SELECT SUM(CASE WHEN source='verify' THEN 0 ELSE rows END) AS rows,"
        " SUM(CASE WHEN source='verify' THEN 0 ELSE accuracy * rows END) AS correct,"
        " MAX(CASE WHEN source='verify' THEN latency_ms END) AS verified_ms,"
        " MAX(CASE WHEN source='verify' THEN accuracy END) AS accepted"
        " FROM measurements WHERE model=? AND version=?",
        model,
        version,
    )
    row = rows[0]
    seen = row["rows"] or 0
    return {
        "verified_ms": row["verified_ms"],
        "accepted": row["accepted"],
        "rows": seen,
        "accuracy": row["correct"] / seen if seen and row["correct"] is not None else None,
    }


def timeline(db: sqlite3.Connection, model: str, limit: int = 50) -> list[dict[str, Any]]:
    """The latest cycles of a model, oldest first, each with its decisive sentence."""
    if not _rows(db, "SELECT 1 AS x FROM models WHERE name=?", model):
        raise NotInLedgerError(f"no model {model!r} in the ledger; see `keeperd status`")
    cycles = _rows(db, "SELECT * FROM cycles WHERE model=? ORDER BY id DESC LIMIT ?", model, limit)
    for cycle in cycles:
        last = _rows(
            db, "SELECT why, kind FROM events WHERE cycle=? AND to_state=? ORDER BY id DESC LIMIT 1",
            cycle["id"], cycle["state"],
        )  # fmt: skip
        cycle["outcome"] = last[0]["why"] if last else cycle["why"]
    return cycles[::-1]


def story(db: sqlite3.Connection, cycle: int) -> dict[str, Any]:
    """Everything that is known of one cycle, for reports, mail and `keeperd why`."""
    rows = _rows(db, "SELECT * FROM cycles WHERE id=?", cycle)
    if not rows:
        raise NotInLedgerError(f"no cycle {cycle} in the ledger; see `keeperd timeline MODEL`")
    row = rows[0]
    model = _rows(db, "SELECT * FROM models WHERE name=?", row["model"])[0]
    events = _rows(db, "SELECT * FROM events WHERE cycle=? ORDER BY id", cycle)
    runs = _rows(
        db, "SELECT id, kind, attempt, state, started_at, ended_at, error FROM runs WHERE cycle=?", cycle
    )
    return {
        "model": row["model"],
        "champion": model["champion"],
        "predecessor": model["predecessor"],
        "cycle": {
            key: row[key]
            for key in ("id", "state", "trigger", "why", "opened_at", "closed_at", "attempt", "retry_at")
        },
        "events": [
            {
                "id": event["id"], "at": event["at"], "kind": event["kind"], "from": event["from_state"],
                "to": event["to_state"], "why": event["why"], "facts": event["facts"],
            }
            for event in events
        ],
        "runs": runs,
        "facts": row["facts"],
    }  # fmt: skip


def event(db: sqlite3.Connection, number: int) -> dict[str, Any]:
    """One event."""
    rows = _rows(db, "SELECT * FROM events WHERE id=?", number)
    if not rows:
        raise NotInLedgerError(f"no event {number} in the ledger")
    return rows[0]


def versions(db: sqlite3.Connection, model: str) -> list[dict[str, Any]]:
    """All versions of a model with their states, oldest first."""
    return _rows(db, "SELECT * FROM versions WHERE model=? ORDER BY version", model)


def latest_cycle(db: sqlite3.Connection, model: str) -> int | None:
    """The model's newest cycle."""
    rows = _rows(db, "SELECT MAX(id) AS id FROM cycles WHERE model=?", model)
    return rows[0]["id"] if rows else None
