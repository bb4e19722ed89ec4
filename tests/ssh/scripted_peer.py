"""A real SSH server whose channel messages come from the test, for tests of the native data plane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import asyncssh
from asyncssh.packet import SSHPacket, UInt32

from proxy.config.model import GatewayConfig
from proxy.ssh.internals import Connection
from proxy.ssh.native.wire import messages
from tests.ssh.carried import SECONDS
from tests.support import other_servers


class Script:
    """After the login, the test receives every channel message of the other side, and sends any message
    itself.
    """

    def __init__(self) -> None:
        self.conn: Any = None
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()

    def take_over(self, conn: Connection) -> None:
        self.conn = cast("Any", conn)
        original = self.conn.process_packet

        def process(kind: int, number: int, packet: SSHPacket) -> object:
            if kind >= messages.OPEN:
                self.heard.put_nowait(packet.get_full_payload())
                return True
            return original(kind, number, packet)

        self.conn.process_packet = process
        self.conn._channels = Everyone(process)

    def send(self, kind: int, *numbers: int, then: bytes = b"") -> None:
        self.conn.send_packet(kind, *(UInt32(number) for number in numbers), then)

    def raw(self, data: bytes) -> None:
        self.conn._transport.write(data)

    async def receive(self, kind: int) -> bytes:
        """Wait for the next message of `kind`."""
        async with asyncio.timeout(SECONDS):
            while (message := await self.heard.get())[0] != kind:
                pass
            return message

    async def open_request(self) -> int:
        """Wait until the client asks for a channel. Returns the client's number for it."""
        packet = SSHPacket(await self.receive(messages.OPEN))
        packet.get_byte()
        packet.get_string()
        return packet.get_uint32()

    async def open(self, window: int = 1 << 20, largest: int = 32768, number: int = 7) -> int:
        """Confirm the next channel that the client asks for. Returns the client's number for it."""
        theirs = await self.open_request()
        self.send(messages.OPEN_CONFIRMATION, theirs, number, window, largest)
        return theirs


class Everyone(dict[int, object]):
    """asyncssh's table of channels: it has every number, and passes each channel's messages to the script."""

    def __init__(self, process: Callable[..., object]) -> None:
        super().__init__()
        self._process = process

    def __missing__(self, number: int) -> object:
        return _Handler(self._process)


class _Handler:
    def __init__(self, process: Callable[..., object]) -> None:
        self.process_packet = process

    def log_received_packet(self, *_: object) -> None:
        pass


class _Session(asyncssh.SSHServer):
    def __init__(self, script: Script | None, conns: list[asyncssh.SSHServerConnection]) -> None:
        self._script = script
        self._conns = conns

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        self._conns.append(conn)

    def auth_completed(self) -> None:
        if self._script is not None:
            self._script.take_over(self._conn)

    def connection_requested(self, *_: object) -> bool:
        return True


@asynccontextmanager
async def asyncssh_server(
    folder: Path, script: Script | None = None, **options: object
) -> AsyncIterator[GatewayConfig]:
    """An asyncssh server, as a gateway."""
    async with other_servers.asyncssh_server(
        folder, lambda conns: _Session(script, conns), **options
    ) as config:
        yield config
