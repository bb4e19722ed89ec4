"""A relay between two channels: bytes, ends of file and backpressure. The test has its own channels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import LinkLost, MemoryExhausted, ProxyError
from proxy.errors.reasons import Reason
from proxy.metrics import Traffic
from proxy.relay.budget import MemoryBudget
from proxy.relay.channel_relay import ChannelRelay
from proxy.relay.direction import TURN
from proxy.relay.interfaces import ChannelUser, Relay
from tests.support.echo import pattern

SECONDS = 30.0


class Channel:
    """A channel whose peer is the test: it accepts `credit` bytes, and checks the rules for a user."""

    def __init__(self, credit: int = 1 << 30, *, counts_unsent: bool = True) -> None:
        self.counts_unsent = counts_unsent
        self.user: ChannelUser | None = None
        self.credit = credit
        self.sent = bytearray()
        self.calls: list[str] = []
        self._is_paused = True
        self.was_told_full = False
        self.largest = 0
        """The maximum number of bytes that were sent in one turn of the loop."""
        self._now = 0
        self._buffer = memoryview(bytearray(16 << 10))

    def attach(self, user: ChannelUser) -> None:
        self.user, self._is_paused = user, False
        self._tell()

    def detach(self, unread: bytes = b"") -> None:
        raise AssertionError("nobody detaches it")

    def get_buffer(self, sizehint: int) -> memoryview:
        assert sizehint > 0
        assert self.credit, "it was told that the channel is full"
        return self._buffer[: min(self.credit, len(self._buffer))]

    def buffer_updated(self, nbytes: int) -> None:
        assert "write_eof" not in self.calls
        self.sent += self._buffer[:nbytes]
        self.credit -= nbytes
        self._now += nbytes
        self.largest = max(self.largest, self._now)
        asyncio.get_running_loop().call_soon(self._turn)
        self._tell()

    def _turn(self) -> None:
        self._now = 0

    def _tell(self) -> None:
        if self.user is not None and self.was_told_full != (not self.credit):
            self.was_told_full = not self.credit
            (self.user.channel_full if self.was_told_full else self.user.channel_writable)()

    def write_eof(self) -> None:
        self.calls.append("write_eof")

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    # ------------------------------------------------------------------------------------------- its peer

    def is_paused(self) -> bool:
        return self._is_paused

    def grant(self, credit: int) -> None:
        self.credit += credit
        self._tell()

    def says(self, data: bytes) -> None:
        """Deliver `data` in a buffer that is then overwritten, unless the channel is paused."""
        assert not self._is_paused
        assert self.user is not None
        buffer = bytearray(data)
        self.user.channel_data([memoryview(buffer)], len(buffer))
        if not self.is_paused():
            buffer[:] = bytes(len(buffer))

    def ends(self) -> None:
        assert self.user is not None
        self.user.channel_eof()

    def lost(self, error: ProxyError | None = None) -> None:
        assert self.user is not None
        self.user.channel_lost(error)


class Pair:
    """A relay between a client's channel and a channel to a cluster."""

    def __init__(self, client: Channel | None = None, cluster: Channel | None = None) -> None:
        self.client = client or Channel()
        self.cluster = cluster or Channel()
        self.budget = MemoryBudget(1 << 20, 10)
        self.traffic = Traffic()
        self.ended: list[Relay] = []
        self.relay = ChannelRelay(
            self.cluster, self.traffic, self.budget, self.ended.append, lambda: self.client
        )

    async def started(self) -> Pair:
        await self.relay.start()
        return self


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0)


async def test_bytes_go_both_ways_and_are_counted() -> None:
    pair = await Pair().started()
    pair.client.says(b"hello")
    pair.cluster.says(b"hi")
    assert bytes(pair.cluster.sent) == b"hello"
    assert bytes(pair.client.sent) == b"hi"
    assert (pair.relay.to_cluster, pair.relay.from_cluster) == (5, 2)
    assert (pair.traffic.to_cluster, pair.traffic.from_cluster) == (5, 2)
    assert pair.relay.first_byte_at is not None


