"""The ledger: one SQLite file, one writer. SQL stands here, in `views.py` and in `migrations.py` alone.

Every change is one transaction (`with store.transaction():`); synchronous=FULL in WAL mode, so
that what was committed survives a power cut. Times are ISO 8601 in UTC.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from keeperd.api import JSON, KeeperdError
from keeperd.store.migrations import MIGRATIONS


class StoreError(KeeperdError):
    """The ledger is damaged or too new; the daemon refuses to start on it."""


class StoreUnavailableError(KeeperdError):
    """The ledger cannot be opened now: no space, no permission, held by another. It may pass."""


@dataclass(frozen=True)
class Cycle:
    """One pass of the state machine, as committed."""

    id: int
    model: str
    state: str
    trigger: str
    why: str
    opened_at: datetime
    state_since: datetime
    attempt: int
    retry_at: datetime | None
    answer: str | None
    facts: Mapping[str, JSON]


@dataclass(frozen=True)
class Trigger:
    """A reason for a cycle."""

    id: int
    model: str
    kind: str
    why: str
    target: int | None


@dataclass(frozen=True)
class Run:
    """One subprocess of a cycle."""

    id: int
    cycle: int
    model: str
    kind: str
    attempt: int
    state: str
    pid: int | None
    error: str | None


@dataclass(frozen=True)
class Batch:
    """One frozen batch."""

    sha: str
    rows: int
    labelled: int
    status: str


def _time(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


def _json(value: JSON) -> str:
    return json.dumps(value, allow_nan=False, sort_keys=True)


def _connect(path: Path, *, readonly: bool = False) -> sqlite3.Connection:
    if readonly:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=60.0, check_same_thread=False
        )
    else:
        connection = sqlite3.connect(path, timeout=90.0, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection


class KnownFiles:
    """What intake has seen of one model's folders; looked up row by row, never loaded whole."""

    def __init__(self, connection: sqlite3.Connection, model: str) -> None:
        self._connection = connection
        self._model = model

    def is_known(self, path: str, size: int, mtime_ns: int, inode: int) -> bool:
        """True when this very file, unchanged, was taken, refused or skipped before."""
        query = "SELECT 1 FROM files WHERE model=? AND path=? AND size=? AND mtime_ns=? AND inode=? LIMIT 1"
        return (
            self._connection.execute(query, (self._model, path, size, mtime_ns, inode)).fetchone() is not None
        )

    def has_content(self, sha256: str) -> bool:
        """True when a file with these bytes was accepted before, under whatever name."""
        query = "SELECT 1 FROM files WHERE model=? AND sha256=? AND status='accepted'"
        return self._connection.execute(query, (self._model, sha256)).fetchone() is not None


