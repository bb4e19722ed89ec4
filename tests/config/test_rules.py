"""Rules across sections: addresses that collide, circles of jumps, and their hints."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import rules
from proxy.config.model import AdminConfig, ClusterConfig, Config, GatewayConfig
from proxy.runtime.endpoint import Endpoint


def cluster(listen: str, *, gateway: str = "direct", allow_remote: bool = True) -> ClusterConfig:
    return ClusterConfig(
        gateway=gateway,
        listen=Endpoint.parse(listen),
        allow_remote=allow_remote,
        api_servers=(Endpoint("10.0.0.10", 6443),),
    )


def gateways(**jumps: tuple[str, ...]) -> dict[str, GatewayConfig]:
    return {
        name: GatewayConfig(host=name, agent=True, known_hosts=(Path("/dev/null"),), jump=jump)
        for name, jump in jumps.items()
    }


def findings(config: Config) -> list[tuple[str, str]]:
    return [(".".join(map(str, finding.loc)), finding.message) for finding in rules.check(config)]


@pytest.mark.parametrize(
    ("one", "other", "collide"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:1", "127.0.0.2:1", False),
        ("localhost:1", "127.0.0.1:1", True),
        ("LocalHost:1", "127.0.0.1:1", True),
        ("0.0.0.0:1", "127.0.0.1:1", True),
        ("[::]:1", "127.0.0.1:1", True),
        ("[::]:1", "[::1]:1", True),
        ("[::1]:1", "[0:0::1]:1", True),
        ("[::1]:1", "127.0.0.1:1", False),
        ("Bastion:1", "bastion:1", True),
    ],
)
def test_two_addresses_that_collide_are_reported(one: str, other: str, collide: bool) -> None:
    for first, second in ((one, other), (other, one)):
        found = findings(Config(version=1, clusters={"a": cluster(first), "b": cluster(second)}))
        assert [place for place, _ in found] == (["clusters.b.listen"] if collide else [])


def test_the_administrative_address_collides_too() -> None:
    (found,) = rules.check(
        Config(
            version=1,
            admin=AdminConfig(listen=Endpoint("127.0.0.1", 1)),
            clusters={"a": cluster("127.0.0.1:1")},
        )
    )
    assert (found.message, found.hint) == (
        "127.0.0.1:1 is already taken by admin.listen",
        "give each an address of its own, for example port 2",
    )


@pytest.mark.parametrize(
    "listen", ["10.0.0.1:1", "0.0.0.0:1", "[::]:1", "bastion:1", "127.1:1", "localhost.example.com:1"]
)
def test_an_address_that_may_not_be_loopback_needs_allow_remote(listen: str) -> None:
    (found,) = findings(Config(version=1, clusters={"a": cluster(listen, allow_remote=False)}))
    assert found == ("clusters.a.listen", f"{listen} can be reached from other machines")
    assert not findings(Config(version=1, clusters={"a": cluster(listen)}))


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("127.0.0.1:1", "clusters.a.listen"),
        ("localhost:1", "clusters.a.listen"),
        ("[::1]:2", "clusters.b.listen"),
        ("127.0.0.1:2", "clusters.b.listen"),
        ("127.0.0.1:9464", "admin.listen"),
        ("127.0.0.2:1", ""),
        ("10.0.0.1:2", ""),
        ("127.0.0.1:3", ""),
    ],
)
def test_kubemux_as_api_server_of_a_direct_cluster_is_reported(address: str, own: str) -> None:
    looping = cluster("127.0.0.1:4").model_copy(
        update={"api_servers": (Endpoint("10.0.0.1", 1), Endpoint.parse(address))}
    )
    clusters = {"a": cluster("127.0.0.1:1"), "b": cluster("[::]:2"), "c": looping}
    found = findings(Config(version=1, clusters=clusters))
    message = f"{address} is kubemux's own {own}: it would be connected to itself"
    assert found == ([("clusters.c.api_servers.1", message)] if own else [])
    # Behind a gateway, the same address is another machine.
    behind = looping.model_copy(update={"gateway": "edge"})
    assert not findings(Config(version=1, gateways=gateways(edge=()), clusters={**clusters, "c": behind}))


def test_the_missing_known_hosts_can_be_had_by_copying_the_hint() -> None:
    gateway = GatewayConfig(host="bastion", port=2222, agent=True)
    [found] = rules.check(Config(version=1, gateways={"edge": gateway}))
    assert "ssh-keyscan -p 2222 bastion (compare" in found.hint


def test_every_circle_is_shown_once() -> None:
    jumps = gateways(z=("a",), a=("b",), b=("c",), c=("a",), own=("own",), free=("a", "z"))
    assert findings(Config(version=1, gateways=jumps)) == [
        ("gateways.a.jump", "the jumps go in a circle: a -> b -> c -> a"),
        ("gateways.own.jump", "the jumps go in a circle: own -> own"),
    ]


@given(st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=6, max_size=6))
def test_jumps_without_a_circle_are_accepted_and_reported_circles_are_closed(hops: list[list[int]]) -> None:
    backwards = {str(n): tuple(str(hop) for hop in hops[n] if hop < n) for n in range(6)}
    assert not findings(Config(version=1, gateways=gateways(**backwards)))
    anyhow = {str(n): tuple(map(str, hops[n])) for n in range(6)}
    for place, message in findings(Config(version=1, gateways=gateways(**anyhow))):
        ring = message.partition(": ")[2].split(" -> ")
        assert place == f"gateways.{ring[0]}.jump"
        assert ring[0] == ring[-1]
        assert all(after in anyhow[before] for before, after in pairwise(ring))


def test_a_reference_that_dangles_suggests_the_nearest() -> None:
    config = Config(
        version=1, gateways=gateways(edge=()), clusters={"a": cluster("127.0.0.1:1", gateway="egde")}
    )
    (found,) = rules.check(config)
    assert found.hint == "did you mean 'edge'? there are: 'edge', 'direct'"
