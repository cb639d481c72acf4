"""The control socket: the desk over HTTP on a Unix socket, in a thread of the daemon.

File permissions (0660) decide who may ask, the kernel says who did. Whatever a client does, it
costs a bounded amount: 64 connections, one request each, 16 KiB of header, 64 KiB of body, five
seconds to ask and a minute in all; when all connections are taken, the oldest that has not asked
yet gives way.

    GET /status  /timeline/MODEL  /why/CYCLE
    POST /trigger  /rollback  /pause  /resume  /approve  /reject  /reload     (JSON in, JSON out)

An error is {"error": "one line"}: 400 bad request, 404 not known, 409 makes no sense now, 413 too
large, 503 the ledger is busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from keeperd import unix
from keeperd.api import JSON, KeeperdError
from keeperd.config import NAME, explain
from keeperd.connection import MAX_HEADER, Connection
from keeperd.desk import ANSWERS, WHY_LENGTH, OpenDesk, RefusedError
from keeperd.store import views
from keeperd.store.views import NotInLedgerError

MAX_BODY = 64 * 1024
"""Bytes of a request's body."""
STOP_SECONDS = 1.0

log = logging.getLogger(__name__)


class ControlError(KeeperdError):
    """The control socket cannot be opened."""


# --- what is asked --------------------------------------------------------------------------------


