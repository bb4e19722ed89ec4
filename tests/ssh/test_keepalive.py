"""What counts as a sign of life of a gateway, and links that sshd ends as unused; on both data planes."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast

import asyncssh
import pytest
from asyncssh.packet import SSHPacket, String, UInt32
from structlog.testing import capture_logs

from proxy.config.model import GatewayConfig, KeepaliveConfig
from proxy.relay.probing import relayed_socket
from proxy.runtime.endpoint import Endpoint
from proxy.ssh import link as link_module
from proxy.ssh.keepalive import BUSY, LATE_S
from proxy.ssh.link import Link
from proxy.ssh.login.options import ticks
from tests.ssh.carried import SECONDS, until
from tests.ssh.conftest import ORIGIN, config_for, started
from tests.support import other_servers
from tests.support.echo import Echo
from tests.support.serving import Server
from tests.support.ssh_served import Served
from tests.support.sshd import SshdFactory

pytestmark = pytest.mark.usefixtures("data_plane")

KEEPALIVE: Final[Mapping[str, float]] = {"interval": 0.3, "max_missed": 2}
HOURLY = KeepaliveConfig(interval=3600, max_missed=2)
"""No interval ends by itself: the test calls `expire`."""
IGNORE, UNIMPLEMENTED, GLOBAL_REQUEST = 2, 3, 80

Answer = Callable[[Any, int], None]


def unimplemented(conn: Any, sequence: int) -> None:
    conn.send_packet(UNIMPLEMENTED, UInt32(sequence))


def nothing(conn: Any, sequence: int) -> None:
    del conn, sequence


class _Odd(asyncssh.SSHServer):
    def __init__(self, answer: Answer, conns: list[asyncssh.SSHServerConnection]) -> None:
        self._answer = answer
        self._conns = conns

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conns.append(conn)
        odd = cast("Any", conn)

        def asked(conn: Any, _kind: int, sequence: int, _packet: SSHPacket) -> None:
            self._answer(conn, sequence)

        odd._packet_handlers = {**odd._packet_handlers, GLOBAL_REQUEST: asked}

    def connection_requested(self, *_: object) -> bool:
        return True


@asynccontextmanager
async def answering(
    answer: Answer, folder: Path, keepalive: Mapping[str, float] = KEEPALIVE
) -> AsyncIterator[GatewayConfig]:
    """A gateway whose server answers global requests with `answer`."""
    async with other_servers.asyncssh_server(folder, lambda conns: _Odd(answer, conns)) as config:
        settings = config.keepalive.model_copy(update=keepalive)
        yield config.model_copy(update={"keepalive": settings})


def expire(link: Link) -> None:
    """The interval ends now."""
    link._keepalive.stop()
    link._keepalive._tick()


async def expire_late(link: Link) -> None:
    """The interval ends while the process is held up."""
    keepalive = link._keepalive
    keepalive.stop()
    timer = keepalive._timer = asyncio.get_running_loop().call_later(1e-3, keepalive._tick)
    time.sleep(2 * LATE_S)  # noqa: ASYNC251 - this is what holds it up
    await until(lambda: keepalive._timer is not timer)


def counting(link: Link, settings: KeepaliveConfig) -> list[int]:
    """The missed keepalives of the link are counted in this list from now on, and never end it."""
    missed: list[int] = []
    link.start(settings, lambda _: None, missed.append)
    return missed


async def test_unimplemented_counts_as_an_answer(tmp_path: Path) -> None:
    """And with `max_missed: 1`, a link whose keepalives are all answered never counts as silent."""
    config_of = answering(unimplemented, tmp_path, {"interval": 3600.0, "max_missed": 1})
    async with Echo() as target, config_of as config, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        (link,) = gateway._links
        for _ in range(5):
            await until(lambda: not link._keepalive._is_waiting)
            expire(link)
        await until(lambda: not link._keepalive._is_waiting)
        assert link.rtt is not None
        assert list(gateway._links) == [link], "idle for five intervals, and each keepalive was answered"
        hold_until = asyncio.get_running_loop().time() + 30
        (await gateway.open_channel(target.endpoint, origin=ORIGIN, hold_until=hold_until)).abort()


async def test_a_link_without_any_answer_is_given_up(tmp_path: Path) -> None:
    async with answering(nothing, tmp_path) as config, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        await gateway.until(lambda: gateway.links == 0)
        assert gateway.snapshot().reason == "keepalive_timeout"


async def test_a_link_sends_one_keepalive_in_an_interval_and_asyncssh_none(tmp_path: Path) -> None:
    """Another one would cost thousands of idle sites as much again."""
    came: asyncio.Queue[float] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def noted(conn: Any, sequence: int) -> None:
        came.put_nowait(loop.time())
        unimplemented(conn, sequence)

    patient = {**KEEPALIVE, "max_missed": 50}  # a new link's first keepalive would come early
    async with answering(noted, tmp_path, patient) as config, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        async with asyncio.timeout(30):
            first, *_, last = [await came.get() for _ in range(8)]
    period, _ = ticks(config.keepalive)
    assert last - first >= 6 * period, "a late event loop may shorten one pause, but not the sum of all"


async def test_a_client_gets_no_keepalive_before_it_is_used(tmp_path: Path) -> None:
    """A thousand clients may log in at once."""
    measured: asyncio.Queue[float] = asyncio.Queue()
    async with Served(tmp_path) as served, Echo() as target:
        await served.ssh("-N", "-R", f"kube:6443:{target.endpoint}")
        link = await served.link()
        link.start(HOURLY, measured.put_nowait, lambda _: None)
        forward = Endpoint(*await served.forwards.get())
        test = await link.open_channel(forward, origin=ORIGIN, timeout=30, is_needed=False)
        assert measured.empty(), "the answer would have come before that of the test channel"
        assert link.snapshot().rtt is None
        used = await link.open_channel(forward, origin=ORIGIN, timeout=30)
        async with asyncio.timeout(30):
            assert [await measured.get() for _ in range(3)][-1] == link.rtt
        for channel in (test, used):
            channel.abort()


async def test_a_client_that_is_silent_from_the_start_misses_keepalives(tmp_path: Path) -> None:
    missed: asyncio.Queue[int] = asyncio.Queue()
    async with Served(tmp_path) as served:
        process = await served.ssh("-N")
        link = await served.link()
        process.send_signal(signal.SIGSTOP)
        link.start(KeepaliveConfig(interval=0.3, max_missed=2), lambda _: None, missed.put_nowait)
        async with asyncio.timeout(30):
            assert [await missed.get() for _ in range(2)] == [1, 2]
        process.send_signal(signal.SIGCONT)


async def test_a_change_of_settings_sends_no_second_request(tmp_path: Path) -> None:
    """Two requests without an answer would count the intervals wrongly."""
    asked: asyncio.Queue[int] = asyncio.Queue()
    missed: asyncio.Queue[int] = asyncio.Queue()
    silent = answering(
        lambda _, sequence: asked.put_nowait(sequence), tmp_path, {"interval": 3600.0, "max_missed": 2}
    )
    async with silent as config, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        (link,) = gateway._links
        async with asyncio.timeout(30):
            await asked.get()
            link.start(KeepaliveConfig(interval=0.05, max_missed=9), lambda _: None, missed.put_nowait)
            assert [await missed.get() for _ in range(3)] == [1, 2, 3]
        assert asked.empty()


async def test_other_packets_do_not_count_as_answers(tmp_path: Path) -> None:
    """Other packets extend the wait for an answer by one interval, however many arrive."""
    asked = 0

    def talks(conn: Any, sequence: int) -> None:
        nonlocal asked
        del sequence
        asked += 1
        conn.send_packet(IGNORE, String(b""))

    async with answering(talks, tmp_path) as config, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        await gateway.until(lambda: gateway.links == 0)
        assert gateway.snapshot().reason == "keepalive_timeout"
    assert asked


async def test_a_process_that_was_held_up_waits_one_interval_more(tmp_path: Path) -> None:
    """The answer may wait to be read."""
    silent = answering(nothing, tmp_path, {"interval": 3600.0, "max_missed": 2})
    async with silent as config, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        (link,) = gateway._links
        missed = counting(link, config.keepalive)
        await expire_late(link)
        assert missed == []
        await expire_late(link)
        assert missed == [1], "a process that is always late must find a silent peer, too"


class Pouring(Server):
    """Sends bulk for each byte that it receives."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1):
            writer.write(bytes(BUSY))
            await writer.drain()


