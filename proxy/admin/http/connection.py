"""The connection of one client: requests and their answers, one after another, each within a deadline."""

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
"""Bytes of one piece of an answer. Each piece that the kernel accepts shows that the client still reads."""
_NOWHERE: Final = logging.getLogger("kubemux.uvicorn")
"""uvicorn would log every bad request, and any client can send many. `log` gets the failures of the app."""
_NOWHERE.setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The deadlines of a connection, in seconds.

    `request`: from the start of the connection, or from the last answer, until the next request is complete.
    `answer`: from the request until the client has received the answer. An order may take longer, because the
    daemon carries it out in any case; for an order, this time begins with its answer.
    """

    request: float = 10.0
    answer: float = 10.0


class Owner(Protocol):
    """Counts connections, and closes one if a new one needs its place (`proxy.admin.http.serving`)."""

    def opened(self, client: Connection) -> None:
        """A client has connected."""

    def progressed(self, client: Connection) -> None:
        """The client has received an answer, or a piece of one."""

    def ordering(self, client: Connection) -> None:
        """The client's order is being carried out. It must not be closed before it has progressed."""

    def ended(self, client: Connection) -> None:
        """The connection is lost, and nothing works on its last request any more."""


class Connection(H11Protocol):
    """uvicorn's protocol, with deadlines, backpressure and strict requests."""

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
        """`loop` is what uvicorn starts its tasks and timers with."""
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
        """Whether a request is being answered."""
        cycle: RequestResponseCycle | None = self.cycle  # None before the first
        return cycle is not None and not cycle.response_complete

    # ------------------------------------------------------------------------------- what the loop calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(Lingering(transport, lambda: self.conn.is_read))
        # With these limits `drain` returns when the kernel has all bytes. `high` is not 0, because under TLS
        # asyncio and uvloop pause at `size >= high`, also with an empty buffer.
        transport.set_write_buffer_limits(high=1, low=0)
        self._await_request()
        self._owner.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel a request that only reads. An order goes on."""
        self._is_lost = True
        self._unset_keepalive_if_required()
        self.transport.forget()
        super().connection_lost(exc)
        if self._task is None:
            self._owner.ended(self)
        elif self.scope["method"] in ("GET", "HEAD"):
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse. uvicorn's own stops the timer at each byte; here a request must arrive in full in time."""
        if not self.transport.is_lingering:
            self.conn.receive_data(data)
            self.handle_events()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's returns None
        """Whether to keep the connection: a client may end its side and wait for an answer (`nc -N`)."""
        self._has_ended = True
        return self.is_busy and self.scheme == "http" and not self.transport.is_lingering

    def resume_writing(self) -> None:
        """The kernel has accepted everything, so the client reads."""
        super().resume_writing()
        self._owner.progressed(self)

    # --------------------------------------------------------------------------------- what uvicorn calls

    def handle_events(self) -> None:
        """Handle the events of the bytes that have arrived."""
        self.server_state.default_headers = always()
        super().handle_events()

    def send_400_response(self, msg: str) -> None:
        """Refuse the request, and end the connection."""
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
        """Wait for the next request, unless uvicorn has found one that had arrived already."""
        super().on_response_complete()
        if self.is_busy:
            return
        if self._has_ended:
            self.transport.close()
        elif not self.transport.is_closing():
            self._await_request()
            self._owner.progressed(self)

    def timeout_keep_alive_handler(self) -> None:
        """No request has arrived in time."""
        self.transport.abort()

    # --------------------------------------------------------------------------------------------- our own

    def _await_request(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self._deadlines.request, self.timeout_keep_alive_handler
        )

    def abort(self) -> None:
        """End the connection at once."""
        if self.is_busy:
            self.cycle.disconnected = True
        self.transport.abort()

    def finish(self) -> None:
        """End the connection as soon as its request is answered."""
        if self.is_busy:
            self.cycle.keep_alive = False
        elif not self.transport.is_lingering:
            self.transport.abort()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app (ASGI), within the deadline."""
        if self._is_lost or self.conn.refusal:
            return
        cycle = self.cycle
        is_order = scope["method"] not in ("GET", "HEAD")
        scope["asgi"]["spec_version"] = "2.4"  # `_paced` raises OSError if the client has disconnected
        if is_order:
            self._owner.ordering(self)
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
            self._owner.ended(self)

    def _paced(self, send: Send, deadline: asyncio.Timeout) -> Send:
        """`send` in pieces, with backpressure: a piece is sent when the kernel has taken the one before.

        The end of the answer is sent when the kernel has all of it. Only then does uvicorn read the next
        request, and only then does the time for that one begin.
        """
        cycle = self.cycle

        async def paced(message: Message) -> None:
            if message["type"] == "http.response.start":
                if deadline.when() is None:  # an order, which was carried out
                    deadline.reschedule(asyncio.get_running_loop().time() + self._deadlines.answer)
                self._owner.progressed(self)
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
