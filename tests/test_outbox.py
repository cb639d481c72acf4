"""Events become deliveries, in a real ledger; the runs that send are played by a port's fake."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keeperd import outbox
from keeperd.config import Notify
from keeperd.runs import RunFailedError
from keeperd.store import Store
from keeperd.store.deliveries import Deliveries, Delivery

T0 = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
MAIL = {"mail": Notify(plugin="smtp")}
REFUSED = RunFailedError("notify.1 (run 1): connection refused", retry=True)
Reply = str | RunFailedError | None


def minutes(n: float) -> datetime:
    return T0 + timedelta(minutes=n)


class FakeRuns:
    """Plays `keeperd.runs.Runs`: `answer` says what becomes of each run that is looked at."""

    def __init__(self, answer: Callable[[Mapping[str, Any]], Reply] = lambda inputs: "inbox") -> None:
        self.answer = answer
        self.inputs: list[dict[str, Any]] = []
        self.serials: list[int] = []
        self.sent: list[dict[str, Any]] = []

    def ensure(
        self, cycle: int, model: str, kind: str, inputs: Mapping[str, Any], serial: int = 0
    ) -> tuple[int, dict[str, Any]] | None:
        assert (cycle, kind) == (0, "notify")
        self.inputs.append(dict(inputs))
        self.serials.append(serial)
        reply = self.answer(inputs)
        if isinstance(reply, RunFailedError):
            raise reply
        if reply is None:
            return None
        self.sent.append(dict(inputs))
        return len(self.inputs), {"sent": reply}


class World:
    """A ledger, a clock and notifiers, pushed by hand."""

    def __init__(self, path: Path, notifiers: Mapping[str, Notify] = MAIL) -> None:
        self.path = path
        self.notifiers = notifiers
        self.runs = FakeRuns()
        self.now = T0
        self.open()

    def open(self) -> None:
        self.store = Store(self.path)
        self.store.ensure_model("tickets")
        self.ledger = Deliveries(self.store)

    def event(self, kind: str = "drift", at: datetime | None = None, model: str = "tickets") -> int:
        return self.store.add_event(at or self.now, model, kind, "it happened")

    def push(self, at: datetime | None = None) -> None:
        self.now = at or self.now
        outbox.push(
            self.ledger, self.runs, self.notifiers, now=self.now, host="Box_1", base=timedelta(seconds=30)
        )

    def all(self) -> list[Delivery]:
        return self.ledger.recent(datetime(1970, 1, 1, tzinfo=UTC))

    def told(self) -> list[int]:
        return [event for one in self.all() if one.state == "sent" for event in one.events]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "keeperd.db")


def test_an_event_is_sent_at_once_and_marked_after_success(world: World) -> None:
    number = world.event()
    world.runs.answer = lambda inputs: None
    world.push()
    assert [one.state for one in world.all()] == ["sending"]
    world.runs.answer = lambda inputs: "mail.example.org: 2 of 2 recipients took it"
    world.push()
    (one,) = world.all()
    assert (one.state, one.events, one.attempts) == ("sent", (number,), 0)
    assert one.result == "mail.example.org: 2 of 2 recipients took it"
    world.push(minutes(60))
    assert len(world.runs.sent) == 1


def test_the_run_is_told_all_that_it_needs(world: World) -> None:
    cycle = world.store.open_cycle("tickets", "QUEUED", "files", "3 files", T0, {})
    world.store.add_event(T0, "tickets", "promoted", "version 2", cycle, "PROMOTE", "PROBATION")
    world.push()
    (inputs,) = world.runs.sent
    assert inputs["event"]["kind"] == "promoted"
    assert (inputs["event"]["times"], inputs["event"]["first_at"]) == (1, T0.isoformat())
    assert inputs["story"]["cycle"]["id"] == cycle
    assert (inputs["notifier"], inputs["plugin"], inputs["examples"]) == ("mail", "smtp", False)
    assert inputs["message_id"] == world.all()[0].message_id


def test_an_event_without_a_cycle_has_a_story_too(world: World) -> None:
    world.event("alert")
    world.push()
    assert world.runs.sent[0]["story"]["model"] == "tickets"
    assert world.runs.sent[0]["story"]["facts"] == {}


def test_only_the_events_and_models_that_were_asked_for(tmp_path: Path) -> None:
    notifiers = {
        "all": Notify(plugin="smtp", events=["drift", "opened"]),
        "other": Notify(plugin="maildir", models=["mails"]),
    }
    world = World(tmp_path / "keeperd.db", notifiers)
    world.event("opened")
    world.event("step")
    world.event("drift", model="mails")
    world.push()
    found = [(one.notifier, one.kind, one.model) for one in world.all()]
    assert found == [("all", "opened", "tickets"), ("all", "drift", "mails"), ("other", "drift", "mails")]


def test_a_thousand_equal_events_are_two_messages(world: World) -> None:
    first = world.event("failed")
    world.push()
    with world.store.transaction():
        rest = [world.event("failed", minutes(i / 1000)) for i in range(1, 1200)]
    for tick in range(1, 30):
        world.push(minutes(1 + tick))
    assert len(world.runs.sent) == 2
    assert world.told() == [first, *rest]
    assert world.runs.sent[1]["event"]["times"] == 1199
    assert world.runs.sent[1]["event"]["id"] == rest[-1]


def test_equal_events_that_go_on_are_told_every_ten_minutes(world: World) -> None:
    events = []
    for minute in range(60):
        world.now = minutes(minute)
        events.append(world.event())
        world.push()
    world.push(minutes(120))
    assert world.told() == events
    assert len(world.runs.sent) <= 8


def test_different_kinds_and_models_are_not_grouped(world: World) -> None:
    world.event("drift")
    world.event("promoted")
    world.event("drift", model="mails")
    world.push()
    assert len(world.all()) == 3


def test_failures_are_retried_ever_more_slowly(world: World) -> None:
    world.event()
    world.runs.answer = lambda inputs: REFUSED
    waits = []
    for _ in range(10):
        world.push()
        (one,) = world.all()
        assert one.state == "pending"
        waits.append((one.next_at - world.now).total_seconds())
        world.push(one.next_at - timedelta(seconds=1))
        assert len(world.runs.inputs) == len(waits), "tried before its time"
        world.now = one.next_at
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    world.runs.answer = lambda inputs: "at last"
    world.push()
    (one,) = world.all()
    assert (one.state, one.attempts) == ("sent", 10)
    assert len({inputs["message_id"] for inputs in world.runs.inputs}) == 1, "retries are the same message"


def test_three_days_without_a_server_lose_nothing(world: World) -> None:
    world.runs.answer = lambda inputs: REFUSED
    events = []
    for minute in range(0, 3 * 24 * 60, 20):
        world.now = minutes(minute)
        events.append(world.event())
        world.push()
    world.runs.answer = lambda inputs: "inbox"
    for minute in range(0, 180, 5):
        world.push(minutes(3 * 24 * 60 + minute))
    assert world.told() == events
    assert len(world.runs.sent) == 1, "what gathers meanwhile is one message"


def test_a_group_that_grew_is_another_message(world: World) -> None:
    world.event()
    world.runs.answer = lambda inputs: REFUSED
    world.push()
    before = world.all()[0].message_id
    world.event()
    world.push(world.all()[0].next_at)
    assert world.all()[0].message_id != before
    assert len(world.all()) == 1


def test_a_message_is_given_up_after_its_time(world: World) -> None:
    world.event()
    world.runs.answer = lambda inputs: REFUSED
    world.push()
    for _ in range(300):
        (one,) = world.all()
        if one.state == "expired":
            break
        world.push(one.next_at)
    assert one.state == "expired"
    assert world.now == T0 + timedelta(days=7), "the last attempt is at the very end"
    assert "connection refused" in str(one.result)
    calls = len(world.runs.inputs)
    world.push(minutes(100_000))
    assert len(world.runs.inputs) == calls


def test_a_clock_that_jumps_ahead_expires_nothing_untried(world: World) -> None:
    world.event()
    world.push(T0 + timedelta(days=30))
    assert [one.state for one in world.all()] == ["sent"]


def test_a_clock_that_was_set_back_holds_nothing_up(world: World) -> None:
    world.event(at=minutes(180))
    world.push(minutes(0))
    assert [one.state for one in world.all()] == ["sent"]


@pytest.mark.parametrize("back", [timedelta(hours=2), timedelta(days=40)])
def test_a_failed_message_is_tried_again_after_the_clock_was_set_back(world: World, back: timedelta) -> None:
    world.event()
    world.runs.answer = lambda inputs: REFUSED
    world.push()
    world.runs.answer = lambda inputs: "inbox"
    world.push(T0 - back)
    assert [one.state for one in world.all()] == ["sent"]


def test_what_cannot_be_helped_is_given_up_at_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.event()
    world.runs.answer = lambda inputs: RunFailedError("535: login refused", retry=False)
    with caplog.at_level(logging.ERROR):
        world.push()
    (one,) = world.all()
    assert (one.state, one.result) == ("expired", "535: login refused")
    assert "given up: 535" in caplog.text


def test_a_notifier_sends_one_message_at_a_time(tmp_path: Path) -> None:
    world = World(tmp_path / "keeperd.db", {"a": Notify(plugin="smtp"), "b": Notify(plugin="maildir")})
    world.runs.answer = lambda inputs: None
    for kind in ("drift", "promoted", "failed"):
        world.event(kind)
    world.push()
    world.push()
    assert sorted((one.notifier, one.state) for one in world.all()) == [
        *[("a", "pending")] * 2, ("a", "sending"), *[("b", "pending")] * 2, ("b", "sending"),
    ]  # fmt: skip
    world.runs.answer = lambda inputs: "inbox"
    for _ in range(4):
        world.push()
    assert {one.state for one in world.all()} == {"sent"}


def test_one_dead_notifier_does_not_hold_up_the_other(tmp_path: Path) -> None:
    world = World(tmp_path / "keeperd.db", {"a": Notify(plugin="smtp"), "b": Notify(plugin="maildir")})
    world.runs.answer = lambda inputs: REFUSED if inputs["notifier"] == "a" else "inbox"
    world.event()
    world.push()
    assert [(one.notifier, one.state) for one in world.all()] == [("a", "pending"), ("b", "sent")]
    assert world.all()[0].message_id != world.all()[1].message_id


def test_a_group_does_not_grow_while_it_is_sent(world: World) -> None:
    first = world.event()
    world.runs.answer = lambda inputs: None
    world.push()
    second = world.event()
    world.push()
    assert [one.events for one in world.all()] == [(first,), (second,)]
    assert {tuple(inputs["event"]["first_at"] for inputs in world.runs.inputs)} == {(T0.isoformat(),) * 2}


def test_after_a_crash_the_same_attempt_goes_on(world: World) -> None:
    world.event()
    world.runs.answer = lambda inputs: None
    world.push()
    world.store.close()
    world.open()
    world.runs.answer = lambda inputs: "inbox"
    world.push()
    assert [one.state for one in world.all()] == ["sent"]
    assert len(set(world.runs.serials)) == 1


def test_planning_is_all_or_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.event("drift")
    world.event("promoted")

    def power_cut(event: int) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(world.ledger, "set_planned", power_cut)
        with pytest.raises(OSError, match="power cut"):
            world.push()
    assert world.all() == []
    world.push()
    world.push()
    assert sorted(world.told()) == [1, 2]


def test_a_notifier_that_was_removed_takes_its_messages_with_it(world: World) -> None:
    world.event()
    world.runs.answer = lambda inputs: REFUSED
    world.push()
    world.notifiers = {}
    world.event()
    world.push(minutes(30))
    (one,) = world.all()
    assert (one.state, one.result) == ("expired", "notifier 'mail' is no longer configured")


def test_message_ids_are_made_for_mail() -> None:
    made = outbox.message_id("mail", (12,), "Büro 7\r\nBcc: x")
    assert made.startswith("12.")
    assert made.endswith("@keeperd.b-ro-7--bcc--x")
    assert outbox.message_id("mail", (12,), "").endswith("@keeperd.localhost")
    assert made != outbox.message_id("mail", (12, 13), "Büro 7\r\nBcc: x")


@pytest.mark.parametrize("seed", range(8))
def test_every_event_ends_in_one_delivery_that_was_sent_or_expired(world: World, seed: int) -> None:
    rng = random.Random(seed)

    def moody(inputs: Mapping[str, Any]) -> Reply:
        return rng.choice([None, "inbox", REFUSED, REFUSED, RunFailedError("no", retry=rng.random() < 0.7)])

    world.runs.answer = moody
    events = []
    for _ in range(60):
        world.now += timedelta(seconds=rng.expovariate(1 / 200))
        with world.store.transaction():
            events += [
                world.event(rng.choice(["drift", "failed", "alert"])) for _ in range(rng.randint(0, 3))
            ]
        world.push()
        if rng.random() < 0.1:
            world.store.close()
            world.open()
    world.runs.answer = lambda inputs: "inbox"
    for _ in range(80):
        world.push(world.now + timedelta(minutes=15))
    assert {one.state for one in world.all()} <= {"sent", "expired"}
    assert sorted(event for one in world.all() for event in one.events) == events


def test_the_outbox_is_light() -> None:
    heavy = "{'jinja2', 'matplotlib', 'numpy', 'css_inline', 'smtplib', 'keeperd.report'}"
    code = f"import sys, keeperd.outbox; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
