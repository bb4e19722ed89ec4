"""One client: requests in, answers out, one after another, none without a deadline."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final, Protocol

import h11
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import ServerState

from proxy.admin.http.answers import CLOSE, always, refusal
from proxy.admin.http.lingering import Lingering
from proxy.admin.http.requests import Requests

log = structlog.get_logger("kubemux.admin")

_PIECE: Final = 64 * 1024
"""Bytes of an answer at a time: that a client takes them tells that it reads at all."""
_NOWHERE: Final = logging.getLogger("kubemux.uvicorn")
"""uvicorn logs every bad request, and anyone may send many. Failures of the app are logged here."""
_NOWHERE.setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class Deadlines:
    """In seconds. `request`: for a request to arrive in full, from the connection's start or the last answer.

    `answer`: for an answer to be made and to be taken by the client. Only that to an order may be made for
    longer, since the daemon is at it in any case.
    """

    request: float = 10.0
    answer: float = 10.0


class Owner(Protocol):
    """Who is told how a connection fares: `proxy.admin.http.serving`."""

    def made(self, client: Connection) -> None:
        """It has begun."""

    def moved(self, client: Connection) -> None:
        """It has asked, or taken something of its answer."""

    def ordered(self, client: Connection) -> None:
        """Its order is being carried out, and it must not be ended until it has moved."""

    def over(self, client: Connection) -> None:
        """It is lost, and nothing is being done for it."""


class Connection(H11Protocol):
    """uvicorn's protocol, stricter with the client."""

    conn: Requests
    transport: Lingering

    def __init__(
        self,
        app: ASGIApp,
        config: Config,
        state: ServerState,
        owner: Owner,
        deadlines: Deadlines,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`loop` starts uvicorn's tasks and timers."""
        super().__init__(config, state, {}, _loop=loop)
        self._app = app
        self._owner = owner
        self._deadlines = deadlines
        self._task: asyncio.Task[None] | None = None
        self._is_lost = False
        self._has_ended = False
        self.conn = Requests()
        self.app = self._answer
        self.logger = _NOWHERE
        self.access_log = False

    @property
    def is_busy(self) -> bool:
        """Whether a request waits for its answer."""
        cycle: RequestResponseCycle | None = self.cycle  # None before the first
        return cycle is not None and not cycle.response_complete

    # ------------------------------------------------------------------------------- what the loop calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(Lingering(transport, lambda: self.conn.is_read))
        # A piece then counts as sent when the kernel has all of it. Not 0: under TLS, asyncio and uvloop
        # pause at `size >= high`, with an empty buffer too.
        transport.set_write_buffer_limits(high=1, low=0)
        self._await_request()
        self._owner.made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """An order goes on; what only reads is given up."""
        self._is_lost = True
        self._unset_keepalive_if_required()
        self.transport.forget()
        super().connection_lost(exc)
        if self._task is None:
            self._owner.over(self)
        elif self.scope["method"] in ("GET", "HEAD"):
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Unlike uvicorn's, it leaves the timer alone: a head that comes byte by byte has no more time."""
        if not self.transport.is_lingering:
            self.conn.receive_data(data)
            self.handle_events()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's may return whether to go on
        """A client may end its side after a request, and still read (`nc -N`). Not under TLS."""
        self._has_ended = True
        return self.is_busy and self.scheme == "http" and not self.transport.is_lingering

    def resume_writing(self) -> None:
        """The client has taken a piece."""
        super().resume_writing()
        self._owner.moved(self)

    # --------------------------------------------------------------------------------- what uvicorn calls

    def handle_events(self) -> None:
        """Take what has come."""
        self.server_state.default_headers = always()
        super().handle_events()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, or too long, and end the connection."""
        error = self.conn.refusal or h11.RemoteProtocolError(msg)
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # in the middle of an answer
            self.abort()
            return
        if self.is_busy:
            self.cycle.disconnected = True
        for event in refusal(error):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def on_response_complete(self) -> None:
        """Wait for the next request, or take the one that is here already."""
        super().on_response_complete()
        if self.is_busy:
            return
        if self._has_ended:
            self.transport.close()
        elif not self.transport.is_closing():
            self._await_request()
            self._owner.moved(self)

    def timeout_keep_alive_handler(self) -> None:
        """No request came in time."""
        self.transport.abort()

    # --------------------------------------------------------------------------------------------- our own

    def _await_request(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self._deadlines.request, self.timeout_keep_alive_handler
        )

    def abort(self) -> None:
        """End it at once."""
        if self.is_busy:
            self.cycle.disconnected = True
        self.transport.abort()

    def finish(self) -> None:
        """End it when it has its answer."""
        if self.is_busy:
            self.cycle.keep_alive = False
        elif not self.transport.is_lingering:
            self.transport.abort()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: let the app answer, within the deadline."""
        if self._is_lost or self.conn.refusal:
            return
        cycle = self.cycle
        is_order = scope["method"] not in ("GET", "HEAD")
        scope["asgi"]["spec_version"] = "2.4"  # `_paced` raises OSError once the client has gone
        if is_order:
            self._owner.ordered(self)
        self._task = asyncio.current_task()
        deadline = asyncio.timeout(None if is_order else self._deadlines.answer)
        try:
            async with deadline:
                await self._app(scope, receive, self._paced(send, deadline))
        except asyncio.CancelledError:
            self.abort()
            raise
        except Exception:
            if deadline.expired() or cycle.disconnected:
                self.abort()
            else:
                log.exception("admin request failed", method=scope["method"], path=scope["path"])
        finally:
            self._answered()

    def _answered(self) -> None:
        self._task = None
        if self._is_lost:
            self._owner.over(self)

    def _paced(self, send: Send, deadline: asyncio.Timeout) -> Send:
        """`send` in pieces, each when the kernel has the one before. The end comes when it has them all:
        only then uvicorn takes the next request, and its time begins.
        """
        cycle = self.cycle

        async def paced(message: Message) -> None:
            if message["type"] == "http.response.start":
                if deadline.when() is None:  # an order was carried out
                    deadline.reschedule(asyncio.get_running_loop().time() + self._deadlines.answer)
                self._owner.moved(self)
                if not self.conn.is_read:  # the rest of the request is not waited for
                    message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
                await send(message)
            else:
                body = message.get("body", b"")
                for start in range(0, len(body), _PIECE):
                    piece = bytes(body[start : start + _PIECE])
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    await self.flow.drain()
                if not message.get("more_body", False):
                    await send({"type": "http.response.body"})
            if cycle.disconnected:
                raise ClientDisconnected

        return paced
