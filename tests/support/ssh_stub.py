"""An SSH server that refuses every login and records each connection: its two addresses, the user, the keys.

One of its listeners, the gate, accepts every login and forwards, as a jump host does.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import asyncssh

from tests.support.serving import closed

LISTS = ("kex", "host_key", "cipher", "_", "mac")
"""The first name-lists of a KEXINIT (RFC 4253 7.1), which has ciphers and MACs once for each direction."""


@dataclass(slots=True)
class Visit:
    """What the server learned of one connection."""

    at: tuple[str, int]
    source: str
    user: str = ""
    """Empty if the client left when it saw the host key."""
    offered: set[bytes] = field(default_factory=set)
    """The public keys and certificates that the client offered."""
    lists: dict[str, list[str]] = field(default_factory=dict)


class _Server(asyncssh.SSHServer):
    def __init__(self, stub: SshStub, *, is_gate: bool) -> None:
        self._stub = stub
        self._is_gate = is_gate
        self._visit = Visit(("", 0), "")

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        port = conn.get_extra_info("sockname")[1]
        self._visit = Visit((conn.get_extra_info("sockname")[0], port), conn.get_extra_info("peername")[0])
        self._stub.visits.append(self._visit)
        validate = conn.validate_public_key

        async def validating(username: str, key_data: bytes, msg: bytes, signature: bytes) -> bool:
            self._visit.offered.add(key_data)
            return await validate(username, key_data, msg, signature)

        conn.validate_public_key = validating  # type: ignore[method-assign]

    def begin_auth(self, username: str) -> bool:
        self._visit.user = username
        self._visit.lists = _lists(self._conn._client_kexinit)
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return self._is_gate

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        # Not `True`: under uvloop, asyncssh's own forwarding corrupts the first line that it forwards.
        return partial(_forward, dest_host, dest_port) if self._is_gate else False


async def _forward(
    host: str, port: int, theirs: asyncssh.SSHReader[bytes], back: asyncssh.SSHWriter[bytes]
) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(theirs, writer))
            group.create_task(_pump(reader, back))
    finally:
        await closed(writer)


async def _pump(
    reader: asyncio.StreamReader | asyncssh.SSHReader[bytes],
    writer: asyncio.StreamWriter | asyncssh.SSHWriter[bytes],
) -> None:
    with suppress(OSError, asyncssh.Error):  # the other direction has closed the connection
        while data := await reader.read(1 << 16):
            writer.write(data)
    writer.close()


def _lists(kexinit: bytes) -> dict[str, list[str]]:
    found, at = {}, 17
    for name in LISTS:
        size = int.from_bytes(kexinit[at : at + 4])
        found[name] = kexinit[at + 4 : at + 4 + size].decode().split(",")
        at += 4 + size
    return found


class SshStub:
    """`async with SshStub(host_key, addresses=…, ports=…, gate=…) as stub: stub.visits`."""

    def __init__(
        self, host_key: asyncssh.SSHKey, *, addresses: list[str], ports: list[int], gate: int
    ) -> None:
        self.visits: list[Visit] = []
        self._host_key = host_key
        self._places = [(address, port) for address in addresses for port in ports] + [("127.0.0.1", gate)]
        self._gate = gate
        self._acceptors: list[asyncssh.SSHAcceptor] = []

    async def __aenter__(self) -> Self:
        for address, port in self._places:
            acceptor = await asyncssh.listen(
                address,
                port,
                server_factory=lambda is_gate=port == self._gate: _Server(self, is_gate=is_gate),
                server_host_keys=[self._host_key],
                encoding=None,
            )
            self._acceptors.append(acceptor)
        return self

    async def __aexit__(self, *_: object) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        for acceptor in self._acceptors:
            await acceptor.wait_closed()
