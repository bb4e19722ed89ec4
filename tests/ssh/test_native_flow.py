"""Which clients may send when a link's socket does not accept everything."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ssh.native.flow import DEBT, HIGH_WATER, RESUME_AT_ONCE, SHARE, SHARED_WAY, TURN_LIMIT, Flow
from proxy.ssh.turns import Turns

MIB = 1 << 20


class Talker:
    def __init__(self, log: list[Talker]) -> None:
        self.period, self.spent = 0, 0
        self.held: bool = False
        self.uses_reserve = asyncio.Event()
        self._log = log

    def hold(self) -> None:
        self.held = True

    def resume(self) -> None:
        self.held = False
        self._log.append(self)

    def use_reserve(self) -> None:
        self.uses_reserve.set()


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_on_a_congested_link_a_channel_waits_only_after_its_share() -> None:
    flow, went_on = Flow(Turns()), list[Talker]()
    bulk, small = Talker(went_on), Talker(went_on)
    flow.spend(bulk, 10 * SHARE)
    assert went_on == []  # the link takes everything
    flow.written(0)
    flow.congested()
    flow.spend(bulk, SHARE)
    flow.spend(small, 100)
    assert bulk.held
    assert not small.held
    flow.drained()
    assert went_on == [bulk]


async def test_while_other_clients_send_on_any_link_a_client_sends_a_limited_amount_per_turn() -> None:
    shared = Turns()
    mine, theirs, went_on = Flow(shared), Flow(shared), list[Talker]()
    bulk, small = Talker(went_on), Talker(went_on)

    def says(flow: Flow, talker: Talker, nbytes: int) -> None:
        flow.spend(talker, nbytes)
        flow.written(0)

    held = []
    for somebody_else in (False, False, False, True, False):
        if somebody_else:
            says(theirs, small, 100)
            theirs.turn_ends()
        says(mine, bulk, TURN_LIMIT)
        held.append(bulk.held)
        if not bulk.held:
            mine.turn_ends()
    assert held == [False, False, False, False, True]
    assert went_on == []
    mine.turn_ends()
    await turns(2 * DEBT // SHARE + 1)
    assert went_on == [bulk]


async def test_waiting_channels_resume_in_order_a_few_per_turn() -> None:
    flow, went_on = Flow(Turns()), list[Talker]()
    talkers = [Talker(went_on) for _ in range(3 * RESUME_AT_ONCE)]
    flow.congested()
    for talker in talkers:
        flow.spend(talker, SHARE)
    flow.drained()
    assert went_on == talkers[:RESUME_AT_ONCE]
    flow.congested()  # the first clients have filled the link again
    flow.spend(talkers[0], SHARE)
    await turns(7)
    assert went_on == talkers[:RESUME_AT_ONCE]
    flow.drained()
    await turns(7)
    assert went_on == [*talkers, talkers[0]]


async def test_above_high_water_and_during_a_key_exchange_sending_stops() -> None:
    flow = Flow(Turns())
    flow.congested()
    flow.written(HIGH_WATER + 1)
    assert flow.is_shut
    flow.keys(is_rekeying=True)
    flow.drained()
    assert flow.is_shut
    flow.keys(is_rekeying=False)
    assert not flow.is_shut


async def test_a_channel_that_has_ended_is_not_resumed() -> None:
    flow, went_on = Flow(Turns()), list[Talker]()
    talker = Talker(went_on)
    flow.wait(talker)
    flow.forget(talker)
    flow.drained()
    assert went_on == []


async def test_channels_that_could_not_send_resume_before_those_that_used_their_share() -> None:
    flow, went_on = Flow(Turns()), list[Talker]()
    bulks, small = [Talker(went_on) for _ in range(3)], Talker(went_on)
    flow.congested()
    for bulk in bulks:
        flow.spend(bulk, SHARE)
    flow.written(HIGH_WATER + 1)
    flow.wait(small)  # this client could not send while the link was blocked
    flow.drained()
    assert went_on == [small, *bulks]


async def test_a_channel_that_used_many_shares_skips_as_many_rounds_unless_it_is_alone() -> None:
    flow, went_on = Flow(Turns()), list[Talker]()
    greedy, fair = Talker(went_on), Talker(went_on)
    flow.congested()
    flow.spend(greedy, 3 * SHARE)
    flow.spend(fair, SHARE)
    for _ in range(2):
        flow.drained()
        assert went_on.pop() is fair
        assert not went_on
        flow.congested()
        flow.spend(fair, SHARE)
    flow.drained()
    assert went_on == [greedy, fair]
    went_on.clear()
    flow.congested()
    flow.spend(greedy, 100 * DEBT)
    flow.drained()
    await turns(2 * DEBT // SHARE)  # no other client has anything to send
    assert went_on == [greedy]


class Client(Talker):
    """Sends `nbytes` whenever it may; `bursts` times in a turn as long as the kernel accepts everything."""

    def __init__(self, nbytes: int, bursts: int) -> None:
        super().__init__([])
        self.nbytes, self.bursts = nbytes, bursts
        self.sent = self.waited = self.longest = 0


class Kernel:
    """A link whose kernel accepts `room` bytes per turn; the rest waits, as in uvloop's transport."""

    def __init__(self, clients: list[Client], room: int) -> None:
        self.flow, self.clients, self.room = Flow(Turns()), clients, room
        self.free, self.unsent = room, 0
        self.highest = 0

    def turn(self) -> None:
        """One turn of the loop: every client that may send is read, then the kernel accepts what it can."""
        for client in self.clients:
            for _ in range(client.bursts):
                if client.held:
                    break
                if self.flow.is_shut:
                    self.flow.wait(client)
                    break
                self.flow.spend(client, client.nbytes)
                client.sent += client.nbytes
                self._write(client.nbytes)
            client.waited = client.waited + 1 if client.held else 0
            client.longest = max(client.longest, client.waited)

    def _write(self, nbytes: int) -> None:
        taken = min(self.free, nbytes)
        self.free -= taken
        was_unsent, self.unsent = self.unsent, self.unsent + nbytes - taken
        if self.unsent and not was_unsent:
            self.flow.congested()
        self.flow.written(self.unsent)
        self.highest = max(self.highest, self.unsent)

    def drain(self) -> None:
        """The kernel has sent its bytes, and accepts what waits."""
        self.free = max(0, self.room - self.unsent)
        was_unsent, self.unsent = self.unsent, max(0, self.unsent - self.room)
        if was_unsent and not self.unsent:
            self.flow.drained()


