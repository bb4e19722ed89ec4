"""Which API server gets a connection, and which failure is reported if none accepts it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import cast

import pytest

from proxy.errors import (
    ChannelError,
    ChannelProhibited,
    ChannelRefused,
    ChannelTimeout,
    LinkDown,
    MemoryExhausted,
    ProxyError,
)
from proxy.relay.budget import MemoryBudget
from proxy.relay.failover import Failover
from proxy.relay.interfaces import Channel
from proxy.relay.waiting import WaitingForMemory
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks

A, B, C = (Endpoint(f"10.0.0.{last}", 6443) for last in (1, 2, 3))
ORIGIN = Endpoint("127.0.0.1", 1)
CHANNEL = cast("Channel", object())


class Scripted:
    """A way whose API servers fail as the test says."""

    is_up = True
    is_idle = False
    connect_timeout = 10.0

    def __init__(self, failures: Mapping[Endpoint, ProxyError] | None = None) -> None:
        self.failures = dict(failures or {})
        self.asked: list[Endpoint] = []
        self.deadlines: list[float] = []

    async def open_channel(
        self,
        target: Endpoint,
        *,
        origin: Endpoint,
        hold_until: float,
        answer_by: float = math.inf,
        is_needed: bool = True,
    ) -> Channel:
        assert origin == ORIGIN
        assert hold_until > 0
        assert is_needed
        self.asked.append(target)
        self.deadlines.append(answer_by)
        if target in self.failures:
            raise self.failures[target]
        return CHANNEL

    def is_given_up(self, patience: float) -> bool:
        raise AssertionError(patience)


def failover(*servers: Endpoint, order: tuple[Endpoint, ...] = ()) -> tuple[Failover, list[Endpoint]]:
    budget, failed = MemoryBudget(16 << 20, 100), list[Endpoint]()
    return Failover(
        servers, budget, WaitingForMemory(budget), order=order, on_next=lambda one, _: failed.append(one)
    ), failed


async def ask(one: Failover, way: Scripted, *, patience: float = 10.0) -> Channel:
    way.asked.clear()
    hold_until = asyncio.get_running_loop().time() + patience
    channel, server = await one.open_channel(way, origin=ORIGIN, hold_until=hold_until)
    assert server == way.asked[-1], "the returned server is the one that was tried last"
    return channel


async def test_a_server_that_fails_goes_to_the_end_of_the_order() -> None:
    one, failed = failover(A, B, C)
    way = Scripted({A: ChannelRefused("a")})
    assert await ask(one, way) is CHANNEL
    assert (way.asked, failed, one.order) == ([A, B], [A], (B, C, A))
    assert await ask(one, way) is CHANNEL
    assert way.asked == [B]


async def test_the_failure_of_the_first_configured_server_is_reported() -> None:
    """The reported failure does not depend on how often and in which order the servers were tried."""
    one, _ = failover(A, B, C)
    failures: dict[Endpoint, ChannelError] = {server: ChannelRefused(str(server)) for server in (A, B, C)}
    await ask(one, Scripted({A: failures[A]}))
    assert one.order == (B, C, A)
    way = Scripted(failures)
    for _ in range(3):
        with pytest.raises(ChannelRefused) as told:
            await ask(one, way)
        assert told.value is failures[A]
        assert sorted(way.asked) == [A, B, C]


async def test_a_new_failover_starts_with_the_order_of_the_previous_one() -> None:
    """Servers that the other order does not have come last."""
    one, _ = failover(A, B, C, order=(C, A, Endpoint("10.0.0.9", 1)))
    assert one.order == (B, C, A)


@pytest.mark.parametrize("error", [LinkDown("no link"), ChannelProhibited("no")], ids=["link", "channel"])
async def test_the_next_server_is_tried_only_if_the_link_works(error: ProxyError) -> None:
    one, failed = failover(A, B)
    way = Scripted({A: error})
    if isinstance(error, ChannelError):
        assert await ask(one, way) is CHANNEL
        assert (way.asked, failed) == ([A, B], [A])
    else:
        with pytest.raises(LinkDown):
            await ask(one, way)
        assert (way.asked, failed) == ([A], [])


async def test_waiting_for_memory_does_not_count_as_a_failure_of_the_server() -> None:
    budget = MemoryBudget(16 << 20, 100)
    waiting = WaitingForMemory(budget)
    one = Failover((A, B), budget, waiting)
    budget.charge(16 << 20)
    way = Scripted({A: MemoryExhausted("all given out")})
    asking = Tasks("test").spawn(ask(one, way), name="ask")
    async with asyncio.timeout(30):
        while not waiting:
            await asyncio.sleep(0)
    assert (way.asked, one.order) == ([A], (A, B))
    way.failures.clear()
    budget.release(16 << 20)
    waiting.wake()
    assert await asking is CHANNEL
    assert way.asked == [A, A]


async def test_memory_that_is_never_released_is_the_error_reported() -> None:
    one, _ = failover(A, B)
    with pytest.raises(MemoryExhausted):
        await ask(one, Scripted({A: MemoryExhausted("all given out")}), patience=0.05)


async def test_all_servers_together_answer_in_time() -> None:
    one, _ = failover(A, B, C)
    way = Scripted({server: ChannelTimeout("no answer") for server in (A, B, C)})
    now = asyncio.get_running_loop().time()
    with pytest.raises(ChannelTimeout):
        await one.open_channel(way, origin=ORIGIN, hold_until=now + 1, answer_by=now + 30_000)
    shares = [round((deadline - now) / 1000) for deadline in way.deadlines]
    assert shares == [10, 15, 30], "a server that needs less time leaves more to the next one"
