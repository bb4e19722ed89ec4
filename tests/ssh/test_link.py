"""Channels on one link to a real sshd: refused, timed out, cancelled, cut; none of them stays behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from proxy.config.model import KeepaliveConfig
from proxy.errors import (
    ChannelProhibited,
    ChannelRefused,
    ChannelTimeout,
    LinkDown,
    MemoryExhausted,
    ProxyError,
)
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel, Pieces
from proxy.runtime.endpoint import Endpoint
from proxy.ssh import internals
from proxy.ssh.link import Link
from proxy.ssh.turns import Turns
from tests.ssh.conftest import ORIGIN, config_for, dialled
from tests.support.echo import Echo
from tests.support.ports import free_port
from tests.support.serving import Server
from tests.support.sshd import Sshd, SshdFactory

pytestmark = [pytest.mark.sshd, pytest.mark.usefixtures("data_plane")]

HOURLY = KeepaliveConfig(interval=3600.0, max_missed=3)


class Leaves(Server):
    """Closes every connection at once."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader, writer


@asynccontextmanager
async def linked(sshd: Sshd, *, memory: int = 64 << 20) -> AsyncIterator[tuple[Link, MemoryBudget]]:
    budget = MemoryBudget(memory, connections=100)
    async with dialled(config_for(sshd)) as result:
        link = Link(result.conns, server=result.server, budget=budget, turns=Turns(), name="edge/1")
        try:
            yield link, budget
        finally:
            await link.close()
    assert (link.load, budget.used) == (0, 0), link


def opening(link: Link, target: Endpoint, *, seconds: float = 30.0) -> asyncio.Task[Channel]:
    return asyncio.get_running_loop().create_task(
        link.open_channel(target, origin=ORIGIN, timeout=seconds), name="open"
    )


async def idle(link: Link) -> None:
    async with asyncio.timeout(30):
        await link.idle.wait()


class Ended:
    """A channel's user that waits for `channel_lost`."""

    def __init__(self, channel: Channel) -> None:
        self.lost: asyncio.Future[ProxyError | None] = asyncio.get_running_loop().create_future()
        channel.attach(self)

    def channel_data(self, pieces: Pieces, nbytes: int) -> None: ...
    def channel_eof(self) -> None: ...
    def channel_full(self) -> None: ...
    def channel_writable(self) -> None: ...
    def channel_lost(self, error: ProxyError | None) -> None:
        self.lost.set_result(error)  # a second call would raise


async def test_a_refusal_has_the_caller_and_the_reason(sshd: Sshd) -> None:
    target = Endpoint("127.0.0.1", free_port())
    async with linked(sshd) as (link, _):
        with pytest.raises(
            ChannelRefused, match=f"could not connect to {target}: Connection refused$"
        ) as refused:
            await opening(link, target)
        assert refused.value.hint.endswith(f"gateway? Try on the gateway: nc -vz {target.host} {target.port}")
        await idle(link)


async def test_a_name_that_the_gateway_may_not_know_is_looked_up_there(sshd: Sshd) -> None:
    async with linked(sshd) as (link, _):
        with pytest.raises(ChannelRefused, match=r"could not connect to api\.invalid:6443") as refused:
            await opening(link, Endpoint("api.invalid", 6443), seconds=180)  # a resolver may be silent
        assert refused.value.hint.endswith(
            "gateway? Try on the gateway: getent hosts api.invalid; nc -vz api.invalid 6443"
        )


@pytest.mark.parametrize("config", [{"AllowTcpForwarding": "no"}, {"PermitOpen": "127.0.0.1:1"}])
async def test_forwarding_that_sshd_does_not_allow_is_reported(
    sshd_factory: SshdFactory, config: dict[str, str]
) -> None:
    async with Echo() as server, linked(sshd_factory(config=config)) as (link, _):
        with pytest.raises(
            ChannelProhibited, match=f"does not allow forwarding to {server.endpoint}$"
        ) as refused:
            await opening(link, server.endpoint)
        assert "PermitOpen" in refused.value.hint
        assert server.accepted == 0


async def test_a_channel_that_is_confirmed_too_late_is_closed(sshd: Sshd) -> None:
    async with Echo() as server, linked(sshd) as (link, _):
        await asyncio.to_thread(sshd.pause)
        with pytest.raises(ChannelTimeout, match=r"did not reach .* within 0.1 s"):
            await opening(link, server.endpoint, seconds=0.1)
        assert link.load == 1, "sshd is still opening the channel"
        await asyncio.to_thread(sshd.resume)
        await idle(link)
        await server.wait_accepted(1)
        while server.connections:
            await asyncio.sleep(0.01)


async def test_two_hundred_opens_cancelled_at_random_leave_no_channel(sshd: Sshd) -> None:
    rng = random.Random(7)  # noqa: S311 - reproducible, not secret
    async with Echo() as server, linked(sshd) as (link, budget):
        for _ in range(8):
            tasks = [opening(link, server.endpoint) for _ in range(25)]
            for task in rng.sample(tasks, len(tasks)):
                for _ in range(rng.randrange(6)):
                    await asyncio.sleep(0)
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if not isinstance(result, BaseException):
                    result.abort()
                else:
                    assert isinstance(result, asyncio.CancelledError), result
            await idle(link)  # sshd has answered all opens; a link tolerates a few without an answer
        assert (link.load, budget.used) == (0, 0)
        async with asyncio.timeout(30):
            while server.connections:  # sshd has closed its connections to the target
                await asyncio.sleep(0.01)
        (await opening(link, server.endpoint)).abort()  # and the link still opens channels
        await idle(link)


