"""A control socket with everything around it, and ways to misuse it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeperd import config, unix
from keeperd.client import Client
from keeperd.clock import SystemClock
from keeperd.control import ControlServer
from keeperd.desk import LedgerDesk
from keeperd.store import Store, open_readonly, views
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


@contextmanager
def serve(tmp_path: Path) -> Iterator[Served]:
    """A server over a made state."""
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
    try:
        yield Served(Client(state.paths.socket), server, store, woken)
    finally:
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


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
