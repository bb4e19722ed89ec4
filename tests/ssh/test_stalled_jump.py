"""A jump host that stops reading. The bytes that wait for it are bounded, its clients get backpressure, and
clients of other links do not notice. On both planes.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from proxy.ssh import metered
from proxy.ssh.native.sending import LARGEST_READ
from proxy.ssh.native.wire.messages import BIGGEST_WINDOW
from tests.ssh.carried import SECONDS, Tunnel, until
from tests.ssh.conftest import Watched, config_for, started
from tests.support.echo import Echo, Sink, exchange, pattern
from tests.support.other_servers import Connections, asyncssh_server
from tests.support.sshd import Sshd

pytestmark = pytest.mark.sshd

CLIENTS = 6
"""How many clients: sshd behind the jump host gives each a window of 2 MiB, together more than the bound."""
UPLOAD = 4 << 20
NARROW, WIDE = 64 << 10, 4 << 20
"""Bytes of the kernel buffers between us and the jump host, during the stall and afterwards."""
STEADY = 20
"""How many samples in a row must not show more waiting bytes."""


class Jump(asyncssh.SSHServer):
    """A jump host that forwards with a window of `window` for each channel, and can stall all of them."""

    def __init__(self, conns: Connections, window: int) -> None:
        self._conns = conns
        self._window = window
        self.conn: Any = None
        self.forwards: list[Forward] = []

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conns.append(conn)
        self.conn = conn

    def connection_requested(self, dest_host: str, dest_port: int, *_: object) -> Any:
        forward = Forward(dest_host, dest_port)
        self.forwards.append(forward)
        return self.conn.create_tcp_channel(window=self._window), forward

    def stop_reading(self) -> None:
        self._buffers(NARROW)
        self.conn._transport.pause_reading()

    def read_again(self) -> None:
        self._buffers(WIDE)
        self.conn._transport.resume_reading()

    def _buffers(self, size: int) -> None:
        self.conn.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def keep_credit(self) -> None:
        for forward in self.forwards:
            forward.chan.pause_reading()

    def give_credit(self) -> None:
        for forward in self.forwards:
            forward.chan.resume_reading()


class Forward(asyncssh.SSHTCPSession[bytes]):
    """One forwarded connection; it passes all data on."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.chan: Any = None
        self._upstream: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        self.chan = chan

    def session_started(self) -> None:
        self.chan.get_connection().create_task(self._connect())

    async def _connect(self) -> None:
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: _Back(self.chan), *self._target
        )
        self._upstream = transport
        transport.writelines(self._early)

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        del datatype
        if self._upstream is None:
            self._early.append(data)
        else:
            self._upstream.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._upstream is not None:
            self._upstream.abort()


class _Back(asyncio.Protocol):
    def __init__(self, chan: Any) -> None:
        self._chan = chan

    def data_received(self, data: bytes) -> None:
        self._chan.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._chan.close()


@asynccontextmanager
async def behind_jump(folder: Path, sshd: Sshd, *, window: int) -> AsyncIterator[tuple[Watched, Jump]]:
    """A gateway `sshd` behind the jump host."""
    jumps: list[Jump] = []

    def session(conns: Connections) -> Jump:
        jumps.append(Jump(conns, window))
        return jumps[-1]

    async with (
        asyncssh_server(folder, session, encoding=None) as jump,
        started(config_for(sshd, jump=["jump"]), {"jump": jump}) as gateway,
    ):
        await gateway.until(lambda: gateway.links == 1)
        yield gateway, jumps[-1]


def kept(gateway: Watched) -> int:
    """Bytes that wait in the daemon for the jump host: in the connection to it and in the one through it."""
    conn: Any = gateway._links[0]._conn
    below = metered.carrier(conn)
    assert below, "the link goes through the jump host"
    waiting: int = conn._transport.get_write_buffer_size()
    return below.unsent + waiting


async def steady(gateway: Watched) -> int:
    """The number of waiting bytes, once it has stopped growing."""
    most, looks = kept(gateway), 0
    async with asyncio.timeout(SECONDS):
        while looks < STEADY:
            await asyncio.sleep(0.01)
            looks = looks + 1 if kept(gateway) <= most else 0
            most = max(most, kept(gateway))
    return most


STALLS = {
    # A window of 4 GiB is never used up, so the stall shows only in what the kernel does not accept.
    "does not read": (BIGGEST_WINDOW, Jump.stop_reading, Jump.read_again, metered.MOST_BELOW),
    "gives no credit": (1 << 20, Jump.keep_credit, Jump.give_credit, 0),
}
"""The jump host's window, how it stalls and resumes, and how many bytes must wait at least by then."""


@pytest.mark.parametrize("stall", STALLS)
async def test_clients_of_a_jump_host_that_reads_nothing_wait(
    tmp_path: Path, sshd: Sshd, data_plane: str, stall: str
) -> None:
    window, stalls, goes_on, least = STALLS[stall]
    data = pattern(UPLOAD)
    async with (
        Sink() as sink,
        Echo() as echo,
        behind_jump(tmp_path, sshd, window=window) as (gateway, jump),
        Tunnel(gateway, sink.endpoint, gateway) as port,
        started(config_for(sshd)) as other,
        Tunnel(other, echo.endpoint, other) as beside,
    ):
        await other.until(lambda: other.links == 1)
        assert {link.data_plane for link in gateway.snapshot().links} == {data_plane}
        ours = gateway._links[0]._conn.get_extra_info("socket")
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NARROW)
        async with asyncio.TaskGroup() as group:
            uploads = [
                group.create_task(exchange(port.endpoint, data, seconds=100), name=f"upload {n}")
                for n in range(CLIENTS)
            ]
            await sink.wait_accepted(CLIENTS)  # let the answers to the opens through
            stalls(jump)
            await until(lambda: kept(gateway) > least)
            # The bound, and what each client reads in the turn in which the bound is passed.
            most = metered.MOST_BELOW + CLIENTS * LARGEST_READ
            assert await steady(gateway) <= most
            assert not any(upload.done() for upload in uploads)
            assert await exchange(beside.endpoint, b"alive") == b"alive"
            assert await steady(gateway) <= most
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WIDE)
            goes_on(jump)
        assert {upload.result() for upload in uploads} == {hashlib.sha256(data).hexdigest().encode()}
        assert gateway.metric("gateway_connects_total", result="ok") == 1