class Store:
    """The writer's side of the ledger. Safe to use from several threads of the one daemon."""

    def __init__(self, path: Path) -> None:
        """Open or create the ledger and bring its schema up to date.

        Raises:
            StoreError: it is damaged, or was written by a newer keeperd.
            StoreUnavailableError: it cannot be opened now.
        """
        self.path = path
        self._lock = threading.RLock()
        self._depth = 0
        try:
            self._db = _connect(path)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._migrate()
        except sqlite3.OperationalError as error:
            raise StoreUnavailableError(
                f"{path}: {error}; make room or give access, then start again"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path}: {error}; restore it from a backup or move it away") from error

    def _migrate(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise StoreError(f"{self.path}: written by a newer keeperd (schema {version}); upgrade keeperd")
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version={number}; COMMIT;")

    def close(self) -> None:
        """Close the ledger."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; a transaction inside another belongs to the outer one."""
        with self._lock:
            if self._depth == 0:
                self._db.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
                if self._depth == 1:
                    self._db.execute("COMMIT")
            except BaseException:
                if self._depth == 1 and self._db.in_transaction:  # a full disk may have ended it
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def _all(self, query: str, values: Iterable[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, tuple(values)).fetchall()

    def _one(self, query: str, values: Iterable[Any] = ()) -> sqlite3.Row | None:
        with self._lock:
            row: sqlite3.Row | None = self._db.execute(query, tuple(values)).fetchone()
            return row

    def _write(self, query: str, values: Iterable[Any] = ()) -> int:
        with self.transaction():
            return self._db.execute(query, tuple(values)).lastrowid or 0

    # --- models and versions ---

    def ensure_model(self, name: str) -> None:
        """Make the model known."""
        self._write("INSERT OR IGNORE INTO models (name) VALUES (?)", (name,))

    def model(self, name: str) -> dict[str, Any]:
        """The model's row: paused, champion, predecessor, golden_sha, states."""
        row = self._one("SELECT * FROM models WHERE name=?", (name,))
        if row is None:
            raise StoreError(f"no model {name!r} in the ledger")
        return {**dict(row), "states": json.loads(row["states"])}

    def set_model(self, name: str, **values: JSON) -> None:
        """Change some of: paused, champion, predecessor, golden_sha, states."""
        allowed = {"paused", "champion", "predecessor", "golden_sha", "states"}
        if values.keys() - allowed:
            raise ValueError(f"no such columns: {values.keys() - allowed}")
        if "states" in values:
            values["states"] = _json(values["states"])
        columns = ", ".join(f"{key}=?" for key in values)
        self._write(f"UPDATE models SET {columns} WHERE name=?", (*values.values(), name))  # noqa: S608 - checked names

    def add_version(self, model: str, cycle: int, parent: int | None, at: datetime) -> int:
        """Reserve the next version number for a cycle's candidate; asking again gives the same."""
        with self.transaction():
            row = self._one("SELECT version FROM versions WHERE model=? AND cycle=?", (model, cycle))
            if row is not None:
                return int(row["version"])
            last = self._one("SELECT MAX(version) AS n FROM versions WHERE model=?", (model,))
            number = (last["n"] or 0) + 1 if last is not None else 1
            self._write(
                "INSERT INTO versions (model, version, state, parent, cycle, created_at)"
                " VALUES (?,?,?,?,?,?)",
                (model, number, "candidate", parent, cycle, at.isoformat()),
            )
            return number

    def set_version(
        self, model: str, version: int, state: str, manifest: str | None = None, facts: JSON = None
    ) -> None:
        """Change a version's state, and with `manifest` the hash that was accepted."""
        self._write(
            "UPDATE versions SET state=?, manifest=COALESCE(?, manifest), facts=COALESCE(?, facts)"
            " WHERE model=? AND version=?",
            (state, manifest, None if facts is None else _json(facts), model, version),
        )

    def versions(self, model: str) -> list[dict[str, Any]]:
        """All versions, oldest first."""
        rows = self._all("SELECT * FROM versions WHERE model=? ORDER BY version", (model,))
        return [{**dict(row), "facts": json.loads(row["facts"])} for row in rows]

    def measure(
        self, model: str, version: int, at: datetime, source: str, rows: int,
        accuracy: float | None = None, latency_ms: float | None = None,
    ) -> None:  # fmt: skip
        """Record what a version was seen to do: accuracy 0..1 on so many rows, latency in ms."""
        self._write(
            "INSERT INTO measurements (model, version, at, source, rows, accuracy, latency_ms)"
            " VALUES (?,?,?,?,?,?,?)",
            (model, version, at.isoformat(), source, rows, accuracy, latency_ms),
        )

    # --- batches and files ---

    def known_files(self, model: str) -> KnownFiles:
        """What intake has seen of this model's folders."""
        return KnownFiles(self._db, model)

    def add_batch(self, model: str, sha: str, cycle: int, at: datetime, rows: int, labelled: int) -> None:
        """Record a frozen batch, status "new"."""
        self._write(
            "INSERT OR IGNORE INTO batches (model, sha, number, cycle, frozen_at, rows, labelled, status)"
            " VALUES (?, ?, (SELECT COUNT(*) + 1 FROM batches WHERE model = ?), ?, ?, ?, ?, 'new')",
            (model, sha, model, cycle, at.isoformat(), rows, labelled),
        )

    def add_files(
        self, model: str, cycle: int, batch: str | None, files: Iterable[Mapping[str, Any]]
    ) -> None:
        """Record every file of one intake (a line of files.jsonl each)."""
        with self.transaction():
            self._db.executemany(
                "INSERT INTO files"
                " (model, path, size, mtime_ns, inode, sha256, status, reason, rows, batch, cycle)"
                " VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (
                    (
                        model, entry["path"], entry["size"], entry["mtime_ns"], entry["inode"],
                        entry["sha256"], entry["status"], entry["reason"], entry["rows"],
                        batch if entry["status"] == "accepted" else None, cycle,
                    )
                    for entry in files
                ),
            )  # fmt: skip

    def batches(self, model: str, *status: str) -> list[Batch]:
        """Batches in order of arrival, of these statuses or all."""
        marks = ",".join("?" * len(status))
        where = f" AND status IN ({marks})" if status else ""
        rows = self._all(
            f"SELECT sha, rows, labelled, status FROM batches WHERE model=?{where} ORDER BY number",  # noqa: S608
            (model, *status),
        )
        return [Batch(**dict(row)) for row in rows]

    def mark_batches(self, model: str, shas: Iterable[str], status: str, version: int | None = None) -> None:
        """Change the status of batches."""
        with self.transaction():
            for sha in shas:
                self._write(
                    "UPDATE batches SET status=?, version=COALESCE(?, version) WHERE model=? AND sha=?",
                    (status, version, model, sha),
                )

    def batches_of_version(self, model: str, version: int) -> list[str]:
        """The batches that a version was trained on."""
        rows = self._all(
            "SELECT sha FROM batches WHERE model=? AND version=? ORDER BY number", (model, version)
        )
        return [row["sha"] for row in rows]

    # --- triggers and cycles ---

    def add_trigger(self, model: str, kind: str, why: str, at: datetime, target: int | None = None) -> int:
        """Insert a trigger, unless one of its kind is already waiting (then that one's id)."""
        with self.transaction():
            row = self._one(
                "SELECT id FROM triggers WHERE model=? AND kind=? AND cycle IS NULL AND target IS ?",
                (model, kind, target),
            )
            if row is not None:
                return int(row["id"])
            return self._write(
                "INSERT INTO triggers (model, kind, why, at, target) VALUES (?,?,?,?,?)",
                (model, kind, why, at.isoformat(), target),
            )

    def pending_triggers(self, model: str) -> list[Trigger]:
        """Triggers that no cycle has taken, oldest first."""
        rows = self._all(
            "SELECT id, model, kind, why, target FROM triggers WHERE model=? AND cycle IS NULL ORDER BY id",
            (model,),
        )
        return [Trigger(**dict(row)) for row in rows]

    def take_triggers(self, cycle: int, triggers: Iterable[int]) -> None:
        """These triggers are dealt with by this cycle."""
        with self.transaction():
            for trigger in triggers:
                self._write("UPDATE triggers SET cycle=? WHERE id=?", (cycle, trigger))

    def open_cycle(
        self, model: str, state: str, trigger: str, why: str, at: datetime, facts: Mapping[str, JSON]
    ) -> int:
        """Begin a cycle; the ledger itself refuses a second open one of the same model."""
        with self.transaction():
            cycle = self._write(
                "INSERT INTO cycles (model, state, trigger, why, opened_at, state_since, facts)"
                " VALUES (?,?,?,?,?,?,?)",
                (model, state, trigger, why, at.isoformat(), at.isoformat(), _json(dict(facts))),
            )
            self.add_event(at, model, "opened", why, cycle, to_state=state)
            return cycle

    def open_cycles(self) -> list[Cycle]:
        """All cycles that are not closed, oldest first."""
        return [
            self._cycle(row) for row in self._all("SELECT * FROM cycles WHERE closed_at IS NULL ORDER BY id")
        ]

    def cycle(self, cycle: int) -> Cycle:
        """One cycle."""
        row = self._one("SELECT * FROM cycles WHERE id=?", (cycle,))
        if row is None:
            raise StoreError(f"no cycle {cycle}")
        return self._cycle(row)

    @staticmethod
    def _cycle(row: sqlite3.Row) -> Cycle:
        return Cycle(
            id=row["id"], model=row["model"], state=row["state"], trigger=row["trigger"], why=row["why"],
            opened_at=datetime.fromisoformat(row["opened_at"]),
            state_since=datetime.fromisoformat(row["state_since"]),
            attempt=row["attempt"], retry_at=_time(row["retry_at"]), answer=row["answer"],
            facts=json.loads(row["facts"]),
        )  # fmt: skip

    def move_cycle(
        self, cycle: int, state: str, at: datetime, facts: Mapping[str, JSON], *, closed: bool = False
    ) -> None:
        """Commit a new state and its facts; attempts start again."""
        self._write(
            "UPDATE cycles SET state=?, facts=?, closed_at=?, attempt=1, retry_at=NULL, answer=NULL,"
            " state_since=CASE WHEN state=? THEN state_since ELSE ? END WHERE id=?",
            (state, _json(dict(facts)), at.isoformat() if closed else None, state, at.isoformat(), cycle),
        )

    def retry_cycle(self, cycle: int, attempt: int, retry_at: datetime) -> None:
        """A step failed; try it again, as this attempt, not before this time."""
        self._write(
            "UPDATE cycles SET attempt=?, retry_at=? WHERE id=?", (attempt, retry_at.isoformat(), cycle)
        )

    def answer_cycle(self, cycle: int, answer: str) -> None:
        """The operator's answer to an approval: "approve" or "reject"."""
        self._write("UPDATE cycles SET answer=? WHERE id=?", (answer, cycle))

    def updates_since(self, model: str, since: datetime) -> list[datetime]:
        """Times of the trainings that began since then, oldest first."""
        rows = self._all(
            "SELECT at FROM events WHERE model=? AND to_state='UPDATE' AND at>=? ORDER BY id",
            (model, since.isoformat()),
        )
        return [datetime.fromisoformat(row["at"]) for row in rows]

    # --- runs ---

    def add_run(self, cycle: int, model: str, kind: str, attempt: int, at: datetime) -> int:
        """Record that a run is about to start. (cycle, kind, attempt) is unique."""
        return self._write(
            "INSERT INTO runs (cycle, model, kind, attempt, state, started_at) VALUES (?,?,?,?,'started',?)",
            (cycle, model, kind, attempt, at.isoformat()),
        )

    def set_run_pid(self, run: int, pid: int) -> None:
        """The process that does the run."""
        self._write("UPDATE runs SET pid=? WHERE id=?", (pid, run))

    def end_run(self, run: int, state: str, at: datetime, error: str | None = None) -> None:
        """The run is over: "succeeded" or "failed"."""
        self._write(
            "UPDATE runs SET state=?, ended_at=?, error=? WHERE id=?", (state, at.isoformat(), error, run)
        )

    _RUN = "SELECT id, cycle, model, kind, attempt, state, pid, error FROM runs"

    def last_run(self, cycle: int, kind: str) -> Run | None:
        """The latest attempt at a run of this kind."""
        row = self._one(f"{self._RUN} WHERE cycle=? AND kind=? ORDER BY attempt DESC LIMIT 1", (cycle, kind))
        return None if row is None else Run(**dict(row))

    def count_runs(self, model: str, kind: str) -> int:
        """How many runs of this kind have succeeded."""
        row = self._one(
            "SELECT COUNT(*) AS n FROM runs WHERE model=? AND kind=? AND state='succeeded'", (model, kind)
        )
        return 0 if row is None else int(row["n"])

    def open_runs(self) -> list[Run]:
        """Runs that were started and have not ended."""
        return [Run(**dict(row)) for row in self._all(f"{self._RUN} WHERE state='started' ORDER BY id")]

    def old_runs(self, before: datetime) -> list[int]:
        """Runs of closed cycles that ended before this time."""
        rows = self._all(
            "SELECT runs.id FROM runs LEFT JOIN cycles ON cycles.id = runs.cycle"
            " WHERE runs.ended_at < ? AND (cycles.id IS NULL OR cycles.closed_at IS NOT NULL)",
            (before.isoformat(),),
        )
        return [row["id"] for row in rows]

    # --- events and deliveries ---

    def add_event(
        self, at: datetime, model: str, kind: str, why: str, cycle: int | None = None,
        from_state: str | None = None, to_state: str | None = None, facts: Mapping[str, JSON] | None = None,
    ) -> int:  # fmt: skip
        """Record a fact."""
        return self._write(
            "INSERT INTO events (at, model, cycle, kind, from_state, to_state, why, facts)"
            " VALUES (?,?,?,?,?,?,?,?)",
            (at.isoformat(), model, cycle, kind, from_state, to_state, why, _json(dict(facts or {}))),
        )

    def unplanned_events(self) -> list[dict[str, Any]]:
        """Events for which no delivery has been considered yet, oldest first."""
        rows = self._all(
            "SELECT * FROM events WHERE id > (SELECT planned FROM outbox) ORDER BY id LIMIT 1000"
        )
        return [{**dict(row), "facts": json.loads(row["facts"])} for row in rows]

    def set_planned(self, event: int) -> None:
        """Deliveries have been considered up to this event."""
        self._write("UPDATE outbox SET planned=?", (event,))

    def next_to_hear(self, plugin: str) -> dict[str, Any] | None:
        """The first event that this hook has not heard; a new hook begins with the next one."""
        with self.transaction():
            self._write("INSERT OR IGNORE INTO hearing SELECT ?, COALESCE(MAX(id), 0) FROM events", (plugin,))
            row = self._one(
                "SELECT * FROM events WHERE id > (SELECT heard FROM hearing WHERE plugin=?)"
                " ORDER BY id LIMIT 1",
                (plugin,),
            )
        return None if row is None else {**dict(row), "facts": json.loads(row["facts"])}

    def set_heard(self, plugin: str, event: int) -> None:
        """The hook is done with events up to this one."""
        self._write("UPDATE hearing SET heard=? WHERE plugin=?", (event, plugin))


def open_readonly(path: Path) -> Reading:
    """The ledger, to be read beside its writer; use as a context manager."""
    return Reading(path)


class Reading:
    """A read-only connection; what workers and the command line use."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise StoreError(f"{path}: no ledger there; run `keeperd init` first")
        self.db = _connect(path, readonly=True)

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self.db.close()

    def known_files(self, model: str) -> KnownFiles:
        """What intake has seen of this model's folders."""
        return KnownFiles(self.db, model)
