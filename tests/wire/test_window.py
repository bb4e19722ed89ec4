"""The laws of a receive window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.wire.errors import ProtocolError
from proxy.wire.window import IDLE_S, ReceiveWindow

FLOOR = 1000


class Peer(RuleBasedStateMachine):
    """A peer that sends what it may, a user who takes when it likes, a budget that gives and takes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.window = ReceiveWindow(FLOOR, now=0.0)
        self.may_send = FLOOR
        self.untaken = 0
        self.owed = 0

    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        nbytes = data.draw(st.integers(0, self.may_send))
        self.window.arrived(nbytes)
        self.may_send -= nbytes
        self.untaken += nbytes

    @rule(data=st.data(), later=st.floats(0, 2 * IDLE_S), round_trip=st.floats(0, 1), tight=st.booleans())
    def take(self, data: st.DataObject, later: float, round_trip: float, tight: bool) -> None:
        nbytes = data.draw(st.integers(0, self.untaken))
        self.untaken -= nbytes
        self.owed += nbytes
        self.now += later
        if self.window.taken(nbytes):
            assert self.owed * 2 >= self.window.size
            if self.window.is_small(self.now, round_trip):
                self.window.grow(self.window.size)
            else:
                self.window.shrink(self.now, tight=tight)
            self.may_send += self.window.grant(self.now)
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
    window.arrived(10)
    with pytest.raises(ProtocolError, match="whose window has 0"):
        window.arrived(1)


@given(st.integers(1, 20))
def test_idle_windows_return_to_where_they_started(doublings: int) -> None:
    window, now = ReceiveWindow(FLOOR, now=0.0), 0.0
    for _ in range(doublings):
        window.grow(window.size)
    window.grant(now)
    for _ in range(doublings):
        now += IDLE_S
        window.arrived(window.size // 2)
        assert window.taken(window.size // 2)
        window.shrink(now, tight=False)
        window.grant(now)
    assert window.size == FLOOR