async def test_a_target_that_closes_at_once_is_not_counted_for_ever(sshd: Sshd) -> None:
    async with Leaves() as server, linked(sshd) as (link, budget):
        channels = await asyncio.gather(*(opening(link, server.endpoint) for _ in range(50)))
        ends = [Ended(channel) for channel in channels]
        for channel in channels:
            channel.write_eof()
        async with asyncio.timeout(30):
            assert set(await asyncio.gather(*(end.lost for end in ends))) == {None}
        await idle(link)
        assert budget.used == 0


async def test_every_channel_learns_the_end_of_its_link_once(sshd: Sshd) -> None:
    async with Echo() as server, linked(sshd) as (link, budget):
        users = [Ended(await opening(link, server.endpoint)) for _ in range(5)]
        late = await opening(link, server.endpoint)
        await asyncio.to_thread(sshd.pause)
        pending = opening(link, server.endpoint)
        await asyncio.sleep(0)
        await asyncio.to_thread(sshd.stop)
        async with asyncio.timeout(30):
            errors = await asyncio.gather(*(user.lost for user in users))
        assert {getattr(error, "reason", None) for error in errors} == {"link_lost"}
        with pytest.raises(LinkDown):
            await pending
        with pytest.raises(LinkDown):
            await opening(link, server.endpoint)
        assert getattr(await Ended(late).lost, "reason", None) == "link_lost"
        assert (link.load, budget.used) == (0, 0)


@pytest.mark.parametrize("data_plane", ["asyncssh"], indirect=True)
async def test_a_link_that_ends_between_the_answer_and_its_channel_leaves_nothing(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link ends in the one turn of the loop in which asyncssh's channel is open and has no user yet."""
    confirm = asyncssh.SSHTCPChannel.process_open_confirmation
    async with Echo() as server, linked(sshd) as (link, budget):

        def end_then_confirm(channel: asyncssh.SSHTCPChannel[bytes], *args: Any) -> None:
            link._conn.abort()
            confirm(channel, *args)

        monkeypatch.setattr(asyncssh.SSHTCPChannel, "process_open_confirmation", end_then_confirm)
        with pytest.raises(LinkDown):
            await opening(link, server.endpoint)
        assert (link.load, budget.used) == (0, 0)


async def test_the_round_trip_is_measured_more_than_once_at_first(sshd: Sshd) -> None:
    """A single measurement while the daemon is starting would be wrong, and windows depend on it until the
    next.
    """
    measured: asyncio.Queue[float] = asyncio.Queue()
    async with linked(sshd) as (link, _):
        link.start(HOURLY, on_rtt=measured.put_nowait, on_missed=lambda _: None)
        async with asyncio.timeout(30):
            round_trips = [await measured.get() for _ in range(3)]
        assert link._plane.round_trip == min(round_trips) > 0


async def test_a_measurement_goes_on_when_the_callbacks_change(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site's link has another owner as soon as it serves."""
    before: asyncio.Queue[float] = asyncio.Queue()
    after: asyncio.Queue[float] = asyncio.Queue()
    sent, pinger, is_sent = 0, internals.pinger, asyncio.Event()

    def counting(
        conn: internals.Connection, answered: Callable[[], None], send: Callable[[bytes], bool]
    ) -> Callable[[], None]:
        ask = pinger(conn, answered, send)

        def asking() -> None:
            nonlocal sent
            sent += 1
            is_sent.set()
            ask()

        return asking

    monkeypatch.setattr(internals, "pinger", counting)
    async with linked(sshd) as (link, _):
        link.start(HOURLY, on_rtt=before.put_nowait, on_missed=lambda _: None)
        async with asyncio.timeout(30):
            await is_sent.wait()
            link.start(HOURLY, on_rtt=after.put_nowait, on_missed=lambda _: None)
            for _ in range(3):
                await after.get()
        assert (sent, before.qsize()) == (3, 0)


async def test_without_free_memory_the_next_channel_is_refused(sshd: Sshd) -> None:
    async with Echo() as server, linked(sshd, memory=64 << 10) as (link, budget):
        channels: list[Channel] = []
        while not budget.is_exhausted:
            channels.append(await opening(link, server.endpoint))
        with pytest.raises(MemoryExhausted, match=r"limits\.memory"):
            await opening(link, server.endpoint)
        assert 1 <= len(channels) <= 16
        assert budget.used <= budget.limit
        channels.pop().abort()
        async with asyncio.timeout(30):
            while link.load > len(channels):
                await asyncio.sleep(0.01)
        channels.append(await opening(link, server.endpoint))
        for channel in channels:
            channel.abort()
        await idle(link)


async def test_closing_ends_channels_that_are_being_opened(sshd: Sshd, tmp_path: Path) -> None:
    async with Echo() as server, linked(sshd) as (link, _):
        await asyncio.to_thread(sshd.pause)
        pending = opening(link, server.endpoint)
        await asyncio.sleep(0)
        await link.close()
        with pytest.raises(LinkDown):
            await pending
        assert link.closed.result().reason == "closed"
