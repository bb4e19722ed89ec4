"""What a reload changes, and what it must not touch."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.allow import Rule
from proxy.config.diff import Change, Plan, plan
from proxy.config.matches import Match, Target
from proxy.config.model import (
    ClusterConfig,
    Config,
    GatewayConfig,
    KeepaliveConfig,
    LimitsConfig,
    LogConfig,
    ProbeConfig,
    RouteConfig,
    SiteConfig,
    TlsConfig,
)
from proxy.runtime.endpoint import Endpoint


def gateway(name: str, *, jump: tuple[str, ...] = (), host: str = "") -> GatewayConfig:
    return GatewayConfig(host=host or name, jump=jump, identity_files=(Path(f"/keys/{name}"),))


def cluster(name: str, *, of: str = "edge", port: int = 16443) -> ClusterConfig:
    tls = TlsConfig(ca_file=Path(f"/ca/{name}"))
    return ClusterConfig(
        gateway=of, listen=Endpoint("127.0.0.1", port), api_servers=(Endpoint("10.0.0.10", 6443),), tls=tls
    )


def route(name: str) -> RouteConfig:
    return RouteConfig(name=name, match=(Match.parse(f"*.{name}:22"),), gateway="edge")


OLD = Config(
    version=1,
    gateways={
        "hq": gateway("hq"),
        "edge": gateway("edge", jump=("hq",)),
        "far": gateway("far", jump=("edge",)),
        "us": gateway("us"),
    },
    clusters={"prod": cluster("prod"), "lab": cluster("lab", of="us", port=16444)},
    routes=(route("pods"), route("nodes")),
)


NOTHING = Plan(
    gateways=Change(kept=("hq", "edge", "far", "us")),
    clusters=Change(kept=("prod", "lab")),
    routes=Change(kept=("pods", "nodes")),
    entries=Change(),
    ssh_server=Change(),
    sites=Change(),
    users=Change(),
    limits=False,
    admin=False,
    log=False,
)


def with_gateways(**changes: GatewayConfig) -> Config:
    return OLD.model_copy(update={"gateways": {**OLD.gateways, **changes}})


def test_equal_configurations_need_nothing() -> None:
    assert plan(OLD, deepcopy(OLD)) == NOTHING


class Name(str):
    """A name that counts how often it is compared with another."""

    __slots__ = ()
    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)


def test_the_work_does_not_grow_with_the_square_of_the_sites() -> None:
    """The plan is made in the event loop. With 10,000 sites it once took 3 s."""
    count = 500

    def some(first: int) -> Config:
        sites = {Name(f"site-{number}"): SiteConfig() for number in range(first, first + count)}
        return OLD.model_copy(update={"sites": sites})

    old, new, Name.compared = some(0), some(100), 0
    change = plan(old, new).sites
    assert (len(change.removed), len(change.kept), len(change.added)) == (100, 400, 100)
    assert Name.compared < 20 * count


def test_a_gateway_changes_with_those_it_jumps_through() -> None:
    result = plan(OLD, with_gateways(hq=gateway("hq", host="new.example.com")))
    assert result.gateways == Change(changed=("hq",), renewed=("edge", "far"), kept=("us",))
    assert result.clusters.kept == ("prod", "lab")


def test_a_gateway_is_adjusted_with_those_it_jumps_through() -> None:
    more = {name: OLD.gateways[name].model_copy(update={"connections": 5}) for name in ("hq", "us")}
    assert plan(OLD, with_gateways(**more)).gateways == Change(adjusted=("hq", "edge", "far", "us"))
    keys = OLD.gateways["edge"].model_copy(update={"known_hosts": (Path("/known"),)})
    assert plan(OLD, with_gateways(**more, edge=keys)).gateways == Change(
        adjusted=("hq", "us"), renewed=("edge", "far")
    )
    changed_too = plan(OLD, with_gateways(**more), frozenset({Path("/keys/us")})).gateways
    assert changed_too == Change(adjusted=("hq", "edge", "far"), renewed=("us",))


def test_a_gateway_is_renewed_when_its_files_change() -> None:
    assert plan(OLD, OLD, frozenset({Path("/keys/edge")})).gateways == Change(
        renewed=("edge", "far"), kept=("hq", "us")
    )
    assert plan(OLD, OLD, frozenset({Path("/keys/us-cert.pub")})).gateways.renewed == ("us",), (
        "the certificate is in the folder of its key"
    )
    assert plan(OLD, OLD, frozenset({Path("/keys/unrelated")})) == NOTHING


def test_a_cluster_changes_with_its_settings_and_files_only() -> None:
    assert plan(OLD, OLD, frozenset({Path("/ca/lab")})).clusters == Change(renewed=("lab",), kept=("prod",))
    moved = OLD.model_copy(update={"clusters": {**OLD.clusters, "prod": cluster("prod", port=1)}})
    assert plan(OLD, moved).clusters == Change(changed=("prod",), kept=("lab",))


def test_a_new_gateway_in_a_chain_changes_those_behind_it() -> None:
    old = Config(version=1, gateways={"edge": gateway("edge")})
    new = Config(version=1, gateways={"edge": gateway("edge", jump=("hq",)), "hq": gateway("hq")})
    assert plan(old, new).gateways == Change(changed=("edge",), added=("hq",))
    assert plan(new, old).gateways == Change(changed=("edge",), removed=("hq",))


@pytest.mark.parametrize(
    ("update", "flag"),
    [({"limits": LimitsConfig(hold_timeout=1.0)}, "limits"), ({"log": LogConfig(level="debug")}, "log")],
)
def test_other_sections_are_flagged(update: dict[str, object], flag: str) -> None:
    result = plan(OLD, OLD.model_copy(update=update))
    assert {name for name in ("limits", "admin", "log") if getattr(result, name)} == {flag}


sets = st.sets(st.sampled_from("abcdef"))


@given(old=sets, new=sets, touched=sets)
def test_every_name_is_in_exactly_one_part_of_the_plan(
    old: set[str], new: set[str], touched: set[str]
) -> None:
    def config(names: set[str]) -> Config:
        ordered = sorted(names)
        return Config(
            version=1,
            gateways={name: gateway(name, jump=tuple(ordered[:i][-1:])) for i, name in enumerate(ordered)},
            clusters={name: cluster(name, of="direct") for name in ordered},
        )

    result: Plan = plan(config(old), config(new), frozenset(Path(f"/ca/{name}") for name in touched))
    for change in (result.gateways, result.clusters):
        assert set(change.removed) == old - new
        assert set(change.added) == new - old
        assert sorted((*change.changed, *change.renewed, *change.adjusted, *change.kept)) == sorted(old & new)
    assert set(result.clusters.renewed) == old & new & touched


@pytest.mark.parametrize(
    ("setting", "value", "fate"),
    [
        ("host", "elsewhere", "changed"),
        ("port", 2222, "changed"),
        ("user", "root", "changed"),
        ("ssh_config", Path("/etc/ssh_config"), "changed"),
        ("identity_files", (Path("/keys/new"),), "renewed"),
        ("known_hosts", (Path("/known_hosts"),), "renewed"),
        ("learned_host_keys", Path("/learned"), "renewed"),
        ("connections", 3, "adjusted"),
        ("keepalive", KeepaliveConfig(interval=1.0), "adjusted"),
        ("max_link_age", 60.0, "adjusted"),
        ("dial", "on_demand", "adjusted"),
    ],
)
def test_a_gateway_is_replaced_renewed_or_adjusted_as_its_setting_requires(
    setting: str, value: object, fate: str
) -> None:
    result = plan(OLD, with_gateways(us=OLD.gateways["us"].model_copy(update={setting: value})))
    assert getattr(result.gateways, fate) == ("us",)


@pytest.mark.parametrize(
    ("setting", "value", "fate"),
    [
        ("gateway", "edge", "changed"),
        ("api_servers", (Endpoint("10.0.0.11", 6443),), "changed"),
        ("tls", TlsConfig(), "renewed"),
        ("probe", ProbeConfig(interval=1.0), "renewed"),
    ],
)
def test_a_cluster_with_other_probes_keeps_its_connections(setting: str, value: object, fate: str) -> None:
    lab = OLD.clusters["lab"].model_copy(update={setting: value})
    result = plan(OLD, OLD.model_copy(update={"clusters": {**OLD.clusters, "lab": lab}}))
    assert getattr(result.clusters, fate) == ("lab",)
    assert result.clusters.kept == ("prod",)


@pytest.mark.parametrize(
    ("setting", "value", "fate"),
    [
        ("gateway", "us", "changed"),
        ("target", Target.parse("{1}.svc:2209"), "changed"),
        ("match", (Match.parse("pods:22"),), "renewed"),
        ("allow", (Rule("gid", "sre"),), "renewed"),
        ("entries", ("egress",), "renewed"),
    ],
)
def test_a_change_of_one_route_is_a_change_of_that_route_alone(
    setting: str, value: object, fate: str
) -> None:
    pods, nodes = OLD.routes
    other = OLD.model_copy(update={"routes": (pods.model_copy(update={setting: value}), nodes)})
    result = plan(OLD, other)
    assert result == replace(NOTHING, routes=Change(**{fate: ("pods",), "kept": ("nodes",)}))


def test_routes_come_and_go_by_name() -> None:
    other = OLD.model_copy(update={"routes": (route("new"), OLD.routes[1])})
    result = plan(OLD, other)
    assert result == replace(NOTHING, routes=Change(removed=("pods",), added=("new",), kept=("nodes",)))


def test_another_order_touches_no_route() -> None:
    assert plan(OLD, OLD.model_copy(update={"routes": OLD.routes[::-1]})) == replace(
        NOTHING, routes=Change(kept=("nodes", "pods"))
    )
