"""Names of clusters that differ only in case, which clients cannot distinguish; config/bad has the other
mistakes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config import naming
from proxy.config.matches import Match
from proxy.config.model import ClusterConfig, Config, EntryConfig, RouteConfig, SshServerConfig
from proxy.runtime.endpoint import Endpoint


def cluster(dns_name: str | None = None) -> ClusterConfig:
    return ClusterConfig(gateway="direct", api_servers=(Endpoint("10.0.0.10", 6443),), dns_name=dns_name)


ENTRY = {"proxy": EntryConfig(listen=Endpoint("127.0.0.1", 3128))}
ROUTE = (RouteConfig(name="nodes", match=(Match.parse("node-*:22"),), gateway="direct"),)


@pytest.mark.parametrize(
    ("clusters", "place"),
    [
        ({"prod": cluster(), "Prod": cluster()}, ("clusters", "Prod")),
        ({"prod": cluster(), "prod.": cluster()}, ("clusters", "prod.")),
        ({"prod": cluster(), "lab": cluster("PROD")}, ("clusters", "lab", "dns_name")),
        ({"lab": cluster("prod"), "prod": cluster()}, ("clusters", "prod")),
        ({"prod": cluster("PROD"), "lab": cluster()}, None),
    ],
)
def test_names_that_differ_in_case_alone_matter_where_clients_ask_by_name(
    clusters: dict[str, ClusterConfig], place: tuple[str, ...] | None
) -> None:
    by_entry = Config(version=1, clusters=clusters, entries=ENTRY)
    by_route = Config(version=1, clusters=clusters, routes=ROUTE)
    for config in (by_entry, by_route):
        assert [finding.loc for finding in naming.check(config)] == ([place] if place else [])
    assert not list(naming.check(Config(version=1, clusters=clusters)))


def test_routes_without_an_entry_are_reported() -> None:
    assert [one.loc for one in naming.unused(Config(version=1, routes=ROUTE))] == [("routes",)]
    assert not list(naming.unused(Config(version=1, routes=ROUTE, entries=ENTRY)))
    server = SshServerConfig(listen=Endpoint("127.0.0.1", 2222), host_keys=(Path("/k"),))
    assert not list(naming.unused(Config(version=1, routes=ROUTE, ssh_server=server)))
    assert not list(naming.unused(Config(version=1)))


def routes(*matches: str, entries: tuple[str, ...] | None = None) -> tuple[RouteConfig, ...]:
    """The first pattern makes a route for `entries`, the others a second one for `proxy`."""
    first, *others = map(Match.parse, matches)
    return (
        RouteConfig(name="first", match=(first,), gateway="direct", entries=entries),
        RouteConfig(name="second", match=tuple(others), gateway="direct", entries=("proxy",)),
    )


@pytest.mark.parametrize(
    ("earlier", "later", "is_hidden"),
    [
        ("node-*:22", "node-7:22", True),
        ("**:*", "node-7.internal:22", True),
        ("node-7:20-30", "node-7:22", True),
        ("*.nb:1-100", "*.nb:22", True),
        ("10.0.0.0/8:*", "10.1.0.0/16:22", True),
        ("10.0.0.0/8:22", "10.0.0.7:22", True),
        ("[fd00::/8]:22", "[fd00::7]:22", True),
        ("node-*:22", "node-7:22-23", False),
        ("node-*:22", "node-7.internal:22", False),
        ("10.1.0.0/16:22", "10.0.0.0/8:22", False),
        ("[::/0]:22", "10.0.0.7:22", False),
        ("**:22", "10.0.0.7:22", False),
        ("*:22", "node-*:22", False),
    ],
)
def test_a_pattern_that_an_earlier_route_hides_is_reported(earlier: str, later: str, is_hidden: bool) -> None:
    config = Config(version=1, routes=routes(earlier, "[::2]:1", later), entries=ENTRY)
    assert not list(naming.check(config))
    assert [one.loc for one in naming.hidden(config)] == [("routes", 1, "match", 1)] * is_hidden
    [finding] = naming.hidden(config) if is_hidden else [None]
    assert finding is None or finding.message == (
        f"{later} never decides: {earlier} of 'first' comes first, and covers it"
    )


def test_a_route_of_another_entry_hides_nothing() -> None:
    for entries, places in ((("proxy", "ssh"), 1), (("ssh",), 0)):
        config = Config(version=1, routes=routes("*:22", "node-7:22", entries=entries), entries=ENTRY)
        assert len(list(naming.hidden(config))) == places
