"""The hint for an unknown name: it names a section of another kind with that name, or the most
similar name.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.model import ClusterConfig, Config, EntryConfig, GatewayConfig, SiteConfig, UserConfig
from proxy.config.unknown import no_cluster, no_gateway, not_drained
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
    users={"ops": UserConfig()},
    entries={"proxy": EntryConfig(listen=Endpoint("127.0.0.1", 3128))},
)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        (
            "eu-edge",
            "'eu-edge' is a gateway, and probe takes a cluster",
            "its clusters are: 'dev eu', 'prod-eu'",
        ),
        (
            "jump-only",
            "'jump-only' is a gateway, and probe takes a cluster",
            "no cluster has it as its `gateway`",
        ),
        (
            "direct",
            "'direct' stands for no gateway at all, and probe takes a cluster",
            "clusters that are reached without a gateway: 'near'",
        ),
        ("factory-7", "'factory-7' is a site, and probe takes a cluster", "its clusters are: 'factory'"),
        (
            "prod",
            "no cluster is called 'prod'",
            "did you mean 'prod-eu'? there are: 'dev eu', 'factory', 'near', 'prod-eu'",
        ),
    ],
)
def test_an_unknown_cluster_gets_a_message_and_a_hint(name: str, message: str, hint: str) -> None:
    error = no_cluster(CONFIG, name, "probe")
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
def test_an_unknown_gateway_gets_a_message_and_a_hint(name: str, message: str, hint: str) -> None:
    error = no_gateway(CONFIG, name, "reconnect")
    assert (str(error), error.hint) == (message, hint)


EVERYTHING = "there are: 'dev eu', 'eu-edge', 'factory', 'factory-7', 'jump-only', 'near', 'prod-eu'"
DRAINED = "drain takes a cluster, route, gateway or site"
OF_USER = "kubemux drain --caller ssh-user:ops ends the connections of the user"


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("ops", f"'ops' is a user, and {DRAINED}", OF_USER),
        ("ssh-user:ops", f"'ssh-user:ops' is a user, and {DRAINED}", OF_USER),
        ("proxy", f"'proxy' is an entry, and {DRAINED}", EVERYTHING),
        (
            "prod",
            "no cluster, route, gateway or site is called 'prod'",
            f"did you mean 'prod-eu'? {EVERYTHING}",
        ),
        (
            "direct",
            "'direct' stands for no gateway at all, and drain takes a cluster",
            "clusters that are reached without a gateway: 'near'",
        ),
    ],
)
def test_a_name_that_cannot_be_drained_gets_a_message_and_a_hint(name: str, message: str, hint: str) -> None:
    error = not_drained(CONFIG, name)
    assert (str(error), error.hint) == (message, hint)
