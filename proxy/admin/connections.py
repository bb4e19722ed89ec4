"""The client connections of one admin endpoint: few, small, and none without a deadline.

aiohttp bounds the size of what a client sends and the time it may idle; how many there are, and the end of them, is ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

MAX_CONNECTIONS: Final = 64
"""Per endpoint: a few scrapers and people, each with a connection kept alive."""


class Connections(web.Server):
    """The protocol factory of an asyncio server: at most `MAX_CONNECTIONS` at a time, more are reset at once."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], *, idle_timeout: float) -> None:
        """`idle_timeout`: seconds for a request to arrive in full, from the connection's start or the last answer."""
        super().__init__(
            handler,
            access_log=None,
            auto_decompress=False,  # no body is ever read, so none is worth inflating
            keepalive_timeout=idle_timeout,
            lingering_time=0.0,  # a body that is still on its way after the answer ends the connection
            max_field_size=4096,
            max_headers=64,
            max_line_size=4096,
            read_bufsize=1 << 14,
        )
        self._transports: dict[web.RequestHandler, asyncio.Transport] = {}
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    def __len__(self) -> int:
        return len(self._transports)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Count it in, or turn it away."""
        super().connection_made(handler, transport)
        self._transports[handler] = transport
        self._all_closed.clear()
        # An answer then counts as written when the kernel has all of it, so the deadline on writing covers every byte.
        transport.set_write_buffer_limits(high=0)
        if len(self._transports) > MAX_CONNECTIONS:
            # Not at once: the handler's task, which aiohttp starts next, must come before its connection_lost.
            asyncio.get_running_loop().call_soon(transport.abort)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Count it out."""
        super().connection_lost(handler, exc)
        self._transports.pop(handler, None)
        if not self._transports:
            self._all_closed.set()

    async def close(self, *, grace: float) -> None:
        """Close idle connections at once and busy ones after `grace` seconds; none is left when this returns."""
        self.pre_shutdown()
        await self.shutdown(grace)
        for transport in list(self._transports.values()):
            transport.abort()
        await self._all_closed.wait()
