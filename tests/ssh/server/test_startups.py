"""Limits before the login, and penalties, with a clock of the test."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.model import SshServerConfig
from proxy.config.reading import read
from proxy.ssh.server import penalties
from proxy.ssh.server.penalties import LEAST_S, MOST_S, REFUSED_S, Penalties
from proxy.ssh.server.startups import Startups

A_KEY: Final = ["/etc/kubemux/ssh_host_ed25519_key"]


def startups(**settings: object) -> Startups:
    found = Startups()
    found.config = read(SshServerConfig, {"listen": "127.0.0.1:2222", "host_keys": A_KEY, **settings})
    return found


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::1%eth1", True),
    ],
)
def test_addresses_of_one_network_are_one_source(one: str, other: str, is_same: bool) -> None:
    known = startups()
    assert (known.source(one) == known.source(other)) is is_same


def test_the_operators_networks_are_counted_separately() -> None:
    known = startups(
        max_startups=2,
        per_source_max_startups=1,
        sources=[{"networks": ["10.0.0.0/8", "fd00::/8"], "max_startups": 3}],
    )
    mine = [known.source(host) for host in ("10.0.0.1", "10.1.2.3", "fd00::1")]
    assert all(map(known.enter, mine))
    assert not known.enter(mine[0])
    strangers = [known.source(host) for host in ("192.0.2.1", "192.0.2.2", "192.0.2.3")]
    assert [known.enter(one) for one in strangers] == [True, True, False]
    assert not known.enter(strangers[0])
    known.leave(strangers[0])
    assert known.enter(strangers[2])
    known.leave(mine[1])
    assert known.enter(mine[0])
    assert len(known) == 5


@given(st.lists(st.tuples(st.sampled_from(["10.0.0.1", "192.0.2.1", "192.0.2.2"]), st.booleans())))
def test_only_open_connections_are_counted(steps: list[tuple[str, bool]]) -> None:
    known = startups(max_startups=3, per_source_max_startups=2, sources=[{"networks": ["10.0.0.0/8"]}])
    inside: list[str] = []
    for host, comes in steps:
        if comes and known.enter(known.source(host)):
            inside.append(host)
        elif not comes and host in inside:
            known.leave(known.source(host))
            inside.remove(host)
        assert len(known) == len(inside)
        strangers = [one for one in inside if one.startswith("192")]
        assert len(strangers) <= 3
        assert all(strangers.count(one) <= 2 for one in strangers)


def test_failures_add_up_and_are_forgotten() -> None:
    known, source = Penalties(), startups().source("192.0.2.1")
    assert [known.add(source, REFUSED_S, 0.0) for _ in range(4)] == [False, False, False, True]
    assert known.seconds_left(source, 0.0) == 4 * REFUSED_S > LEAST_S
    assert known.seconds_left(startups().source("192.0.2.2"), 0.0) == 0
    assert known.seconds_left(source, 19.0) == 1.0
    assert known.seconds_left(source, 20.0) == 0
    assert not known.add(source, REFUSED_S, 20.0)


def test_slow_failures_lock_no_source_out() -> None:
    known, source = Penalties(), startups().source("192.0.2.1")
    assert not any(known.add(source, REFUSED_S, now * 6.0) for now in range(100))


def test_penalties_and_remembered_sources_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    known, of = Penalties(), startups()
    for _ in range(1000):
        known.add(of.source("192.0.2.1"), REFUSED_S, 0.0)
    assert known.seconds_left(of.source("192.0.2.1"), 0.0) == MOST_S
    monkeypatch.setattr(penalties, "MOST_SOURCES", 3)
    for number in range(10):
        known.add(of.source(f"198.51.100.{number}"), LEAST_S + 1, float(number))
    assert len(known) == 3
    assert known.seconds_left(of.source("192.0.2.1"), 9.0) > 0