async def poured(link: Link, client: socket.socket) -> None:
    """So much bulk arrives on the link in this interval that it counts as an answer."""
    loop = asyncio.get_running_loop()
    while link._plane.bulk - link._keepalive._bulk < BUSY:
        await loop.sock_sendall(client, b"+")
        left = BUSY
        async with asyncio.timeout(SECONDS):
            while left:
                left -= len(await loop.sock_recv(client, left))


async def test_incoming_bulk_counts_as_an_answer(tmp_path: Path) -> None:
    """On a slow link the keepalive's answer waits behind earlier data. ssh(1) also counts any packet."""
    loop = asyncio.get_running_loop()
    silent = answering(nothing, tmp_path, {"interval": 3600.0, "max_missed": 2})
    async with Pouring() as target, silent as config, started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        (link,) = gateway._links
        missed = counting(link, config.keepalive)
        channel = await gateway.open_channel(target.endpoint, origin=ORIGIN, hold_until=loop.time() + SECONDS)
        with await relayed_socket(channel, gateway.budget) as client:
            expire(link)
            assert missed == [], "other packets have arrived"
            for _ in range(2):
                expire(link)
                await poured(link, client)
                expire(link)
            assert missed == [1, 1], "the count begins anew"
            expire(link)
            expire(link)
            assert missed == [1, 1, 1, 2]


