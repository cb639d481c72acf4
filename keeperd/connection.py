"""One connection to the control socket: who it is, and what it may cost.

uvicorn limits neither the time that a client takes to ask nor how many may sit idle; this does.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from keeperd.unix import peer_uid

MAX_HEADER = 16 * 1024
"""Bytes of a request line and headers that have not come to their end."""
MAX_CONNECTIONS = 64
ASK_SECONDS = 5.0
"""To send a whole request."""
LIFE_SECONDS = 60.0
"""For everything, the answer included."""


class Connection(H11Protocol):
    """A connection with a time limit, which gives way to newer ones while it is idle."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note who it is, start the clock, make room."""
        super().connection_made(transport)
        # uvicorn copies this into the scope of each request: `request.state.uid`.
        self.app_state = {**self.app_state, "uid": peer_uid(transport.get_extra_info("socket"))}
        self._timer = self.loop.call_later(ASK_SECONDS, self._ask_time_is_over)
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """At the end, wait for answers, not for questions."""
        if self.has_asked:
            super().shutdown()
        else:
            self.drop()

    @property
    def has_asked(self) -> bool:
        """True once a whole request has arrived."""
        return self.cycle is not None and not self.cycle.more_body

    def drop(self) -> None:
        """Cut the connection."""
        self.connections.discard(self)
        self.transport.abort()

    def _make_room(self) -> None:
        # `connections` is a set without an order; the timers know who came first.
        if len(self.connections) <= MAX_CONNECTIONS:
            return
        idle = [one for one in self.connections if isinstance(one, Connection) and not one.has_asked]
        min(idle, key=lambda one: one._timer.when() if one._timer else 0.0).drop()

    def _ask_time_is_over(self) -> None:
        if self.has_asked:
            self._timer = self.loop.call_later(LIFE_SECONDS - ASK_SECONDS, self.drop)
        else:
            self.drop()
