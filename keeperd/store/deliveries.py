"""The ledger's deliveries: each an event, or several equal ones, on its way to one notifier."""

from __future__ import annotations

import json
import sqlite3
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keeperd.store import Store, views


@dataclass(frozen=True)
class Delivery:
    """One message to one notifier.

    Attributes:
        id: the ledger's number; 0 before it has one.
        events: ids of the events that it tells, oldest first.
        message_id: made of `events`: the same over retries; a group that grew is another message.
        newest_at: when the last of `events` happened; it expires so long after this.
        next_at: not to be tried before.
        state: "pending", "sending", "sent" or "expired".
        attempts: those that failed.
        result: where it went, or the last error.
    """

    id: int
    notifier: str
    model: str
    kind: str
    events: tuple[int, ...]
    message_id: str
    newest_at: datetime
    next_at: datetime
    state: str = "pending"
    attempts: int = 0
    result: str | None = None


class Deliveries:
    """Reads and writes deliveries in the store's transactions."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing; belongs to an outer one where there is one."""
        return self._store.transaction()

    def unplanned_events(self) -> list[dict[str, Any]]:
        """Events for which no delivery has been considered yet, oldest first."""
        return self._store.unplanned_events()

    def set_planned(self, event: int) -> None:
        """Deliveries have been considered up to this event."""
        self._store.set_planned(event)

    def recent(self, since: datetime) -> list[Delivery]:
        """All that are pending or being sent, and the others whose newest event is not older than
        `since`; in order of their ids."""
        rows = self._store._all(
            "SELECT * FROM deliveries WHERE state IN ('pending', 'sending') OR created_at >= ? ORDER BY id",
            (since.isoformat(),),
        )
        return [_delivery(row) for row in rows]

    def save(self, delivery: Delivery) -> None:
        """Add the delivery where its id is 0, otherwise replace it."""
        self._store._write(
            "INSERT OR REPLACE INTO deliveries (id, notifier, model, kind, events, message_id, created_at,"
            " next_at, state, attempts, result) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            (
                delivery.id or None, delivery.notifier, delivery.model, delivery.kind,
                json.dumps(delivery.events), delivery.message_id, delivery.newest_at.isoformat(),
                delivery.next_at.isoformat(), delivery.state, delivery.attempts, delivery.result,
            ),
        )  # fmt: skip

    def event(self, number: int) -> dict[str, Any]:
        """One event of the ledger."""
        return views.event(self._store._db, number)

    def story(self, event: dict[str, Any]) -> dict[str, Any]:
        """The story of the event's cycle; of an event without a cycle, what is known of its model."""
        if event["cycle"] is not None:
            return views.story(self._store._db, event["cycle"])
        return {"model": event["model"], "cycle": None, "events": [], "facts": {}}


def _delivery(row: sqlite3.Row) -> Delivery:
    return Delivery(
        id=row["id"], notifier=row["notifier"], model=row["model"], kind=row["kind"],
        events=tuple(json.loads(row["events"])), message_id=row["message_id"],
        newest_at=datetime.fromisoformat(row["created_at"]), next_at=datetime.fromisoformat(row["next_at"]),
        state=row["state"], attempts=row["attempts"], result=row["result"],
    )  # fmt: skip
