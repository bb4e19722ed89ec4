"""The hint for an unknown name: it names a section of another kind with that name, or the most
similar name.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.model import ClusterConfig, Config, GatewayConfig, SiteConfig
from proxy.config.unknown import no_cluster, no_gateway
from proxy.runtime.endpoint import Endpoint


def cluster(gateway: str, port: int) -> ClusterConfig:
    return ClusterConfig(
        gateway=gateway, listen=Endpoint("127.0.0.1", port), api_servers=(Endpoint("10.0.0.10", 6443),)
    )


def gateway(name: str) -> GatewayConfig:
    return GatewayConfig(host=name, agent=True, known_hosts=(Path("/dev/null"),))


CONFIG = Config(
    version=1,
    gateways={name: gateway(name) for name in ("eu-edge", "jump-only")},
    clusters={
        "prod-eu": cluster("eu-edge", 1),
        "dev eu": cluster("eu-edge", 2),
        "near": cluster("direct", 3),
        "factory": cluster("factory-7", 4),
    },
    sites={"factory-7": SiteConfig()},
)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        (
            "eu-edge",
            "'eu-edge' is a gateway, and drain takes a cluster",
            "its clusters are: 'dev eu', 'prod-eu'",
        ),
        (
            "jump-only",
            "'jump-only' is a gateway, and drain takes a cluster",
            "no cluster has it as its `gateway`",
        ),
        (
            "direct",
            "'direct' stands for no gateway at all, and drain takes a cluster",
            "clusters that are reached without a gateway: 'near'",
        ),
        ("factory-7", "'factory-7' is a site, and drain takes a cluster", "its clusters are: 'factory'"),
        (
            "prod",
            "no cluster is called 'prod'",
            "did you mean 'prod-eu'? there are: 'dev eu', 'factory', 'near', 'prod-eu'",
        ),
    ],
)
def test_where_a_cluster_is_wanted(name: str, message: str, hint: str) -> None:
    error = no_cluster(CONFIG, name, "drain")
    assert (str(error), error.hint) == (message, hint)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("prod-eu", "'prod-eu' is a cluster, and reconnect takes a gateway", "its gateway is 'eu-edge'"),
        ("near", "'near' is a cluster, and reconnect takes a gateway", "it has none (`gateway: direct`)"),
        (
            "direct",
            "'direct' stands for no gateway at all, and reconnect takes a gateway",
            "there are: 'eu-edge', 'jump-only'",
        ),
        (
            "eu_edge",
            "no gateway is called 'eu_edge'",
            "did you mean 'eu-edge'? there are: 'eu-edge', 'jump-only'",
        ),
    ],
)
def test_where_a_gateway_is_wanted(name: str, message: str, hint: str) -> None:
    error = no_gateway(CONFIG, name, "reconnect")
    assert (str(error), error.hint) == (message, hint)
