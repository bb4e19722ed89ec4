"""For every sequence of events of a gateway's links: none is forgotten, and there are never more than twice
as many as configured.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.ssh.pace import CROWD
from proxy.ssh.supervision.links import MAX_PREFERRED, Links


@dataclass(eq=False)
class Stub:
    load: int = 0
    moved: int = 0

    @property
    def weight(self) -> int:
        return self.load // CROWD + self.moved


def filled(count: int) -> tuple[Links[Stub], list[Stub]]:
    links: Links[Stub] = Links()
    stubs = [Stub() for _ in range(count)]
    for stub in stubs:
        links.add(stub, links.generation)
    return links, stubs


def test_the_least_busy_link_takes_the_channel() -> None:
    links, (one, two) = filled(2)
    one.load, two.load = 3, 2
    assert links.choose("a") is two
    two.moved = 2
    assert links.choose("a") is one
    with pytest.raises(ValueError, match="empty"):
        Links[Stub]().choose("a")


def test_channels_to_one_api_server_share_a_link_that_is_not_busy() -> None:
    links, (one, two) = filled(2)
    for _ in range(CROWD):
        links.choose("a").load += 1
    assert (one.load, two.load) == (CROWD, 0)
    assert links.choose("b") is two, "of the links that are not busy, the one with fewer channels"
    assert links.choose("a") is two, "idle channels count: sshd needs memory for them"
    one.load, two.moved = 10, 100
    assert links.choose("a") is one
    two.moved = 0
    assert links.choose("a") is one, "a target does not move back without a reason"
    assert links.choose("b") is two, "this target was never moved"


def test_an_ended_link_is_never_the_first_choice() -> None:
    links, (one, two) = filled(2)
    home = links.choose("a")
    links.remove(home)
    assert links.choose("a") is (two if home is one else one)


def test_a_link_that_comes_up_gets_its_share() -> None:
    links, (one,) = filled(1)
    clusters = range(6)
    assert all(links.choose(cluster) is one for cluster in clusters)
    two = Stub()
    links.add(two, links.generation)
    assert [links.choose(cluster) for cluster in clusters] == [one, two] * 3, (
        "also if each has closed its channel by now"
    )
    assert [links.choose(cluster) for cluster in clusters] == [one, two] * 3, "the targets stay there"


def test_unused_targets_are_forgotten() -> None:
    links, _ = filled(2)
    for target in range(3 * MAX_PREFERRED):
        links.choose(target)
    assert len(links._preferred) <= MAX_PREFERRED


def test_stale_links_serve_until_there_is_a_fresh_one() -> None:
    links, (one, two) = filled(2)
    links.renew()
    assert links.lacks(2)
    assert links.choose("a") in (one, two)
    new = Stub(load=99)
    links.add(new, links.generation)
    assert links.retire_surplus(2) == [one]
    assert links.choose("a") is new, "a stale link gets no new channels, however busy the fresh one is"
    assert (list(links), links.retiring, links.stale) == ([two, new], [one], [two])
    assert links.lacks(2)
    assert not links.remove(one)
    assert links.remove(two)
    assert links.lacks(2)


def test_a_link_whose_dial_began_before_is_stale_at_once() -> None:
    links, _ = filled(0)
    generation = links.generation
    links.renew()
    links.add(Stub(), generation)
    assert len(links.stale) == 1
    assert links.lacks(1)


def test_one_link_at_a_time_is_marked_stale_and_only_if_there_is_room() -> None:
    links, (one, two) = filled(2)
    assert links.mark_stale(one, wanted=2)
    assert not links.mark_stale(one, wanted=2), "this link is condemned already"
    assert links.choose("a") is two
    links.add(Stub(), links.generation)
    assert links.retire_surplus(2) == [one]
    assert not links.mark_stale(one, wanted=2), "this link is retired already"
    assert not links.mark_stale(two, wanted=1), "another link is retiring, and there is no room for two"


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 4))
def test_if_too_many_links_retire_those_with_the_fewest_channels_end(loads: list[int], wanted: int) -> None:
    links, stubs = filled(len(loads))
    for stub, load in zip(stubs, loads, strict=True):
        stub.load = load
    links.retire_surplus(0)
    ended = links.retiring_surplus(wanted)
    kept = [stub for stub in stubs if stub not in ended]
    assert len(kept) == min(wanted, len(stubs))
    assert not ended or max(stub.load for stub in ended) <= min(stub.load for stub in kept)
    assert all(
        stubs.index(kept_one) < stubs.index(one)
        for one in ended
        for kept_one in kept
        if kept_one.load == one.load
    )


class Life(RuleBasedStateMachine):
    """Uses `Links` as the supervisor in `proxy/ssh/supervision/gateway.py` does."""

    def __init__(self) -> None:
        super().__init__()
        self.links: Links[Stub] = Links()
        self.all: list[Stub] = []  # a list, not a set: hypothesis needs the same order for the same history
        self.wanted = 2
        self.dialling = 0

    def end(self, link: Stub) -> None:
        self.links.remove(link)
        self.all.remove(link)

    @rule()
    def dial(self) -> None:
        self.dialling = self.links.generation

    @rule(load=st.integers(0, 5))
    def up(self, load: int) -> None:
        if self.links.lacks(self.wanted):
            link = Stub(load)
            self.all.append(link)
            self.links.add(link, self.dialling)
            self.dialling = self.links.generation
            self.settle()

    def settle(self) -> None:
        self.links.retire_surplus(self.wanted)
        for link in self.links.retiring_surplus(self.wanted):
            self.end(link)

    @rule()
    def renew(self) -> None:
        self.links.renew()

    @rule(wanted=st.integers(1, 4))
    def configure(self, wanted: int) -> None:
        self.wanted = wanted
        self.settle()

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.all)))

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def mark_stale(self, data: st.DataObject) -> None:
        self.links.mark_stale(data.draw(st.sampled_from(self.all)), wanted=self.wanted)

    @invariant()
    def holds(self) -> None:
        serving, retiring = list(self.links), self.links.retiring
        assert {*serving, *retiring} == {*self.all}
        assert len(serving) + len(retiring) == len(self.all)
        assert len(serving) <= self.wanted
        assert len(retiring) <= self.wanted
        assert self.links.lacks(self.wanted) == (len(serving) - len(self.links.stale) < self.wanted)
        if serving:
            fresh = [link for link in serving if link not in self.links.stale]
            assert self.links.choose("a") in (fresh or serving)


TestLife = Life.TestCase
