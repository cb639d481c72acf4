"""What the ledger says should lie on disk, for `keeperd verify`. Reads only."""

from __future__ import annotations

import sqlite3
from typing import Any


def damage(db: sqlite3.Connection) -> list[str]:
    """What SQLite itself finds wrong with the ledger; empty when it is whole."""
    try:
        found = [str(row[0]) for row in db.execute("PRAGMA integrity_check(20)")]
    except sqlite3.DatabaseError as error:
        return [str(error)]
    return [] if found == ["ok"] else found


def models(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """name, champion, predecessor and golden_sha of every model, and the state of its open cycle
    (None where no cycle is open)."""
    rows = db.execute(
        "SELECT name, champion, predecessor, golden_sha,"
        " (SELECT state FROM cycles WHERE model = name AND closed_at IS NULL) AS open"
        " FROM models ORDER BY name"
    )
    return [dict(row) for row in rows]


def versions(db: sqlite3.Connection, model: str) -> list[dict[str, Any]]:
    """version, state and manifest hash of every version, newest first."""
    rows = db.execute(
        "SELECT version, state, manifest FROM versions WHERE model=? ORDER BY version DESC", (model,)
    )
    return [dict(row) for row in rows]


def batches(db: sqlite3.Connection, model: str) -> list[str]:
    """The hash of every frozen batch, in order of arrival."""
    return [
        row["sha"] for row in db.execute("SELECT sha FROM batches WHERE model=? ORDER BY number", (model,))
    ]


def runs(db: sqlite3.Connection) -> set[int]:
    """The numbers of all runs."""
    return {row["id"] for row in db.execute("SELECT id FROM runs")}


def taken_by(db: sqlite3.Connection, trigger: int) -> int | None:
    """The cycle that took a trigger, None while it waits."""
    row = db.execute("SELECT cycle FROM triggers WHERE id=?", (trigger,)).fetchone()
    return None if row is None else row["cycle"]


def schema(db: sqlite3.Connection) -> int:
    """The schema's version."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])
