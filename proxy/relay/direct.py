"""`gateway: direct`: a way without SSH, for API servers that this machine can connect to itself."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from typing import Final, cast

from proxy.errors import ChannelRefused, ChannelTimeout
from proxy.relay.interfaces import ChannelUser
from proxy.runtime.blocking import Hangs, Place
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.names import connect, remedy, resolve

CONNECT_TIMEOUT_S: Final = 10.0

_READ: Final = 64 << 10


class TcpChannel(asyncio.Protocol):
    """A TCP connection as a `proxy.relay.interfaces.Channel`, with backpressure in both directions."""

    counts_unsent: Final = False

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._user: ChannelUser | None = None
        self._buffer = memoryview(bytearray(_READ))
        self._early = b""
        self._is_lost = False
        self._had_eof = False

    # --------------------------------------------------------------------------------------- for the relay

    def attach(self, user: ChannelUser) -> None:
        self._user = user
        if self._early:
            user.channel_data([self._early], len(self._early))
            self._early = b""
        if self._had_eof:
            user.channel_eof()
        if self._is_lost:
            asyncio.get_running_loop().call_soon(user.channel_lost, None)
        else:
            self.resume_reading()

    def detach(self, unread: bytes = b"") -> None:
        self._user = None
        self._early = unread + self._early
        self.pause_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        """The same buffer each time: `buffer_updated` copies what is in it."""
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Send a copy: uvloop keeps a reference to what it could not write at once."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(bytes(self._buffer[:nbytes]))

    def write_eof(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def pause_reading(self) -> None:
        """Stop reading. The kernel's receive window fills, and then the API server cannot send more."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Close when all queued bytes are sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # ---------------------------------------------------------------------------------------- for asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        """Pass bytes to the relay, or keep them until `attach`.

        It keeps at most the bytes of one read. uvloop ignores a pause before the first read.
        """
        if self._user is not None:
            self._user.channel_data([data], len(data))
        else:
            self._early += data
            self.pause_reading()

    def eof_received(self) -> bool:
        """Returns True, so that asyncio keeps the other direction open."""
        self._had_eof = True
        if self._user is not None:
            self._user.channel_eof()
        return True

    def pause_writing(self) -> None:
        """The API server does not read: the relay must stop sending."""
        if self._user is not None:
            self._user.channel_full()

    def resume_writing(self) -> None:
        if self._user is not None:
            self._user.channel_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self._is_lost = True
        if self._user is not None:
            self._user.channel_lost(None)


class Direct:
    """A `proxy.relay.interfaces.Way` without SSH, for one cluster or route."""

    def __init__(self, own: Callable[[Endpoint], str | None] = lambda _: None) -> None:
        """`own` returns the key of kubemux's own listener at an address; None if there is none.

        No channel to such a listener is opened: there, every client would have kubemux's own uid.
        """
        self._own = own
        self._names = Place("names of a direct cluster")

    @property
    def is_up(self) -> bool:
        """Always true: there is no link that could be down."""
        return True

    @property
    def is_idle(self) -> bool:
        return False

    @property
    def connect_timeout(self) -> float:
        return CONNECT_TIMEOUT_S

    async def open_channel(
        self,
        target: Endpoint,
        *,
        origin: Endpoint,
        hold_until: float,
        answer_by: float = math.inf,
        is_needed: bool = True,
    ) -> TcpChannel:
        """Connect. There is no link to wait for.

        Raises ChannelRefused, ChannelTimeout.
        """
        del origin, hold_until, is_needed
        seconds = min(CONNECT_TIMEOUT_S, answer_by - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(seconds):
                return await self._connect(target)
        except TimeoutError as exc:
            raise ChannelTimeout(f"no TCP connection to {target} within {seconds:.3g} s") from exc
        except Hangs as exc:
            hint = (
                f"the resolver of this machine does not answer: getent hosts {target.host}; "
                "/etc/resolv.conf names its servers"
            )
            raise ChannelTimeout(f"{target} does not resolve: {exc}", hint=hint) from exc
        except (OSError, UnicodeError) as exc:
            said = (exc.strerror if isinstance(exc, OSError) else None) or exc
            hint = (
                remedy(target.host, exc.errno)
                if isinstance(exc, socket.gaierror)
                else "is it reachable from here?"
            )
            raise ChannelRefused(f"no TCP connection to {target}: {said}", hint=hint) from exc

    async def _connect(self, target: Endpoint) -> TcpChannel:
        """Connect to the first address that answers. Each address gets an equal share of the time.

        Raises OSError, UnicodeError, Hangs.
        """
        addresses = await resolve(*target, self._names, timeout=CONNECT_TIMEOUT_S / 2)
        failure: OSError = TimeoutError()
        for address in addresses:
            if listener := self._own(Endpoint(address.host, target.port)):
                hint = "let the client connect to that address itself"
                raise ChannelRefused(f"{target} is kubemux's own {listener}", hint=hint)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S / 2 / len(addresses)):
                    _, channel = await connect(TcpChannel, address.host, target.port)
            except OSError as exc:
                failure = exc
            else:
                return channel
        raise failure

    def is_given_up(self, patience: float) -> bool:
        del patience
        return False
