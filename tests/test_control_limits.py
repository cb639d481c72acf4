"""Who may ask at the control socket, and what a client can cost at the most."""

from __future__ import annotations

import json
import os
import resource
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from keeperd import config, connection, unix
from keeperd.client import Client
from keeperd.clock import SystemClock
from keeperd.control import ControlError, ControlServer
from keeperd.desk import LedgerDesk
from keeperd.store import Store
from tests.control_kit import Served, is_open, post, raw, serve


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serve(tmp_path) as one:
        yield one


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
        open_ends = sum(is_open(one) for one in idle)
        assert open_ends <= connection.MAX_CONNECTIONS
        assert is_open(idle[-1])
    finally:
        for one in idle:
            one.close()


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
