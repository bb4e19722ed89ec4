"""The moment when a client's login succeeds and our data plane takes over the connection: messages that the
client sends before it gets USERAUTH_SUCCESS.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import asyncssh
import pytest
from asyncssh.packet import Boolean, SSHPacket, String

from proxy.ssh.metered import Metered
from proxy.ssh.native.wire import messages
from tests.ssh.carried import SECONDS, until
from tests.ssh.test_open_requests import Client, asking
from tests.support.ssh_served import Served

IGNORE, USERAUTH_REQUEST, GLOBAL_REQUEST, REQUEST_FAILURE = 2, 50, 80, 82


@pytest.fixture
async def served(tmp_path: Path, data_plane: str) -> AsyncIterator[Served]:
    del data_plane
    async with Served(tmp_path) as served:
        yield served


class Hasty:
    """A client that sends more bytes in the same write as the signature that logs it in."""

    def __init__(self, served: Served, behind: Callable[[Any], None], cut: int | None = None) -> None:
        """With `cut` it makes two writes: the second begins so many bytes behind the signature's packet."""
        self._served = served
        self._behind = behind
        self._cut = cut
        self._late: asyncio.Task[None] | None = None
        self.conn: Any = None

    async def log_in(self) -> Any:
        """Log in. Raises asyncssh.Error, OSError if the server ends the connection."""
        hasty = self

        class Owner(asyncssh.SSHClient):
            def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
                hasty.watch(cast("Any", conn))

        conn = await self._served.client(client_factory=Owner)
        if self._late is not None:
            await self._late
        return conn

    def watch(self, conn: Any) -> None:
        self.conn = conn
        send, written = conn.send_packet, list[bytes]()

        def sending(kind: int, *args: bytes, handler: object = None) -> None:
            is_last = kind == USERAUTH_REQUEST and b"publickey" in b"".join(args) and is_signed(args)
            if not is_last:
                send(kind, *args, handler=handler)
                return
            write = conn._transport.write
            conn._send = written.append
            send(kind, *args, handler=handler)
            end = len(b"".join(written))
            # asyncssh keeps what may not be sent before the login is over.
            conn._auth_in_progress, conn._auth_complete = False, True
            self._behind(conn)
            conn._auth_in_progress, conn._auth_complete = True, False
            del conn._send
            sent = b"".join(written)
            if self._cut is None:
                write(sent)
                return
            write(sent[: end + self._cut])
            rest = _later(write, sent[end + self._cut :])
            self._late = asyncio.get_running_loop().create_task(rest, name="late")

        conn.send_packet = sending


async def _later(write: Callable[[bytes], None], data: bytes) -> None:
    for _ in range(3):  # turns of the loop, so that the server reads what came before
        await asyncio.sleep(0)
    write(data)


def is_signed(args: tuple[bytes, ...]) -> bool:
    packet = SSHPacket(b"".join(args))
    for _ in range(3):
        packet.get_string()
    return packet.get_boolean()


async def works(served: Served, conn: Any) -> None:
    """Check that the link can carry a channel that either side opens."""
    client = Client()
    client.take_over(conn)
    client.ask(number=1)
    channel = (await served.request()).accept()
    await client.confirmation()
    channel.abort()
    conn.abort()
    await conn.wait_closed()


@pytest.mark.parametrize("count", [1, 30])
async def test_a_channel_asked_for_too_early_ends_the_connection_or_is_a_request(
    served: Served, data_plane: str, count: int
) -> None:
    """RFC 4252 5.3 allows both. asyncssh itself opens no channel."""

    def behind(conn: Any) -> None:
        for number in range(count):
            conn.send_packet(messages.OPEN, asking(number=number))

    hasty = Hasty(served, behind)
    try:
        conn = await hasty.log_in()
    except (asyncssh.Error, OSError):
        assert not served.links
    else:
        link = await served.link()
        assert link.data_plane == data_plane
        await until(lambda: served.requests.qsize() == count)
        assert link.load == count
        conn.abort()
        await conn.wait_closed()
    assert all(not cast("Any", conn)._channels for conn in served.conns)


