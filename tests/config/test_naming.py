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


def test_routes_without_an_entry_are_of_no_use() -> None:
    assert [one.loc for one in naming.unused(Config(version=1, routes=ROUTE))] == [("routes",)]
    assert not list(naming.unused(Config(version=1, routes=ROUTE, entries=ENTRY)))
    server = SshServerConfig(listen=Endpoint("127.0.0.1", 2222), host_keys=(Path("/k"),))
    assert not list(naming.unused(Config(version=1, routes=ROUTE, ssh_server=server)))
    assert not list(naming.unused(Config(version=1)))
