"""Properties of a channel's receive window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.ssh.native.wire.errors import ProtocolError
from proxy.ssh.native.wire.window import IDLE_S, NARROWEST, OFTEN, TICK_S, WIDEST, ReceiveWindow

FLOOR = 1000


class Peer(RuleBasedStateMachine):
    """A peer that sends what the window allows, a user that reads at any time, and a budget that grows and
    shrinks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.window = ReceiveWindow(FLOOR, now=0.0)
        self.may_send = FLOOR
        self.untaken = 0
        self.owed = 0
        self.passed = 0

    @rule(nbytes=st.integers(0, 1 << 20))
    def others(self, nbytes: int) -> None:
        self.passed += nbytes

    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        nbytes = data.draw(st.integers(0, self.may_send))
        self.window.received(nbytes)
        self.may_send -= nbytes
        self.untaken += nbytes
        self.passed += nbytes

    @rule(data=st.data(), later=st.floats(0, 2 * IDLE_S), round_trip=st.floats(0, 1), tight=st.booleans())
    def take(self, data: st.DataObject, later: float, round_trip: float, tight: bool) -> None:
        nbytes = data.draw(st.integers(0, self.untaken))
        self.untaken -= nbytes
        self.owed += nbytes
        self.now += later
        if self.window.consumed(nbytes):
            assert self.owed >= min(self.window.size // 2, OFTEN)
            if self.window.is_due:
                ceiling = self.window.ceiling(round_trip, self.passed)
                assert 0 <= ceiling <= WIDEST
                if self.window.is_small(self.now, round_trip):
                    self.window.grow(max(0, min(self.window.size, ceiling - self.window.size)))
                self.window.shrink(self.now, ceiling, tight=tight)
                self.window.reviewed(self.now, self.passed)
            self.may_send += self.window.grant()
            self.owed = 0

    @invariant()
    def the_peer_never_has_more_than_the_window(self) -> None:
        assert self.may_send == self.window.credit
        assert self.may_send + self.untaken + self.owed == self.window.size

    @invariant()
    def a_user_who_takes_everything_never_stalls_the_peer(self) -> None:
        assert self.window.size >= FLOOR
        if not self.untaken:
            assert self.may_send > 0


TestPeer = Peer.TestCase


def test_more_than_the_window_is_an_error() -> None:
    window = ReceiveWindow(10, now=0.0)
    window.received(10)
    with pytest.raises(ProtocolError, match="whose window has 0"):
        window.received(1)


@given(st.integers(1, 20))
def test_idle_windows_return_to_where_they_started(doublings: int) -> None:
    window, now = ReceiveWindow(FLOOR, now=0.0), 0.0
    for _ in range(doublings):
        window.grow(window.size)
    window.reviewed(now, 0)
    window.grant()
    for _ in range(doublings):
        now += IDLE_S
        window.received(window.size // 2)
        assert window.consumed(window.size // 2)
        assert window.is_due
        window.shrink(now, tight=False)
        window.reviewed(now, 0)
        window.grant()
    assert window.size == FLOOR


class Link:
    """Several downloads over one link, without a budget.

    On a long path each download has a whole window in flight, on a short path only `at_once` bytes.
    """

    def __init__(self, downloads: int, round_trip: float, at_once: int = WIDEST) -> None:
        self.windows = [ReceiveWindow(256 << 10, now=0.0) for _ in range(downloads)]
        self.round_trip, self.at_once = round_trip, at_once
        self.now, self.passed = 0.0, 0

    def carry(self, rounds: int, downloads: int) -> None:
        """Each round is half a round trip, in which the first `downloads` send up to half their
        window each.
        """
        for _ in range(rounds):
            self.now += self.round_trip / 2
            for window in self.windows[:downloads]:
                nbytes = min((window.size + 1) // 2, window.credit, self.at_once)
                window.received(nbytes)
                self.passed += nbytes
                if window.consumed(nbytes):
                    if window.is_due:
                        ceiling = window.ceiling(self.round_trip, self.passed)
                        if window.is_small(self.now, self.round_trip):
                            window.grow(max(0, min(window.size, ceiling - window.size)))
                        window.shrink(self.now, ceiling, tight=False)
                        window.reviewed(self.now, self.passed)
                    window.grant()


@given(st.floats(0, TICK_S / 4))
def test_on_a_short_path_a_window_grows_but_makes_no_queue(round_trip: float) -> None:
    link = Link(1, round_trip, 512 << 10)
    link.carry(50, 1)
    assert link.windows[0].size == NARROWEST


def test_on_a_long_path_a_window_grows_to_the_widest() -> None:
    link = Link(1, 0.1)
    link.carry(50, 1)
    assert link.windows[0].size == WIDEST


@given(st.integers(2, 40))
def test_on_a_short_path_many_channels_share_the_queue(downloads: int) -> None:
    link = Link(downloads, TICK_S / 5, 128 << 10)
    link.carry(50, 1)
    link.carry(100, downloads)
    assert sum(window.size for window in link.windows) <= (2 + downloads / 2) * NARROWEST
    if downloads > 4:
        assert link.windows[0].size < NARROWEST  # it makes room for the others


@given(st.integers(2, 10))
def test_on_a_long_path_an_old_channel_does_not_keep_new_ones_small(downloads: int) -> None:
    link = Link(downloads, 0.1)
    link.carry(50, 1)
    link.carry(100, downloads)
    assert min(window.size for window in link.windows) >= WIDEST // 4


@given(st.integers(1 << 20, WIDEST), st.data())
def test_all_but_an_eighth_of_a_consumed_window_is_granted_again_at_once(
    size: int, data: st.DataObject
) -> None:
    """On a long path a whole window may arrive within one turn, in reads of any size. Most of it must be
    granted again at once.
    """
    window = ReceiveWindow(size, now=0.0)
    for read in data.draw(st.lists(st.integers(1, size), max_size=20)):
        window.received(nbytes := min(window.credit, read))
        if window.consumed(nbytes):
            window.grant()
        assert window.size - window.credit < max(OFTEN, size / 8)