class _Wish(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _ForModel(_Wish):
    model: str = Field(pattern=f"^{NAME.pattern}$")
    why: str = Field("", max_length=WHY_LENGTH)


class _Trigger(_ForModel):
    kind: str = Field("manual", pattern="^(manual|init)$")


class _Rollback(_ForModel):
    to: int | None = Field(None, ge=1, le=2**31)


class _ForCycle(_Wish):
    cycle: int = Field(ge=1, le=2**31)


WishT = TypeVar("WishT", bound=_Wish)
Handler = Callable[[Request], Awaitable[JSONResponse]]


class _Reply(JSONResponse):
    """One request a connection: nothing that follows is read."""

    def __init__(self, content: JSON, status_code: int = 200, **_: Any) -> None:
        super().__init__(content, status_code, headers={"connection": "close"})


async def _body(request: Request) -> bytes:
    """The request's body, read no further than the limit."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes")
    return bytes(body)


async def _wish(request: Request, shape: type[WishT]) -> WishT:
    body = await _body(request)
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(400, "; ".join(explain(error))[:WHY_LENGTH]) from error


def _refuse(_: Request, error: Exception) -> JSONResponse:
    """An expected error as one line and a status."""
    if isinstance(error, HTTPException):
        return _Reply({"error": str(error.detail)}, error.status_code)
    if isinstance(error, sqlite3.OperationalError):
        busy = error.sqlite_errorcode in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
        return _Reply({"error": f"ledger: {error}" + ("; try again" if busy else "")}, 503 if busy else 500)
    status = 404 if isinstance(error, NotInLedgerError) else 409 if isinstance(error, RefusedError) else 500
    return _Reply({"error": str(error)}, status)


# --- routes ---------------------------------------------------------------------------------------


class _Routes:
    """The handlers. What touches the ledger runs in a thread, so that no client waits for another."""

    def __init__(self, desk: OpenDesk) -> None:
        self._desk = desk

    def _signed(self, request: Request) -> OpenDesk:
        uid = request.state.uid
        return self._desk.signed("socket" if uid is None else f"uid {uid}")

    async def status(self, _: Request) -> JSONResponse:
        def read() -> JSON:
            with self._desk.read() as ledger:
                return views.status(ledger.db)

        return _Reply(await run_in_threadpool(read))

    async def timeline(self, request: Request) -> JSONResponse:
        model = request.path_params["model"]
        if not NAME.fullmatch(model):
            raise NotInLedgerError("no model has such a name; see `keeperd status`")

        def read() -> JSON:
            with self._desk.read() as ledger:
                return views.timeline(ledger.db, model)

        return _Reply(await run_in_threadpool(read))

    async def why(self, request: Request) -> JSONResponse:
        def read() -> JSON:
            with self._desk.read() as ledger:
                return views.story(ledger.db, min(request.path_params["cycle"], 2**62))

        return _Reply(await run_in_threadpool(read))

    async def trigger(self, request: Request) -> JSONResponse:
        wish, desk = await _wish(request, _Trigger), self._signed(request)
        return _Reply({"trigger": await run_in_threadpool(desk.trigger, wish.model, wish.kind, wish.why)})

    async def rollback(self, request: Request) -> JSONResponse:
        wish, desk = await _wish(request, _Rollback), self._signed(request)
        return _Reply(
            {"trigger": await run_in_threadpool(desk.trigger, wish.model, "rollback", wish.why, wish.to)}
        )

    async def pause(self, request: Request) -> JSONResponse:
        wish, desk = await _wish(request, _ForModel), self._signed(request)
        await run_in_threadpool(desk.pause, wish.model, wish.why)
        return _Reply({})

    async def resume(self, request: Request) -> JSONResponse:
        wish, desk = await _wish(request, _ForModel), self._signed(request)
        await run_in_threadpool(desk.resume, wish.model)
        return _Reply({})

    def answer(self, answer: str) -> Handler:
        async def handle(request: Request) -> JSONResponse:
            wish, desk = await _wish(request, _ForCycle), self._signed(request)
            await run_in_threadpool(desk.answer, wish.cycle, answer)
            return _Reply({})

        return handle

    async def reload(self, request: Request) -> JSONResponse:
        await _body(request)
        return _Reply({"errors": await run_in_threadpool(self._signed(request).reload)})


def application(desk: OpenDesk) -> Starlette:
    """The HTTP application over a desk; `request.state.uid` is set by the connection."""
    do = _Routes(desk)
    reads = {"/status": do.status, "/timeline/{model}": do.timeline, "/why/{cycle:int}": do.why}
    writes: dict[str, Handler] = {
        "/trigger": do.trigger, "/rollback": do.rollback, "/pause": do.pause, "/resume": do.resume,
        "/reload": do.reload, **{f"/{answer}": do.answer(answer) for answer in ANSWERS},
    }  # fmt: skip
    return Starlette(
        routes=[
            *(Route(path, handler, methods=["GET"]) for path, handler in reads.items()),
            *(Route(path, handler, methods=["POST"]) for path, handler in writes.items()),
        ],
        exception_handlers={
            HTTPException: _refuse, KeeperdError: _refuse, sqlite3.OperationalError: _refuse,
        },
    )  # fmt: skip


# --- server ---------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    """uvicorn's loop wakes ten times a second to see whether it should end; this one is told."""

    _loop: asyncio.AbstractEventLoop | None = None
    _end: asyncio.Event

    async def main_loop(self) -> None:
        """Wait for `end`."""
        self._end = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if not self.should_exit:
            await self._end.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and only then close: asyncio loses one that it has accepted and
        not yet handed over when its server closes."""
        for listener in sockets or []:
            asyncio.get_running_loop().remove_reader(listener.fileno())
        for _ in range(2):  # handed over, then made
            await asyncio.sleep(0)
        await super().shutdown(sockets)

    def end(self) -> None:
        """Called from another thread."""
        self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._end.set)


class ControlServer:
    """Serves a desk from `start` to `stop`."""

    def __init__(self, desk: OpenDesk, path: Path) -> None:
        self._path = path
        self._server = _Server(
            uvicorn.Config(
                application(desk),
                http=Connection,
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                backlog=unix.BACKLOG,
                timeout_graceful_shutdown=1,
                h11_max_incomplete_event_size=MAX_HEADER,
            )
        )
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen; clients may connect when this returns. The caller holds the state lock.

        Raises:
            ControlError: the socket cannot be made.
        """
        try:
            listener = unix.listen(self._path)
        except OSError as error:
            raise ControlError(f"{self._path}: cannot listen there: {error.strerror or error}") from error
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="control", daemon=True
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True while it serves."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """Answer what has been asked, drop everybody else, remove the socket; within a second."""
        if self._thread is None:
            return
        self._server.end()
        self._path.unlink(missing_ok=True)
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            log.warning("the control socket is still busy; it ends with the daemon")
        self._thread = None
