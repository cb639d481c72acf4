"""The control socket: a real server on a real socket, over a real ledger."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keeperd import config, unix
from keeperd.api import BadInputError, KeeperdError
from keeperd.client import UnreachableError
from keeperd.clock import SystemClock
from keeperd.control import ControlServer
from keeperd.desk import LedgerDesk, RefusedError
from keeperd.store import Store, open_readonly, views
from keeperd.store.views import NotInLedgerError
from tests import made_state
from tests.control_kit import Served, is_open, serve


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serve(tmp_path) as one:
        yield one


def test_pages_are_the_views(served: Served) -> None:
    with open_readonly(served.store.path) as ledger:
        assert served.client.get("/status") == views.status(ledger.db)
        assert served.client.get("/timeline/reviews") == views.timeline(ledger.db, "reviews")
        assert served.client.get("/why/2") == views.story(ledger.db, 2)


def test_a_wish_is_written_with_who_asked(served: Served) -> None:
    number = served.client.trigger("reviews", "manual", "new\x1b[2J season\n<3>")
    [trigger] = served.store.pending_triggers("reviews")
    assert (trigger.id, trigger.kind, trigger.why) == (number, "manual", "new [2J season <3>")
    event = served.events()[-1]
    assert (event["kind"], event["facts"]["by"]) == ("manual", f"uid {os.getuid()}")
    assert event["why"] == f"uid {os.getuid()} asked for: manual (new [2J season <3>)"
    assert served.woken


def test_rollback_pause_resume_and_answers(served: Served) -> None:
    served.client.trigger("reviews", "rollback", "complaints", 1)
    assert served.store.pending_triggers("reviews")[0].target == 1
    served.client.pause("reviews", "holiday")
    assert served.store.model("reviews")["paused"] == "holiday"
    served.client.resume("reviews")
    assert served.store.model("reviews")["paused"] is None
    served.client.answer(4, "approve")
    assert served.store.cycle(4).answer == "approve"
    served.client.answer(4, "reject")
    assert served.store.cycle(4).answer == "reject"
    assert [event["facts"]["wish"] for event in served.events()[-5:]] == [
        "rollback to version 1", "pause", "resume", "approve", "reject",
    ]  # fmt: skip


def test_reload_says_what_is_wrong(served: Served) -> None:
    assert served.client.reload() == ["keeperd.toml: model.reviews.bse: unknown key"]


@pytest.mark.parametrize(
    ("wish", "expected", "says"),
    [
        (lambda c: c.trigger("nobody", "manual", ""), NotInLedgerError, "there are: reviews"),
        (lambda c: c.trigger("../../etc", "manual", ""), BadInputError, "model"),
        (lambda c: c.trigger("reviews", "files", ""), BadInputError, "kind"),
        (lambda c: c.trigger("reviews", "init", ""), RefusedError, "version 2 serves already"),
        (
            lambda c: c.trigger("reviews", "rollback", "", 3),
            NotInLedgerError,
            "version 3 never served; choose one of 1",
        ),
        (lambda c: c.trigger("reviews", "rollback", "", 2), RefusedError, "version 2 serves already"),
        (lambda c: c.resume("reviews"), RefusedError, "is not paused"),
        (lambda c: c.answer(2, "approve"), RefusedError, "is COMPLETED and waits for no answer"),
        (lambda c: c.answer(99, "reject"), NotInLedgerError, "no cycle 99"),
        (lambda c: c.pause("reviews", "x" * 501), BadInputError, "why"),
        (lambda c: c.get("/timeline/nobody"), NotInLedgerError, "no model 'nobody'"),
        (lambda c: c.get("/timeline/..%2f..%2fetc"), NotInLedgerError, ""),
        (lambda c: c.get("/why/99"), NotInLedgerError, "no cycle 99"),
        (lambda c: c.get("/why/99999999999999999999999"), NotInLedgerError, "no cycle"),
        (lambda c: c.get("/elsewhere"), NotInLedgerError, "Not Found"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    served: Served, wish: Any, expected: type[KeeperdError], says: str
) -> None:
    before = len(served.events())
    with pytest.raises(expected) as error:
        wish(served.client)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert len(served.events()) == before


def test_nothing_to_roll_back_to(served: Served) -> None:
    served.store.set_version("reviews", 1, "rejected")
    with pytest.raises(RefusedError, match="no version but 2 ever served"):
        served.client.trigger("reviews", "rollback", "")
    served.store.set_model("reviews", champion=None)
    with pytest.raises(RefusedError, match="no version serves yet"):
        served.client.trigger("reviews", "rollback", "")


def test_only_a_daemon_reloads(tmp_path: Path) -> None:
    state = made_state.make(tmp_path)
    store = Store(state.paths.database)
    with pytest.raises(RefusedError, match="no daemon runs"):
        LedgerDesk(store, SystemClock(), config.load(state.config)).reload()
    store.close()


# --- the end --------------------------------------------------------------------------------------


def test_stop_drops_the_idle_and_removes_the_socket(served: Served) -> None:
    idle = [unix.connect(served.path, 20) for _ in range(10)]
    half = unix.connect(served.path, 20)
    half.sendall(b"POST /trigger HTTP/1.1\r\nhost: k\r\ncontent-length: 10\r\n\r\n12345")
    assert served.client.get("/status")
    assert served.server.alive
    served.server.stop()
    assert not served.server.alive
    assert not served.path.exists()
    assert [one for one in threading.enumerate() if one.name == "control"] == []
    for one in (*idle, half):
        assert not is_open(one)
        one.close()
    assert not served.client.is_up()
    with pytest.raises(UnreachableError, match="the daemon does not answer"):
        served.client.get("/status")
    served.server.stop()  # once more does no harm


def test_stop_right_after_start(tmp_path: Path) -> None:
    state = made_state.make(tmp_path)
    store = Store(state.paths.database)
    server = ControlServer(LedgerDesk(store, SystemClock(), config.load(state.config)), state.paths.socket)
    server.start()
    server.stop()
    assert not server.alive
    assert [one for one in threading.enumerate() if one.name == "control"] == []
    store.close()


def test_a_bug_in_the_desk_is_an_error_not_the_end(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with served.store.transaction():
        served.store._db.execute("DROP TABLE deliveries")
    with pytest.raises(KeeperdError, match="no such table"):
        served.client.get("/status")
    assert served.client.get("/why/1")["model"] == "reviews"
