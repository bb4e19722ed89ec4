"""Which clusters are behind a gateway, through reloads."""

from __future__ import annotations

from typing import cast

from prometheus_client import CollectorRegistry

from proxy.config.diff import Change
from proxy.config.model import ClusterConfig, Config
from proxy.daemon.access import Access
from proxy.daemon.clusters import Clusters
from proxy.daemon.connections import Shared
from proxy.daemon.ways import Ways
from proxy.entries.admission import Admission
from proxy.entries.fd_store import FdStore
from proxy.health.tls import Contexts
from proxy.metrics import Metrics
from proxy.relay.budget import MemoryBudget
from proxy.relay.direct import Direct
from proxy.relay.interfaces import Way
from proxy.relay.waiting import WaitingForMemory
from proxy.runtime.endpoint import Endpoint
from tests.support.ports import free_port


class AllDirect(Ways):
    """Leads to every cluster directly, whatever gateway it names."""

    def __init__(self) -> None:
        super().__init__({}, {}, lambda: configured())

    def of(self, config: ClusterConfig) -> Way:
        del config
        return cast("Way", Direct())


def configured(**gateways: str) -> Config:
    server = Endpoint("127.0.0.1", free_port())
    clusters = {
        name: ClusterConfig(gateway=gateway, listen=None, api_servers=(server,))
        for name, gateway in gateways.items()
    }
    return Config(version=1, clusters=clusters)


async def test_the_clusters_of_a_gateway_are_found_after_every_change() -> None:
    budget = MemoryBudget(64 << 20, connections=10)
    metrics = Metrics(CollectorRegistry(), version="")
    shared = Shared(budget, Admission(10), metrics, 20.0, WaitingForMemory(budget), Access(metrics))
    clusters = Clusters(shared, AllDirect(), Contexts(), FdStore({}), lambda: None)

    def behind(way: str) -> list[str]:
        return [one.cluster.name for one in clusters.behind(way)]

    try:
        assert behind("edge") == []
        config = configured(one="edge", two="far", three="edge")
        await clusters.add(config, config.clusters, {})
        assert [behind(way) for way in ("edge", "far", "none")] == [["one", "three"], ["two"], []]
        await clusters.retire("one").retire(0)
        assert behind("edge") == ["three"]
        moved = configured(two="edge", three="edge")
        clusters.reconfigure(moved, Change(kept=("two", "three")))
        assert [behind(way) for way in ("edge", "far")] == [["two", "three"], []]
    finally:
        await clusters.close()
