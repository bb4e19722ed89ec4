"""The daemon and `kubemux probe` agree about a cluster: both call it up, or both call it down."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from proxy.config.model import ClusterConfig, Config, ProbeConfig, TlsConfig
from proxy.daemon.access import Access
from proxy.daemon.cluster import Cluster
from proxy.daemon.connections import Shared
from proxy.daemon.doctor import Lent, examine
from proxy.entries.admission import Admission
from proxy.entries.arrival import Caller, ListenerArrival
from proxy.errors import ChannelRefused, MemoryExhausted
from proxy.health.probe import probe
from proxy.health.tls import Contexts
from proxy.metrics import Metrics
from proxy.relay.budget import MemoryBudget
from proxy.relay.direct import Direct, TcpChannel
from proxy.relay.failover import Failover
from proxy.relay.waiting import WaitingForMemory
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks
from proxy.ssh.handshakes import Handshakes
from proxy.ssh.turns import Turns
from tests.health.scripted import Scripted, answers
from tests.support.https import Https
from tests.support.ports import free_port
from tests.support.tls import Certificates

MEMORY = 16 << 20
NAME = "one"


class Metered(Direct):
    """A way whose channels acquire memory as a link's do."""

    def __init__(self, budget: MemoryBudget) -> None:
        super().__init__()
        self._budget = budget

    async def open_channel(
        self,
        target: Endpoint,
        *,
        origin: Endpoint,
        hold_until: float,
        answer_by: float = math.inf,
        is_needed: bool = True,
    ) -> TcpChannel:
        if self._budget.is_exhausted:
            raise MemoryExhausted("limits.memory is all given out")
        return await super().open_channel(
            target, origin=origin, hold_until=hold_until, answer_by=answer_by, is_needed=is_needed
        )


class Both:
    """A cluster of a daemon, and `kubemux probe` with the resources that the daemon lends."""

    def __init__(self, api_servers: Sequence[Endpoint], certificates: Certificates) -> None:
        self.budget = MemoryBudget(MEMORY, connections=100)
        self.registry = CollectorRegistry()
        self.waiting = WaitingForMemory(self.budget)
        metrics = Metrics(self.registry, version="")
        shared = Shared(self.budget, Admission(100), metrics, 20.0, self.waiting, Access(metrics))
        settings = ClusterConfig(
            gateway="direct",
            listen=Endpoint("127.0.0.1", 1),
            api_servers=tuple(api_servers),
            tls=TlsConfig(server_name=certificates.server_name, ca_file=certificates.ca),
            probe=ProbeConfig(interval=600.0, timeout=60.0),
        )
        self.config = Config(version=1, clusters={NAME: settings})
        self.cluster = Cluster(NAME, settings, Direct(), shared)
        self.lent = Lent(Handshakes(), Turns(), self.budget, self.waiting)

    async def told(self) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
        """Result, stage and message of the daemon's probe and of `kubemux probe`."""
        self.lent.order = self.cluster.order
        daemon, doctor = await asyncio.gather(
            probe(NAME, self.config.clusters[NAME], self.cluster.dial, Contexts()),
            examine(self.config, NAME, lent=self.lent),
        )
        return (
            (str(daemon.result), str(daemon.stage), daemon.message),
            (str(doctor.result), str(doctor.stage), doctor.message),
        )

    async def client_result(self) -> str:
        """The reason with which an unserved client's connection ended."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            sock, address = listener.accept()
        sock.setblocking(False)
        self.cluster.accept(ListenerArrival(sock, Caller(Endpoint(*address))))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        [sample] = [
            sample
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == "kubemux_connections_total" and sample.value
        ]
        return sample.labels["result"]


@pytest.fixture
def nowhere() -> Endpoint:
    return Endpoint("127.0.0.1", free_port())


async def test_probe_and_daemon_need_one_api_server_of_two(
    nowhere: Endpoint, certificates: Certificates
) -> None:
    async with Https(certificates) as server:
        both = Both([nowhere, server.endpoint], certificates)
        daemon, doctor = await both.told()
        assert daemon == doctor
        assert daemon[0] == "ok"
        assert both.cluster.order == (server.endpoint, nowhere)


async def test_probe_and_daemon_report_the_same_failure(
    nowhere: Endpoint, certificates: Certificates
) -> None:
    """They do so after the order of the servers has changed, too."""
    other = Endpoint("127.0.0.2", nowhere.port)
    async with Https(certificates) as server:
        both = Both([nowhere, server.endpoint, other], certificates)
        assert (await both.told())[0][0] == "ok"
        assert both.cluster.order == (server.endpoint, other, nowhere)
    daemon, doctor = await both.told()
    assert daemon == doctor
    assert daemon[1] == "channel"
    assert str(nowhere) in daemon[2]


async def test_probe_and_daemon_name_the_server_that_replaces_the_first(
    nowhere: Endpoint, certificates: Certificates
) -> None:
    async with Scripted(answers(b"plain text\r\n")) as plain:
        both = Both([nowhere, plain.endpoint], certificates)
        daemon, doctor = await both.told()
        report = await examine(both.config, NAME, lent=both.lent)
    assert daemon == doctor
    assert daemon[:2] == ("tls_failed", "tls")
    assert f"TLS with {plain.endpoint} failed" in daemon[2]
    assert report.steps[0].title == f"TCP to {plain.endpoint}"


async def test_probe_and_daemon_wait_for_memory(certificates: Certificates) -> None:
    async with Https(certificates) as server:
        both = Both([server.endpoint], certificates)
        both.budget.charge(MEMORY)
        both.lent.direct = Metered(both.budget)
        both.cluster.reconfigure(both.config.clusters[NAME], both.lent.direct)
        asking = Tasks("test").spawn(both.told(), name="told")
        async with asyncio.timeout(30):
            while len(both.waiting) < 2:
                await asyncio.sleep(0)
        both.budget.release(MEMORY)
        both.waiting.wake()
        daemon, doctor = await asking
        assert daemon == doctor
        assert daemon[0] == "ok"


async def test_a_fault_of_the_shared_failover_breaks_probe_and_daemon(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Https(certificates) as server:
        both = Both([server.endpoint], certificates)

        async def broken(*_: object, **__: object) -> None:
            raise ChannelRefused("broken by a test")

        monkeypatch.setattr(Failover, "open_channel", broken)
        daemon, doctor = await both.told()
        assert daemon == doctor
        assert daemon[1:] == ("channel", "broken by a test")
        assert await both.client_result() == ChannelRefused.reason