@pytest.mark.parametrize("count", [1, 100])
async def test_unimportant_messages_behind_the_login_are_ignored(served: Served, count: int) -> None:
    def behind(conn: Any) -> None:
        for _ in range(count):
            conn.send_packet(IGNORE, String("x"))

    conn = await Hasty(served, behind).log_in()
    await works(served, conn)


async def test_a_second_login_is_ignored(served: Served) -> None:
    """After a successful login, further requests are ignored (RFC 4252 5.1)."""

    def behind(conn: Any) -> None:
        conn.send_packet(USERAUTH_REQUEST, String("somebody"), String("ssh-connection"), String("none"))

    hasty = Hasty(served, behind)
    try:
        conn = await hasty.log_in()
    except (asyncssh.Error, OSError):
        assert not served.links
    else:
        await works(served, conn)


async def test_a_key_exchange_that_begins_with_the_login_leaves_a_link(
    served: Served, data_plane: str
) -> None:
    """The native plane cannot carry it, because the keys are about to change."""

    def behind(conn: Any) -> None:
        conn._send_kexinit()
        conn._kexinit_sent = True

    conn = await Hasty(served, behind).log_in()
    link = await served.link()
    assert link.data_plane in {data_plane, "asyncssh"}
    async with asyncio.timeout(SECONDS):
        while not conn._kex_complete:
            await asyncio.sleep(0.01)
    await works(served, conn)


async def test_global_requests_behind_the_login_are_answered_once(served: Served) -> None:
    answers: list[asyncio.Future[tuple[int, SSHPacket]]] = []

    def behind(conn: Any) -> None:
        for _ in range(3):
            answers.append(asyncio.get_running_loop().create_future())
            conn._global_request_waiters.append(answers[-1])
            conn.send_packet(GLOBAL_REQUEST, String("no-such@example"), Boolean(True))

    hasty = Hasty(served, behind)
    try:
        conn = await hasty.log_in()
    except (asyncssh.Error, OSError):
        assert not served.links
    else:
        async with asyncio.timeout(SECONDS):
            assert {kind for kind, _ in await asyncio.gather(*answers)} == {REQUEST_FAILURE}
        await works(served, conn)


async def test_the_rest_of_a_packet_comes_after_the_takeover(served: Served, data_plane: str) -> None:
    """Half of a packet is decrypted already, or waits: no byte may be lost or read twice."""
    conn = cast("Any", await served.client())
    link = await served.link()
    assert link.data_plane == data_plane
    client = Client()
    client.take_over(conn)
    written: list[bytes] = []
    write = conn._transport.write
    conn._send = written.append
    client.ask(number=5)
    del conn._send
    for byte in b"".join(written):
        write(bytes((byte,)))
        await asyncio.sleep(0)
    request = await served.request()
    request.refuse(messages.PROHIBITED, "no")
    assert (await client.refusal())[0] == 5
    conn.abort()
    await conn.wait_closed()


async def test_no_client_is_limited_twice(served: Served) -> None:
    """The limits for asyncssh end with the takeover: a task of the login may still report to them."""
    conn = cast("Any", await served.client())
    await served.link()
    ours = cast("Any", served.conns[-1])
    limits = ours.process_packet.__self__
    assert isinstance(limits, Metered)
    assert not limits.is_held
    await works(served, conn)


async def test_the_login_may_be_cut_at_every_byte_around_its_end(served: Served, data_plane: str) -> None:
    """Whatever of the next packets has arrived with the signature, the link has the data plane that it
    should have.
    """

    def behind(conn: Any) -> None:
        for _ in range(2):
            conn.send_packet(IGNORE, String("x"))

    for cut in range(-8, 25):
        conn = await Hasty(served, behind, cut).log_in()
        link = await served.link()
        assert link.data_plane == data_plane, cut
        await works(served, conn)
