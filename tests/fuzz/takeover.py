"""The takeover of a connection from asyncssh, while the gateway sends more after USERAUTH_SUCCESS.

The fuzzer's bytes say what follows USERAUTH_SUCCESS, how it is cut into reads, and when the link takes over
from asyncssh, whose connection is a real one. Each message must be handled either by asyncssh or by the link,
and not by both. Requests are answered once and in order, the end is reported once, and the work in one turn
of the loop is bounded.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import asyncssh
from asyncssh.connection import SSHClientConnection
from asyncssh.encryption import get_encryption
from asyncssh.packet import Boolean, Byte, String, UInt32

from proxy.relay.budget import MemoryBudget
from proxy.ssh import metered
from proxy.ssh.data_plane import Unsupported
from proxy.ssh.metered import Metered
from proxy.ssh.native import incoming
from proxy.ssh.native.native_plane import NativePlane
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.errors import ProtocolError
from proxy.ssh.native.wire.packets import HEADER, OVERHEAD, Opener, Sealer
from proxy.ssh.turns import Turns
from tests.fuzz.border import KEYS, Wire
from tests.fuzz.choices import Choices

DISCONNECT, IGNORE, UNIMPLEMENTED, DEBUG, EXT_INFO, SUCCESS, BANNER = 1, 2, 3, 4, 7, 52, 53
GLOBAL_REQUEST, REQUEST_SUCCESS, REQUEST_FAILURE, UNKNOWN = 80, 81, 82, 192
MOST: Final = metered.TURN + incoming.TURN // incoming.ASYNCSSH_COST
"""Messages that one turn may handle; in the turn of the takeover, asyncssh and the link each have a share."""
FLOOD: Final = 150
_CIPHER: Final = b"aes128-gcm@openssh.com"
QUIET: Final = 2000
"""Turns of the loop after which no more messages follow."""

_OPTIONS: Final = asyncssh.SSHClientConnectionOptions(
    username="x",
    client_keys=None,
    known_hosts=None,
    agent_path=None,
    config=None,
    x509_trusted_certs=None,
    gss_host=None,
)

_BEFORE: Final = (
    Byte(IGNORE) + String(""),
    Byte(DEBUG) + Boolean(True) + String("x") + String(""),
    Byte(UNIMPLEMENTED) + UInt32(1),
)
_PLAIN: Final[tuple[tuple[bytes, int], ...]] = (
    *((message, 0) for message in _BEFORE),
    (Byte(GLOBAL_REQUEST) + String("no-such@example") + Boolean(False), 0),
    (Byte(GLOBAL_REQUEST) + String("no-such@example") + Boolean(True), REQUEST_FAILURE),
    (Byte(GLOBAL_REQUEST) + String("keepalive@openssh.com") + Boolean(True), REQUEST_SUCCESS),
    (Byte(messages.OPEN) + String("no-such") + UInt32(1) * 3, messages.OPEN_FAILURE),
    (Byte(UNKNOWN), UNIMPLEMENTED),
)
"""Messages that an honest gateway may send, each with our answer, if there is one."""
_LAST: Final = (
    Byte(DISCONNECT) + UInt32(2) + String("no") + String(""),
    Byte(messages.DATA) + UInt32(0) + String("x"),
    Byte(messages.WINDOW_ADJUST) + UInt32(7) + UInt32(1),
    Byte(EXT_INFO) + UInt32(0),
    Byte(REQUEST_SUCCESS),
    Byte(SUCCESS),
)
"""Messages that end the connection."""


class _Auth:
    """A login that only waits for USERAUTH_SUCCESS."""

    def auth_succeeded(self) -> None:
        """Called by asyncssh."""

    def cancel(self) -> None:
        """Called by asyncssh."""


class _Client(asyncssh.SSHClient):
    def __init__(self, ends: list[Exception | None]) -> None:
        self._ends = ends

    def connection_lost(self, exc: Exception | None) -> None:
        self._ends.append(exc)


class _Connection(SSHClientConnection):
    """A connection that has exchanged keys; it counts the messages that it handles."""

    def __init__(self, wire: Wire, ends: list[Exception | None]) -> None:
        super().__init__(asyncio.get_running_loop(), _OPTIONS)
        self.handled = 0
        conn = cast("Any", self)
        conn._transport, conn._owner = wire, _Client(ends)
        conn._send_encryption, conn._recv_encryption = (
            get_encryption(_CIPHER, KEYS.key, KEYS.nonce) for _ in range(2)
        )
        conn._recv_macsize, conn._recv_blocksize, conn._send_blocksize, conn._send_enchdrlen = 16, 16, 16, 1
        conn._recv_handler, conn._kex_complete, conn._session_id = conn._recv_pkthdr, True, b"x"
        conn._rekey_bytes, conn._rekey_seconds = 1 << 30, 0
        conn._auth, conn._auth_in_progress, conn._auth_was_trivial = _Auth(), True, False

    def _finish_recv_packet(self, *args: Any, **kwargs: Any) -> None:
        self.handled += 1
        super()._finish_recv_packet(*args, **kwargs)


class Takeover:
    """One connection's login and takeover."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        self._heard: list[int] = []
        """Answers."""
        self._opener = Opener(*KEYS, largest=1 << 16)
        self._wire = Wire(self._hear)
        self._ends: list[Exception | None] = []
        self._losses: list[Exception | None] = []
        self._errors: list[ProtocolError] = []
        self._conn = _Connection(self._wire, self._ends)
        Metered(self._conn)
        self._wire.protocol = self._conn
        self._plane: NativePlane | None = None
        self._budget = MemoryBudget(1 << 20, connections=10)
        self._answers: list[int] = []
        """The answers that an honest gateway must get, in order."""
        self._is_over = False
        """Whether the gateway has sent something that ends the connection."""

    def _hear(self, data: bytes | memoryview) -> None:
        view, start = memoryview(bytearray(data)), 0  # a write has only whole packets
        while opened := self._opener.open(view, start, len(view)):
            first, _, start = opened
            if view[first] not in (IGNORE, DISCONNECT):
                self._heard.append(view[first])
        assert start == len(view)

    def _script(self) -> bytes:
        """All messages of the gateway."""
        choices, said = self._choices, list[bytes]()
        said += [_BEFORE[choices.below(len(_BEFORE))]] * choices.size(FLOOD)
        said.append(Byte(SUCCESS))
        for _ in range(choices.below(5)):
            if choices.below(8) == 0:
                said.append(_LAST[choices.below(len(_LAST))])
                self._is_over = True
            message, answer = _PLAIN[choices.below(len(_PLAIN))]
            times = 1 if not choices.flag() else 1 + choices.size(FLOOD)
            said += [message] * times
            if answer and not self._is_over:
                self._answers += [answer] * times
        sealer, buffer, end = (
            Sealer(*KEYS),
            memoryview(bytearray(sum(len(body) + OVERHEAD for body in said))),
            0,
        )
        for body in said:
            buffer[end + HEADER : end + HEADER + len(body)] = body
            end = sealer.seal(buffer, end, len(body))
        return bytes(buffer[:end])

    async def run(self) -> None:
        """Deliver read by read, and take over when the script says so, after the login."""
        choices, script = self._choices, self._script()
        least = 1 + len(script) // 64
        late, quiet = choices.below(4), 0
        while quiet < QUIET and (quiet < 3 or not self._is_done):
            if script:
                size = least + (choices.below(256) * 256 if choices.flag() else choices.size(1 << 16))
                self._wire.arrived += script[:size]
                script = script[size:]
                self._wire.deliver(1 << 18)
            else:
                quiet += 1
            if cast("Any", self._conn)._auth_complete and self._plane is None and not self._ends:
                late -= 1
                if late < 0:
                    self._take_over()
            handled = self._conn.handled
            await asyncio.sleep(0)
            assert self._conn.handled - handled <= MOST, "too much in one turn"
        self._check()
        await self._end()

    @property
    def _is_done(self) -> bool:
        return bool(self._ends) if self._is_over else self._heard == self._answers and not self._wire.arrived

    def _take_over(self) -> None:
        is_there = cast("Any", self._conn)._transport is not None
        try:
            self._plane = NativePlane(
                self._conn,
                self._budget,
                Turns(),
                on_error=self._errors.append,
                on_lost=self._losses.append,
                on_ended=lambda: None,
            )
        except Unsupported:
            assert not is_there

    def _check(self) -> None:
        assert self._heard == self._answers[: len(self._heard)], "each once, and in order"
        assert len(self._ends) == self._is_over, self._ends
        assert len(self._errors) <= self._is_over, self._errors
        if not self._is_over:
            assert self._heard == self._answers, "nothing is nobody's"

    async def _end(self) -> None:
        """End the connection, and check that nothing is left."""
        if not self._ends:
            self._conn.abort()
        for _ in range(4):
            await asyncio.sleep(0)
        assert len(self._ends) == 1
        assert self._budget.used == 0
