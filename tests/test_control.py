"""The control socket: a real server on a real socket, over a real ledger."""

from __future__ import annotations

import json
import os
import resource
import socket
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from keeperd import config, connection, unix, views
from keeperd.api import BadInputError, KeeperdError
from keeperd.client import Client, UnreachableError
from keeperd.clock import SystemClock
from keeperd.control import ControlError, ControlServer
from keeperd.desk import LedgerDesk, RefusedError
from keeperd.store import Store, open_readonly
from keeperd.views import NotInLedgerError
from tests import made_state


@dataclass
class Served:
    """A server with everything around it."""

    client: Client
    server: ControlServer
    store: Store
    woken: list[bool] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.client.path

    def events(self) -> list[dict[str, Any]]:
        with open_readonly(self.store.path) as ledger:
            return [
                views.event(ledger.db, row["id"])
                for row in ledger.db.execute("SELECT id FROM events ORDER BY id")
            ]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    state = made_state.make(tmp_path)
    store = Store(state.paths.database)
    woken: list[bool] = []
    desk = LedgerDesk(
        store,
        SystemClock(),
        config.load(state.config),
        wake=lambda: woken.append(True),
        reread=lambda: ["keeperd.toml: model.reviews.bse: unknown key"],
    )
    server = ControlServer(desk, state.paths.socket)
    server.start()
    yield Served(Client(state.paths.socket), server, store, woken)
    server.stop()
    store.close()


def raw(path: Path, data: bytes) -> bytes:
    """Send bytes as they are; all that comes back until the end."""
    with unix.connect(path, 20) as connected:
        connected.sendall(data)
        answer = b""
        while piece := connected.recv(65536):
            answer += piece
    return answer


def post(path: Path, page: str, body: bytes, more: bytes = b"") -> bytes:
    head = f"POST {page} HTTP/1.1\r\nhost: keeperd\r\ncontent-length: {len(body)}\r\n".encode()
    return raw(path, head + more + b"\r\n" + body)


# --- what it does ---------------------------------------------------------------------------------


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


# --- who may ask, and what it may cost ------------------------------------------------------------


def test_mode_and_stale_socket(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    old_mask = os.umask(0o077)
    try:
        unix.listen(path).close()  # nobody listens any more, the file stays
        listener = unix.listen(path)
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert Client(path).is_up()
    assert [entry.name for entry in tmp_path.iterdir()] == ["control.sock"]
    listener.close()
    assert not Client(path).is_up()


def test_a_long_path_works(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    with unix.listen(folder / "control.sock"):
        assert Client(folder / "control.sock").is_up()


def test_no_place_for_the_socket(tmp_path: Path) -> None:
    store = Store(tmp_path / "keeperd.db")
    desk = LedgerDesk(store, SystemClock(), config.Settings())
    with pytest.raises(ControlError, match="cannot listen there: No such file"):
        ControlServer(desk, tmp_path / "no" / "control.sock").start()
    store.close()


def test_bodies_are_bounded_and_checked(served: Served) -> None:
    assert b" 413 " in post(served.path, "/trigger", b"x" * (64 * 1024 + 1))
    for body in (
        b"[" * 60_000,
        b"",
        b"null",
        b'{"model": NaN}',
        b'{"model": "reviews", "oops": 1}',
        b"\xff\xfe",
        b'{"model": 5}',
    ):
        answer = post(served.path, "/pause", body)
        assert b" 400 " in answer
        assert len(json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"].splitlines()) == 1
    assert served.store.model("reviews")["paused"] is None


def test_other_methods_and_garbage(served: Served) -> None:
    assert b" 405 " in raw(served.path, b"GET /trigger HTTP/1.1\r\nhost: k\r\n\r\n")
    assert b" 400 " in raw(served.path, b"\x00\x01\x02 nonsense\r\n\r\n")
    assert b" 400 " in raw(served.path, b"GET /status HTTP/1.1\r\nhost: k\r\nx: " + b"y" * 20_000)
    assert served.client.get("/status")["models"]


def test_one_request_a_connection(served: Served) -> None:
    twice = b"GET /why/1 HTTP/1.1\r\nhost: k\r\n\r\n" * 2
    assert raw(served.path, twice).count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize(
    "start", [b"", b"POST /trigger HTTP/1.1\r\nhost: k\r\ncontent-length: 1073741824\r\n\r\n"]
)
def test_a_gigabyte_is_cut_off(served: Served, start: bytes) -> None:
    """As one line without an end, and as one body: the server reads a little and hangs up."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sent, piece = 0, b"x" * 65536
    with unix.connect(served.path, 20) as client:
        client.sendall(start)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while sent < 2**30:
                sent += client.send(piece)
    assert sent < 8 * 2**20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024
    assert served.client.is_up()


def test_a_thousand_idle_clients(served: Served) -> None:
    """They are dropped, oldest first; whoever asks is answered all the while."""
    idle: list[socket.socket] = []
    try:
        for number in range(1000):
            idle.append(unix.connect(served.path, 20))
            if number % 250 == 249:
                assert served.client.get("/status")["models"]
        open_ends = sum(_is_open(one) for one in idle)
        assert open_ends <= connection.MAX_CONNECTIONS
        assert _is_open(idle[-1])
    finally:
        for one in idle:
            one.close()


def _is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def test_who_does_not_ask_is_dropped(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ASK_SECONDS", 0.05)
    assert raw(served.path, b"POST /trigger HTTP/1.1\r\nhost: k\r\ncontent-length: 10\r\n\r\n12345") == b""
    assert raw(served.path, b"") == b""


def test_clients_at_once_are_all_answered(served: Served) -> None:
    numbers: list[int] = []
    threads = [
        threading.Thread(target=lambda: numbers.append(served.client.trigger("reviews", "manual", "")))
        for _ in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(numbers) == 30
    assert len(set(numbers)) == 1  # one of its kind waits, all others are the same
    assert len(served.store.pending_triggers("reviews")) == 1


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
        assert not _is_open(one)
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