async def test_each_direction_ends_by_itself_and_then_both_channels_are_closed() -> None:
    pair = await Pair().started()
    pair.client.ends()
    assert pair.cluster.calls == ["write_eof"]
    assert pair.client.calls == []
    pair.cluster.says(b"the answer")
    pair.cluster.ends()
    assert bytes(pair.client.sent) == b"the answer"
    assert pair.client.calls == ["write_eof", "close"]
    assert pair.cluster.calls == ["write_eof", "close"]
    assert not pair.ended
    pair.client.lost()
    assert not pair.ended
    pair.cluster.lost()
    assert pair.ended == [pair.relay]
    assert pair.relay.reason == Reason.CLIENT_CLOSED


@pytest.mark.parametrize("counts_unsent", [True, False])
async def test_a_full_sink_pauses_the_source_and_waiting_bytes_go_first(counts_unsent: bool) -> None:
    pair = await Pair(Channel(counts_unsent=counts_unsent), Channel(credit=10)).started()
    pair.client.says(b"0123456789abcdef")
    assert bytes(pair.cluster.sent) == b"0123456789"
    assert pair.client.is_paused()
    assert pair.relay.is_client_paused
    assert not pair.relay.is_cluster_paused
    assert pair.budget.used == (0 if counts_unsent else 6)
    pair.client.ends()
    assert pair.cluster.calls == [], "the end of file comes after the bytes"
    pair.cluster.grant(4)
    assert bytes(pair.cluster.sent) == b"0123456789abcd"
    assert pair.client.is_paused()
    pair.cluster.grant(100)
    assert bytes(pair.cluster.sent) == b"0123456789abcdef"
    assert pair.cluster.calls == ["write_eof"]
    assert not pair.client.is_paused()
    assert pair.budget.used == 0


async def test_a_sink_that_is_full_from_the_start_is_respected() -> None:
    pair = await Pair(Channel(credit=0), Channel(credit=0)).started()
    assert not pair.client.is_paused(), "one of them has been attached after it was paused"
    pair.client.says(b"x")
    assert pair.client.is_paused()
    pair.cluster.grant(1)
    assert bytes(pair.cluster.sent) == b"x"


async def test_a_turn_copies_a_bounded_number_of_bytes() -> None:
    pair = await Pair().started()
    data = pattern(5 * TURN + 1)
    pair.cluster.says(data)
    assert pair.cluster.is_paused()
    assert len(pair.client.sent) == TURN
    await until(lambda: not pair.cluster.is_paused())
    assert bytes(pair.client.sent) == data
    assert pair.client.largest <= TURN


@pytest.mark.parametrize(
    ("side", "error", "reason"),
    [
        ("cluster", LinkLost("gone"), LinkLost.reason),
        ("cluster", None, Reason.CLUSTER_RESET),
        ("client", LinkLost("gone"), Reason.CLIENT_RESET),
    ],
)
async def test_a_channel_that_is_lost_ends_the_other_at_once(
    side: str, error: ProxyError | None, reason: Reason
) -> None:
    pair = await Pair(Channel(credit=1), Channel(credit=1)).started()
    for channel in (pair.client, pair.cluster):
        channel.says(b"xyz")
    lost, other = (pair.client, pair.cluster) if side == "client" else (pair.cluster, pair.client)
    lost.lost(error)
    assert other.calls == ["abort"]
    assert pair.ended == [pair.relay]
    assert pair.relay.reason == reason
    assert pair.budget.used == 0


@pytest.mark.parametrize("has_eof", [True, False])
async def test_a_client_that_closes_leaves_its_bytes_to_the_cluster(has_eof: bool) -> None:
    pair = await Pair(cluster=Channel(credit=1)).started()
    pair.client.says(b"xyz")
    if has_eof:
        pair.client.ends()
    pair.client.lost()
    assert pair.budget.used == 2, "no window counts them any more"
    assert not pair.ended
    pair.cluster.says(b"nobody reads it")
    pair.cluster.grant(2)
    assert bytes(pair.cluster.sent) == b"xyz"
    assert pair.cluster.calls[:2] == ["write_eof", "close"]
    pair.cluster.lost()
    assert pair.ended == [pair.relay]
    assert pair.relay.reason == Reason.CLIENT_CLOSED
    assert pair.budget.used == 0


