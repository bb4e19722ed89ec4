"""An SSH server that floods its client with messages, before or after the login.

`rogue` runs it as a gateway in its own process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import asyncssh
from asyncssh.packet import Boolean, Byte, SSHPacket, String, UInt32

from proxy.ssh.native.handover import _keys
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.packets import HEADER, OVERHEAD
from tests.support.other_servers import Connections

IGNORE, UNIMPLEMENTED, DEBUG, BANNER, GLOBAL_REQUEST, REQUEST_FAILURE = 2, 3, 4, 53, 80, 82
THEIRS: Final = 7
"""The server's number for every channel."""
AT_ONCE: Final = 1000
UNSENT: Final = 4 << 20
POLL_S: Final = 0.001

FLOODS: Final[Mapping[str, bytes]] = {
    "ignores": Byte(IGNORE) + String(""),
    "debugs": Byte(DEBUG) + Boolean(True) + String("x") + String(""),
    "unimplemented": Byte(UNIMPLEMENTED) + UInt32(1),
    "unknown messages": Byte(192),
    "global requests": Byte(GLOBAL_REQUEST) + String("no-such@example") + Boolean(True),
    "keepalives": Byte(GLOBAL_REQUEST) + String("keepalive@openssh.com") + Boolean(True),
    "opens": Byte(messages.OPEN) + String("forwarded-tcpip") + UInt32(1) * 3 + (String("x") + UInt32(1)) * 2,
}
"""Messages that concern the whole connection."""

CHANNEL_FLOODS: Final[Mapping[str, Callable[[int], bytes]]] = {
    "channel requests": lambda number: (
        Byte(messages.REQUEST) + UInt32(number) + String("keepalive@openssh.com") + Boolean(True)
    ),
    "credit": lambda number: Byte(messages.WINDOW_ADJUST) + UInt32(number) + UInt32(1),
    "data of no bytes": lambda number: Byte(messages.DATA) + UInt32(number) + String(""),
}
"""Messages for the first channel that the client opens, made from the client's number for it."""

LOGIN_FLOODS: Final[Mapping[str, bytes]] = {
    **{name: FLOODS[name] for name in ("ignores", "debugs", "unimplemented")},
    "banners": Byte(BANNER) + String("x") + String(""),
}
"""Messages that the server sends instead of an answer to the login."""


class Flooding(asyncssh.SSHServer):
    """The server's side of one connection: it floods the client as early as the protocol allows."""

    def __init__(
        self,
        conns: Connections,
        flood: str,
        count: int,
        *,
        before_login: bool = False,
        forever: bool = False,
        on_sent: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_sent` is called after `count` messages. With `forever` the flood then starts again."""
        self._conns = conns
        self._flood = flood
        self._count = count
        self._before_login = before_login
        self._forever = forever
        self._on_sent = on_sent
        self._message = b""
        self._left = 0
        self.conn: Any = None
        self.answers = 0
        """How many messages the client sent that are neither global requests nor channel opens."""

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conns.append(conn)
        self.conn = cast("Any", conn)

    def begin_auth(self, username: str) -> bool:
        del username
        if self._before_login:
            self._take_over()
            self.flood(LOGIN_FLOODS[self._flood])
        return True

    def auth_completed(self) -> None:
        if self._before_login:
            return
        self._take_over()
        if self._flood in FLOODS:
            self.flood(FLOODS[self._flood])

    @classmethod
    def client(
        cls,
        conn: asyncssh.SSHClientConnection,
        count: int,
        *,
        on_sent: Callable[[], None] = lambda: None,
    ) -> Flooding:
        """A `Flooding` that floods the server of `conn`, a client that has logged in."""
        flooding = cls([], "", count, on_sent=on_sent)
        flooding.conn = cast("Any", conn)
        flooding._take_over()
        return flooding

    # ------------------------------------------------------------------------------------------------ sending

    def _take_over(self) -> None:
        """Seal and receive packets here from now on, because asyncssh needs 50 us to send one."""
        conn = self.conn
        self._sealer = _keys(conn._send_encryption, conn._send_seq).sealer()
        conn.send_packet, conn.process_packet = self._send, self._process
        conn._channels = _AnyChannel(self._process)
        conn._kex = _Handler(self._process)

    def _send(self, kind: int, *args: bytes, handler: object = None) -> None:
        del handler
        if not self._before_login:
            self.say(Byte(kind) + b"".join(args))

    def say(self, *payloads: bytes) -> None:
        """Send the payloads as one packet each, in one write."""
        buffer, end = memoryview(bytearray(sum(len(payload) + OVERHEAD for payload in payloads))), 0
        for payload in payloads:
            buffer[end + HEADER : end + HEADER + len(payload)] = payload
            end = self._sealer.seal(buffer, end, len(payload))
        if self.conn._transport is not None:
            self.conn._transport.write(bytes(buffer[:end]))

    def flood(self, message: bytes) -> None:
        """Send `message` again and again."""
        self._message, self._left = message, self._count
        self._go_on()

    def _go_on(self) -> None:
        transport = self.conn._transport
        if transport is None or not self._left:
            return
        loop = asyncio.get_running_loop()
        if transport.get_write_buffer_size() > UNSENT:
            loop.call_later(POLL_S, self._go_on)
            return
        count = min(self._left, AT_ONCE)
        self.say(*[self._message] * count)
        self._left -= count
        if not self._left:
            self._on_sent()
            self._left = self._count if self._forever else 0
        loop.call_soon(self._go_on)

    # ---------------------------------------------------------------------------------------------- receiving

    def _process(self, kind: int, _sequence: int, packet: SSHPacket) -> bool:
        message = packet.get_full_payload()
        if kind == GLOBAL_REQUEST:
            self.say(Byte(REQUEST_FAILURE))
        elif kind == messages.OPEN:
            at = 5 + int.from_bytes(message[1:5])
            theirs = int.from_bytes(message[at : at + 4])
            self.say(
                Byte(messages.OPEN_CONFIRMATION)
                + UInt32(theirs)
                + UInt32(THEIRS)
                + UInt32(1 << 20)
                + UInt32(1 << 15)
            )
            if self._flood in CHANNEL_FLOODS and not self._message:
                self.flood(CHANNEL_FLOODS[self._flood](theirs))
        elif kind > GLOBAL_REQUEST:  # asyncssh sends an IGNORE before each packet
            self.answers += 1
        return True


class _AnyChannel(dict[int, Any]):
    """asyncssh's table of channels: it has every number, and passes each channel's packets to `process`."""

    def __init__(self, process: Callable[[int, int, SSHPacket], bool]) -> None:
        super().__init__()
        self._handler = _Handler(process)

    def __missing__(self, number: int) -> Any:
        return self._handler


class _Handler:
    def __init__(self, process: Callable[[int, int, SSHPacket], bool]) -> None:
        self.process_packet = process

    def log_received_packet(self, *_: object) -> None:
        """Do nothing: asyncssh calls this for its debug log."""