@pytest.mark.parametrize("room", [1, 2])
@pytest.mark.parametrize(
    "bursts", [[32, 1], [3, 1, 2, 1, 1, 1], [32, *[1] * 7], [1] * 20, [32] * 4 + [1] * 4]
)
async def test_bulk_shares_a_slow_link_and_small_requests_hardly_wait(bursts: list[int], room: int) -> None:
    """A simulation in turns of the loop. Clients that are read first in each turn, and several times, get
    only a little more than others.
    """
    greedy = [Client(SHARE, burst) for burst in bursts]
    modest = [Client(200, 1) for _ in range(5)]
    kernel = Kernel([*greedy, *modest], room * SHARE)
    for _ in range(300):
        kernel.turn()
        kernel.drain()
        await turns(1)
    sent = [client.sent for client in greedy]
    assert max(sent) <= 3.5 * min(sent)
    assert kernel.highest <= HIGH_WATER + 2 * SHARE
    waited = max(client.longest for client in modest)
    assert waited <= (HIGH_WATER // SHARE // room + 2 if len(bursts) * SHARE > HIGH_WATER else 0)


async def test_a_transfer_uses_its_whole_window_only_when_alone() -> None:
    flow, window, grant = Flow(Turns()), 2 << 20, 96 << 10
    bulk, small = Talker([]), Talker([])
    flow.spend(bulk, SHARE)
    assert flow.usable(bulk, window, 0, grant) == window
    for talker in (small, bulk):
        flow.written(0)
        flow.spend(talker, 100)
    assert flow.usable(bulk, window, 0, grant) == SHARED_WAY
    assert flow.usable(bulk, window - SHARED_WAY, SHARED_WAY, grant) == 0
    flow.round_trip = 0.1
    assert flow.usable(bulk, window, 0, grant) == window  # a long path holds more than that


async def test_the_reserve_is_used_if_no_more_window_is_granted() -> None:
    flow, bulk, other, gone = Flow(Turns()), Talker([]), Talker([]), Talker([])
    for talker in (bulk, other, bulk):
        flow.written(0)
        flow.spend(talker, SHARE)
    for talker in (bulk, other, gone):
        assert flow.usable(talker, MIB, SHARED_WAY, 1) == 0
    assert flow.usable(other, MIB, 0, MIB) == MIB  # the whole window
    flow.forget(gone)
    async with asyncio.timeout(30):
        await bulk.uses_reserve.wait()
    assert not any(talker.uses_reserve.is_set() for talker in (other, gone))


@given(st.integers(4 << 10, 4 << 20), st.integers(1, 100), st.data())
def test_the_reserve_never_stalls_a_transfer_whose_peer_grants_credit_late(
    window: int, parts: int, data: st.DataObject
) -> None:
    """The peer grants credit only after it has passed on a part of its window, up to all of it. Other clients
    send all the time.
    """
    threshold = max(1, window * parts // 100)

    async def run() -> None:
        flow, bulk, small = Flow(Turns()), Talker([]), Talker([])
        credit, reserve, passed = window, 0, 0
        for _ in range(20):
            assert credit, "the transfer is not stuck without credit"
            nbytes = data.draw(st.integers(1, credit))
            for talker in (small, bulk):
                flow.written(0)
                flow.spend(talker, 100)
            credit, passed = credit - nbytes, passed + nbytes
            if passed >= threshold:
                spare = credit + reserve + passed
                credit = flow.usable(bulk, spare, window - spare, passed)
                reserve, passed = spare - credit, 0

    asyncio.run(run())