async def test_bytes_of_a_cluster_before_its_close_are_delivered() -> None:
    pair = await Pair(Channel(credit=3)).started()
    pair.cluster.says(b"answer")
    pair.cluster.ends()
    pair.cluster.lost()
    assert pair.client.calls == []
    pair.client.grant(3)
    assert bytes(pair.client.sent) == b"answer"
    assert pair.client.calls == ["write_eof", "close"]
    pair.client.lost()
    assert pair.ended == [pair.relay]
    assert pair.relay.reason == Reason.CLUSTER_CLOSED


async def test_a_client_that_is_gone_leaves_no_channel() -> None:
    pair = Pair()

    def gone() -> Channel:
        raise ConnectionResetError("gone")

    relay = ChannelRelay(pair.cluster, pair.traffic, pair.budget, pair.ended.append, gone)
    with pytest.raises(ConnectionResetError):
        await relay.start()
    assert pair.cluster.calls == ["abort"]
    assert not relay.has_started
    assert not pair.ended


async def test_a_client_without_memory_leaves_no_channel() -> None:
    pair = Pair()

    def short() -> Channel:
        raise MemoryExhausted("none")

    relay = ChannelRelay(pair.cluster, pair.traffic, pair.budget, pair.ended.append, short)
    with pytest.raises(MemoryExhausted):
        await relay.start()
    assert pair.cluster.calls == ["abort"]


async def test_a_half_close_lets_the_cluster_finish() -> None:
    pair = await Pair().started()
    pair.relay.half_close(Reason.SHUTDOWN)
    assert pair.cluster.calls == ["write_eof"]
    assert pair.client.is_paused()
    pair.cluster.says(b"the last event")
    pair.cluster.ends()
    assert bytes(pair.client.sent) == b"the last event"
    assert pair.client.calls == ["write_eof", "close"]
    pair.client.lost()
    pair.cluster.lost()
    assert pair.relay.reason == Reason.SHUTDOWN


async def test_an_abort_closes_both_sides_at_once() -> None:
    pair = await Pair(Channel(credit=1), Channel(credit=1, counts_unsent=False)).started()
    pair.cluster.says(b"xyz")
    pair.relay.abort(Reason.IDLE)
    assert pair.client.calls == pair.cluster.calls == ["abort"]
    assert pair.ended == [pair.relay]
    assert pair.relay.reason == Reason.IDLE
    assert pair.budget.used == 0
    pair.client.lost()
    pair.cluster.lost()
    assert pair.ended == [pair.relay]


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("says"), st.booleans(), st.integers(1, 5000)),
        st.tuples(st.just("grant"), st.booleans(), st.integers(1, 3000)),
        st.tuples(st.just("ends"), st.booleans(), st.just(0)),
        st.tuples(st.just("closes"), st.booleans(), st.just(0)),
    ),
    max_size=40,
)


@given(actions=ACTIONS, room=st.tuples(st.integers(0, 2000), st.integers(0, 2000)))
@settings(deadline=None)
async def test_every_byte_arrives_in_order_and_nothing_is_kept(
    actions: list[tuple[str, bool, int]], room: tuple[int, int]
) -> None:
    """For all behaviour of the two peers within the rules, after both have received everything."""
    pair = await Pair(Channel(room[0]), Channel(room[1], counts_unsent=False)).started()
    said = {True: bytearray(), False: bytearray()}
    over: set[bool] = set()
    closed: set[bool] = set()
    for what, is_client, number in actions:
        channel = pair.client if is_client else pair.cluster
        if is_client in closed or "abort" in channel.calls or "close" in channel.calls:
            continue
        if what == "grant":
            channel.grant(number)
        elif what == "says" and not channel.is_paused() and is_client not in over:
            data = pattern(number, len(said[is_client]))
            if (not is_client) not in closed:
                said[is_client] += data
            channel.says(data)
        elif what == "ends" and is_client not in over:
            over.add(is_client)
            channel.ends()
        elif what == "closes" and is_client in over:
            closed.add(is_client)
            channel.lost()
    for is_client, sink in ((True, pair.cluster), (False, pair.client)):
        if (not is_client) not in closed:
            sink.grant(1 << 30)
            assert sink.sent == said[is_client]
            assert ("write_eof" in sink.calls) == (is_client in over)
        else:
            assert said[is_client].startswith(sink.sent)
    for is_client, channel in ((True, pair.client), (False, pair.cluster)):
        if is_client not in closed:
            channel.lost()
    assert pair.ended == [pair.relay]
    assert pair.budget.used == 0
