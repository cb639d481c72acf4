"""Outbox: committed events -> deliveries, each on its way to one notifier.

Pure decisions (`plan`, `due`, `after_failure`) over values of the ledger, and `push`, which applies them
once a tick of the loop. A delivery tells one event, or several equal ones (same model and kind)
that came close together. It is marked sent only after its notifier has said so, and is tried again
until then: a message may arrive twice but is not lost, and its message id shows the copies.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from keeperd.api import JSON
from keeperd.config import Notify
from keeperd.runs import RunFailedError
from keeperd.store.deliveries import Deliveries, Delivery

GROUP = timedelta(minutes=10)
"""Equal events that follow one another within this time are told together."""
CAP = timedelta(hours=1)
"""Longest wait between two attempts."""

log = logging.getLogger(__name__)


class Runs(Protocol):
    """What the outbox needs of `keeperd.runs.Runs`."""

    def ensure(
        self, cycle: int, model: str, kind: str, inputs: Mapping[str, JSON], serial: int = 0
    ) -> tuple[int, dict[str, JSON]] | None:
        """The result of this run, or None while it works; started when there is none. Raises
        RunFailedError once when it failed; the next call starts another attempt."""


# --- decisions ------------------------------------------------------------------------------------


def message_id(notifier: str, events: Sequence[int], host: str) -> str:
    """A Message-ID without its brackets, made of what the message tells and nothing else."""
    about = f"{notifier}\n{host}\n{','.join(map(str, events))}"
    domain = re.sub(r"[^a-z0-9.-]", "-", host.lower()).strip(".-")[:200] or "localhost"
    return f"{events[0]}.{hashlib.sha256(about.encode()).hexdigest()[:16]}@keeperd.{domain}"


def wants(notify: Notify, event: Mapping[str, Any]) -> bool:
    """Whether a notifier is told of this event."""
    return event["kind"] in notify.events and (not notify.models or event["model"] in notify.models)


def plan(
    events: Iterable[Mapping[str, Any]],
    recent: Iterable[Delivery],
    notifiers: Mapping[str, Notify],
    host: str,
) -> list[Delivery]:
    """The deliveries that these events add (id 0) or make grow (id of an old one).

    The first of several equal events is told at once. Those that follow within ten minutes wait
    and are told together. While a notifier cannot be reached, all equal events gather in the one
    delivery that is being retried.
    """
    latest: dict[tuple[str, str, str], Delivery] = {}
    for delivery in sorted(recent, key=lambda one: one.id):  # not by time: clocks go back
        latest[delivery.notifier, delivery.model, delivery.kind] = delivery
    changed: list[Delivery] = []
    for event in events:
        for notifier, notify in notifiers.items():
            if not wants(notify, event):
                continue
            group = (notifier, event["model"], event["kind"])
            last = latest.get(group)
            if last is not None and _joins(last, event):
                told = replace(last, events=(*last.events, event["id"]), newest_at=_at(event))
                changed = [one for one in changed if one is not last]
            else:
                told = _open(notifier, event, last)
            changed.append(told)
            latest[group] = told
    return [replace(one, message_id=message_id(one.notifier, one.events, host)) for one in changed]


def _at(event: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(event["at"])


def _joins(last: Delivery, event: Mapping[str, Any]) -> bool:
    """Whether the delivery still takes this event: nobody is reading it, and it is either of the
    same ten minutes or waits for a notifier that cannot be reached."""
    return last.state == "pending" and (_at(event) < last.newest_at + GROUP or last.attempts > 0)


def _open(notifier: str, event: Mapping[str, Any], last: Delivery | None) -> Delivery:
    at = _at(event)
    follows = last is not None and last.newest_at <= at < last.newest_at + GROUP
    return Delivery(
        id=0,
        notifier=notifier,
        model=event["model"],
        kind=event["kind"],
        events=(event["id"],),
        message_id="",
        newest_at=at,
        next_at=last.newest_at + GROUP if last is not None and follows else at,
    )


def due(deliveries: Iterable[Delivery], now: datetime) -> list[Delivery]:
    """What to start now: of every notifier that is not sending already, the one that waits longest.

    A `next_at` further away than any wait can be comes from a clock that was set back; it is due.
    """
    open_ones = sorted(deliveries, key=lambda one: (one.next_at, one.id))
    busy = {one.notifier for one in open_ones if one.state == "sending"}
    chosen: dict[str, Delivery] = {}
    for delivery in open_ones:
        ripe = delivery.next_at <= now or delivery.next_at > now + CAP
        if delivery.state == "pending" and ripe and delivery.notifier not in busy:
            chosen.setdefault(delivery.notifier, delivery)
    return list(chosen.values())


def backoff(attempt: int, base: timedelta) -> timedelta:
    """How long to wait after the n-th failed attempt (from 1): doubling, at most an hour."""
    return min(base * float(2 ** min(attempt - 1, 20)), CAP)


def after_failure(
    delivery: Delivery, error: RunFailedError, now: datetime, expire: timedelta, base: timedelta
) -> Delivery:
    """The delivery after a failed attempt.

    Given up where trying again cannot help (`error.retry` False), or where its newest event is older
    than `expire`; but never without an attempt after that moment, however the clock jumps.
    """
    tried = replace(delivery, attempts=delivery.attempts + 1, result=str(error))
    if not error.retry:
        return replace(tried, state="expired")
    end = delivery.newest_at + expire
    if now >= end:
        return replace(tried, state="expired", result=f"not sent within {expire}; last error: {error}")
    return replace(tried, state="pending", next_at=min(now + backoff(tried.attempts, base), end))


# --- the tick -------------------------------------------------------------------------------------


def push(
    ledger: Deliveries,
    runs: Runs,
    notifiers: Mapping[str, Notify],
    *,
    now: datetime,
    host: str,
    base: timedelta,
) -> None:
    """Plan deliveries of new events, start those that are due, see what became of those under way.

    Never waits. Deliveries of a notifier that is no longer configured expire.

    Args:
        host: this machine's name, for message ids.
        base: wait after a first failed attempt.
    """
    _Tick(ledger, runs, notifiers, now, host, base).push()


@dataclass(frozen=True)
class _Tick:
    ledger: Deliveries
    runs: Runs
    notifiers: Mapping[str, Notify]
    now: datetime
    host: str
    base: timedelta

    def push(self) -> None:
        self._plan_new()
        for delivery in due(self.ledger.recent(self.now), self.now):
            # Committed before the run starts, so that the group cannot grow under its reader.
            self.ledger.save(replace(delivery, state="sending"))
        for delivery in self.ledger.recent(self.now):
            if delivery.state not in {"pending", "sending"}:
                continue
            if delivery.notifier not in self.notifiers:
                error = f"notifier {delivery.notifier!r} is no longer configured"
                self._settle(replace(delivery, state="expired", result=error))
            elif delivery.state == "sending":
                self._send(delivery, self.notifiers[delivery.notifier])

    def _plan_new(self) -> None:
        with self.ledger.transaction():
            events = self.ledger.unplanned_events()
            if not events:
                return
            recent = self.ledger.recent(min(map(_at, events)) - GROUP)
            for delivery in plan(events, recent, self.notifiers, self.host):
                self.ledger.save(delivery)
            self.ledger.set_planned(events[-1]["id"])

    def _send(self, delivery: Delivery, notify: Notify) -> None:
        """Start the run that sends it, or take note of how that run ended."""
        try:
            # Messages are runs of no cycle: 0.
            done = self.runs.ensure(
                0, delivery.model, "notify", self._inputs(delivery, notify), serial=delivery.id
            )
        except RunFailedError as error:
            self._settle(after_failure(delivery, error, self.now, notify.expire, self.base))
            return
        if done is not None:
            self._settle(replace(delivery, state="sent", result=str(done[1].get("sent") or "sent")))

    def _inputs(self, delivery: Delivery, notify: Notify) -> dict[str, JSON]:
        """What the run is told: the newest event and its story in full, the others as a number."""
        event = self.ledger.event(delivery.events[-1])
        first = self.ledger.event(delivery.events[0])
        return {
            "notifier": delivery.notifier,
            "plugin": notify.plugin,
            "options": notify.options,
            "examples": notify.examples,
            "message_id": delivery.message_id,
            "event": {**event, "times": len(delivery.events), "first_at": first["at"]},
            "story": self.ledger.story(event),
        }

    def _settle(self, delivery: Delivery) -> None:
        self.ledger.save(delivery)
        if delivery.state == "sent":
            return
        gave_up = delivery.state == "expired"
        log.log(
            logging.ERROR if gave_up else logging.WARNING,
            "notifier %s: message %s %s: %s",
            delivery.notifier,
            delivery.message_id,
            "given up" if gave_up else "failed, will be tried again",
            delivery.result,
        )