@pytest.mark.sshd
async def test_a_link_that_sshd_ends_for_being_unused_is_no_failure(
    sshd_factory: SshdFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # sshd's clock starts before that of the link, and has whole seconds.
    monkeypatch.setattr(link_module, "UNUSED_S", 1e-3)
    sshd = sshd_factory(config={"UnusedConnectionTimeout": "2"})
    with capture_logs() as logs:
        async with Echo() as target, started(config_for(sshd)) as gateway:
            await gateway.until(
                lambda: gateway.metric("gateway_reconnects_total", reason="link_lost") >= 1, seconds=60
            )
            assert not gateway._supervisor.retry.backoff._failures, "no dial has failed"
            lost, *_ = (entry for entry in logs if entry["event"] == "link lost")
            hold_until = asyncio.get_running_loop().time() + 30
            channel = await gateway.open_channel(target.endpoint, origin=ORIGIN, hold_until=hold_until)
            with suppress(TimeoutError):
                await gateway.until(lambda: gateway.links == 0, seconds=3.5)
            assert gateway.links == 1, "a link in use stays"
            channel.abort()
    assert "UnusedConnectionTimeout" in lost["hint"]
    assert "carried no channel for" in lost["message"]
    assert lost["reason"] == "link_lost"
    assert lost["log_level"] == "info"


@pytest.mark.sshd
async def test_a_link_that_ends_as_soon_as_it_is_up_is_a_failure(
    sshd_factory: SshdFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "UNUSED_S", 3600.0)
    sshd = sshd_factory()
    with capture_logs() as logs:
        async with started(config_for(sshd)) as gateway:
            await gateway.until(lambda: gateway.links == 1)
            await asyncio.to_thread(sshd.stop)
            await gateway.until(lambda: gateway.links == 0)
            assert gateway._supervisor.retry.backoff._failures
    assert not [entry for entry in logs if "UnusedConnectionTimeout" in str(entry.get("hint"))]
