"""A client of an entry that speaks TLS, correctly or not, and a relay above the transport that reads, writes
and pauses at any moment.

The fuzzer's bytes are a script. For every script:

* no error is raised, except to the one who waits for the handshake;
* the relay gets only bytes that the client has sent, and none while it is paused or after the client's end;
* the relay gets `connection_lost` once.

As long as nothing breaks the connection, all bytes and both ends of file arrive.
"""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from proxy.config import server_tls
from proxy.entries.tls_transport import NotTls, TlsTransport
from tests.fuzz.border import ManualLoop
from tests.fuzz.choices import Choices
from tests.support.tls import Authority

MOST_STEPS = 300
MOST_WRITTEN = 70_000
"""Several records, and more than OpenSSL gets at a time."""
ROOM = 20_000


@cache
def server_context() -> ssl.SSLContext:
    with tempfile.TemporaryDirectory() as folder:
        issued = Authority(Path(folder)).issue("entry", dns=("entry.example.com",))
        return server_tls.load(issued.cert, issued.key, None)


@cache
def client_context(version: ssl.TLSVersion) -> ssl.SSLContext:
    """The client does not verify the server: identity is not the subject of this test."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context


class Below(asyncio.Transport):
    """The transport of the socket. `up` is on its way to the entry, `down` to the client."""

    def __init__(self) -> None:
        super().__init__()
        self.up = bytearray()
        self.down = bytearray()
        self.above: TlsTransport | None = None
        self.is_paused = False
        self.is_over = False

    def deliver(self, most: int) -> None:
        assert self.above
        while self.up and most and not (self.is_paused or self.is_over):
            room = self.above.get_buffer(-1)
            size = min(len(room), most, len(self.up))
            room[:size] = self.up[:size]
            del self.up[:size]
            most -= size
            self.above.buffer_updated(size)

    def cut(self) -> None:
        """Report an end of file on the socket, as when the client has gone."""
        if not (self.is_over or self.is_paused) and self.above:
            self.above.eof_received()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_over
        self.down += data

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def close(self) -> None:
        if not self.is_over and self.above:
            self.is_over = True
            asyncio.get_running_loop().call_soon(self.above.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self.is_over


class Relay:
    """The protocol above the transport: what its two kinds have in common."""

    def __init__(self) -> None:
        self.came = bytearray()
        self.is_paused = True
        self.has_ended = False
        self.losses = 0
        self.on_taken: Callable[[], None] | None = None
        """Called at the next bytes, and then removed."""

    def take(self, data: bytes | memoryview) -> None:
        assert data, "the transport does not pass on empty data"
        assert not self.is_paused
        assert not self.has_ended
        assert not self.losses
        self.came += data
        if on_taken := self.on_taken:
            self.on_taken = None
            on_taken()

    def eof_received(self) -> bool:
        assert not self.is_paused
        assert not self.has_ended, "the end is reported once"
        assert not self.losses
        self.has_ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.losses += 1


class Streamed(Relay, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.take(data)


class Buffered(Relay, asyncio.BufferedProtocol):
    def __init__(self) -> None:
        super().__init__()
        self._room = bytearray(ROOM)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return memoryview(self._room)

    def buffer_updated(self, nbytes: int) -> None:
        self.take(memoryview(self._room)[:nbytes])


class Script:
    """One connection, and what the script has done to it."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        self._relay: Streamed | Buffered = Streamed() if choices.flag() else Buffered()
        self._below = Below()
        self._transport = self._below.above = TlsTransport(server_context(), self._relay)
        self._transport.connection_made(self._below)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        version = ssl.TLSVersion.TLSv1_2 if choices.flag() else ssl.TLSVersion.TLSv1_3
        self._client = client_context(version).wrap_bio(self._incoming, self._outgoing)
        self._sent, self._told, self._answered = bytearray(), bytearray(), bytearray()
        self._has_client_ended = self._has_relay_ended = self._has_client_been_ended = False
        self._has_client_failed = False
        self._is_honest = True
        """Whether nothing has broken, cut or closed the connection."""

    async def run(self) -> None:
        if self._choices.flag():
            self._below.up += self._choices.rest()
            self._is_honest = False
            self._below.deliver(1 << 20)
        else:
            await self._shake_hands()
        handshake = self._transport.handshake
        if handshake.done() and not handshake.exception():
            for _ in range(MOST_STEPS):
                if self._choices.is_over:
                    break
                await self._step()
            if self._is_honest:
                await self._finish()
        self._check()
        self._transport.abort()
        await turns()
        if handshake.done():
            assert self._relay.losses == 1
            error = handshake.exception()
            assert error is None or isinstance(error, NotTls | ssl.SSLError | ConnectionResetError)

    async def _shake_hands(self) -> None:
        at_once = 1 + self._choices.size(1000)
        while not self._transport.handshake.done():
            with suppress(ssl.SSLWantReadError):
                self._client.do_handshake()
            self._flush()
            while self._below.up and not self._transport.handshake.done():
                self._below.deliver(at_once)
            self._receive()
        with suppress(ssl.SSLWantReadError):
            self._client.do_handshake()
        self._flush()
        self._transport.resume_reading()
        self._relay.is_paused = False
        await turns()

    async def _step(self) -> None:
        choices = self._choices
        steps = (
            self._client_writes,
            self._client_writes,
            lambda: self._below.deliver(1 + choices.size(MOST_WRITTEN)),
            lambda: self._below.deliver(1 << 20),
            self._pause,
            self._pause_at_the_next,
            self._resume,
            self._relay_writes,
            self._relay_writes,
            self._client_reads,
            self._client_ends,
            self._relay_ends,
            self._break,
        )
        steps[choices.below(len(steps))]()
        if choices.flag():
            await turns()

    def _client_writes(self) -> None:
        data = self._choices.content(self._choices.below(256) * 280)
        if data and not (self._has_client_ended or self._has_client_failed):
            self._client.write(data)
            self._sent += data
            self._flush()

    def _client_ends(self) -> None:
        self._client_reads()  # OpenSSL would read them now, and fail
        if not (self._has_client_ended or self._has_client_failed):
            self._has_client_ended = True
            with suppress(ssl.SSLWantReadError):
                self._client.unwrap()
            self._flush()

    def _client_reads(self) -> None:
        self._receive()
        try:
            while not self._has_client_been_ended:
                data = self._client.read(1 << 16)
                self._answered += data
                self._has_client_been_ended = not data
        except ssl.SSLZeroReturnError:
            self._has_client_been_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:  # the entry's alert
            assert not self._is_honest
            self._has_client_failed = True
        self._flush()

    def _pause(self) -> None:
        self._relay.is_paused = True
        self._transport.pause_reading()

    def _pause_at_the_next(self) -> None:
        """Pause when the next bytes arrive, while OpenSSL may have more of them."""
        self._relay.on_taken = self._pause

    def _resume(self) -> None:
        self._relay.is_paused = False
        self._transport.resume_reading()

    def _relay_writes(self) -> None:
        data = self._choices.content(self._choices.below(256) * 280)
        if not self._has_relay_ended and not self._transport.is_closing():
            self._transport.write(data)
            self._told += data

    def _relay_ends(self) -> None:
        if not self._has_relay_ended and not self._transport.is_closing():
            self._has_relay_ended = True
            self._transport.write_eof()

    def _break(self) -> None:
        """Break the connection in one of several ways. Mostly does nothing, because a broken connection
        delivers nothing more.
        """
        how = self._choices.below(16)
        self._is_honest &= how > 4 or (how == 1 and not self._below.up)
        if how == 0:
            self._below.cut()
        elif how == 1 and self._below.up:
            self._below.up[self._choices.below(256) % len(self._below.up)] ^= 1 + self._choices.below(255)
        elif how == 2:
            self._transport.close()
        elif how == 3:
            self._transport.abort()
        elif how == 4:
            self._below.up += self._choices.content(self._choices.below(64))

    async def _finish(self) -> None:
        """Let all bytes arrive, and check them."""
        self._relay.on_taken = None
        self._resume()
        await turns()
        self._below.deliver(1 << 30)
        await turns()
        assert not self._below.up, "a relay that takes everything is not paused"
        self._client_reads()
        assert self._relay.came == self._sent
        assert self._relay.has_ended == self._has_client_ended
        assert self._answered == self._told
        assert self._has_client_been_ended == self._has_relay_ended
        assert not self._relay.losses

    def _check(self) -> None:
        assert self._sent.startswith(self._relay.came), "the relay got a byte that the client did not send"
        assert self._told.startswith(self._answered)
        assert not self._relay.has_ended or self._has_client_ended

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._below.up += data

    def _receive(self) -> None:
        if self._below.down:
            self._incoming.write(bytes(self._below.down))
            self._below.down.clear()


async def turns() -> None:
    """Let the loop run the callbacks that are scheduled."""
    for _ in range(4):
        await asyncio.sleep(0)


def run(data: bytes) -> None:
    """Run one input. Raises if a rule is broken."""
    loop = ManualLoop()
    try:
        loop.run_until_complete(_live(data))
    finally:
        loop.close()
    if loop.unhandled:
        raise AssertionError(loop.unhandled)


async def _live(data: bytes) -> None:
    await Script(Choices(data)).run()
