"""A stand-in for the daemon: it shows the snapshot that a test sets, and notes the orders that it gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from proxy.admin.http.connection import Deadlines
from proxy.admin.orders import DrainResult, ReloadResult
from proxy.admin.server import AdminServer
from proxy.errors import ProxyError, UnknownName
from proxy.metrics import Metrics
from proxy.runtime.endpoint import Endpoint
from proxy.snapshots import (
    ClusterSnapshot,
    ClusterState,
    DaemonSnapshot,
    DiscoverySnapshot,
    DiscoveryState,
    EntrySnapshot,
    GatewaySnapshot,
    GatewayState,
    LinkSnapshot,
    LoginSnapshot,
    RefusalSnapshot,
    RouteSnapshot,
    SiteLinkSnapshot,
    SiteSnapshot,
    UserSnapshot,
)

NOW = 1_700_000_000.0
DAY = 86_400.0

LINK = LinkSnapshot(
    server="bastion.eu:22", age=60.0, channels=7, data_plane="asyncssh", cipher="aes256-gcm", rtt=0.0213
)
EU_EDGE = GatewaySnapshot("eu-edge", GatewayState.UP, (LINK, LINK), wanted=2, reconnects=0, retry_in=None)
US_WEST = GatewaySnapshot(
    "us-west",
    GatewayState.DOWN,
    (),
    wanted=2,
    reconnects=14,
    retry_in=42.1,
    reason="auth_failed",
    message="sshd at bastion.us:22 refused every key",
    hint="is the public key in authorized_keys?",
)
PROD_EU = ClusterSnapshot(
    name="prod-eu",
    gateway="eu-edge",
    listen="127.0.0.1:16443",
    listening=True,
    state=ClusterState.UP,
    reason="ok",
    message="",
    hint="",
    probe_seconds=0.0312,
    api_server="10.0.0.10:6443",
    connections=12,
    connections_total=345,
    bytes_to_cluster=12_345_678,
    bytes_from_cluster=9_123_456_789,
    certificate_expiry=NOW + 83.5 * DAY,
)
ARN = "arn:aws:eks:us-east-1:123456789012:cluster/production-us-east"
PROD_US = replace(
    PROD_EU,
    name=ARN,
    gateway="us-west",
    listen="127.0.0.1:16444",
    state=ClusterState.DOWN,
    reason="link_down",
    message="no link of us-west is up",
    hint="kubemux status shows why the gateway is down",
    probe_seconds=None,
    connections=0,
    certificate_expiry=None,
)
STAGE_US = replace(PROD_US, name="stage-us", listen="127.0.0.1:16445", certificate_expiry=NOW + 3 * DAY)
PROXY = EntrySnapshot(
    name="proxy",
    listen="127.0.0.1:3128",
    listening=True,
    reason="",
    message="",
    hint="",
    connections=3,
    connections_total=45,
)
UNBOUND = replace(
    PROXY,
    name="egress",
    listen="127.0.0.1:3129",
    listening=False,
    reason="listen_failed",
    message="127.0.0.1:3129: Address already in use",
    hint="ss -ltnp shows who has it",
)
NODES = RouteSnapshot(
    name="nodes",
    match=("*.eu.internal:22",),
    gateway="eu-edge",
    connections=2,
    connections_total=30,
    bytes_to_target=4_096,
    bytes_from_target=7_301_444_403,
)
PODS = replace(
    NODES,
    name="notebooks",
    match=(),
    discovery=DiscoverySnapshot(
        cluster="prod-eu", state=DiscoveryState.WATCHING, pods=7, reason="", message="", hint=""
    ),
)
SITE_LINK = SiteLinkSnapshot(
    server="site factory-7 at 192.0.2.7:50022",
    age=60.0,
    channels=3,
    data_plane="native",
    cipher="aes256-gcm",
    rtt=0.0503,
    address="192.0.2.7:50022",
    key="SHA256:abc",
    forwards=("factory-7:1080",),
)
SITE = SiteSnapshot(
    name="factory-7",
    state=GatewayState.UP,
    links=(SITE_LINK,),
    retiring=(),
    callers=(),
    most=2,
    connected=3600.0,
    away=None,
    reconnects=1,
    reason="",
    message="",
    hint="",
    refused=RefusalSnapshot("forward_refused", "-R Kube:6443 has capitals", 90.0),
    connections=2,
    connections_total=9,
    bytes_to_site=1,
    bytes_from_site=2,
)
AWAY = replace(
    SITE,
    state=GatewayState.DOWN,
    links=(),
    connected=None,
    away=42.0,
    reason="keepalive_timeout",
    message="site factory-7 at 192.0.2.7:50022 stopped answering",
    hint="does its ssh run?",
)
LOGIN = LoginSnapshot(
    address="192.0.2.9:50022",
    age=60.0,
    key="SHA256:def",
    certificate="alice (serial 7)",
    channels=2,
    open=("node-a:22", "prod-eu:443"),
)
OPS = UserSnapshot(
    name="ops",
    identity="ssh-user:ops",
    most=100,
    logins=(
        replace(LOGIN, age=7200.0, address="192.0.2.8:40000", certificate="", channels=0, open=()),
        LOGIN,
    ),
)
DAEMON = DaemonSnapshot(
    version="0.1.0",
    pid=123,
    uptime=7384.0,
    ready=True,
    draining=False,
    config_path="/etc/kubemux/config.yaml",
    connections=12,
    buffered_bytes=123_456,
    memory_limit=256 << 20,
    gateways=(EU_EDGE, US_WEST),
    clusters=(PROD_EU, PROD_US, STAGE_US),
)


@dataclass
class Daemon:
    """Implements `Control`. `shown` is its snapshot, `failure` is raised by every order, and `orders` are the
    orders that it got, oldest first.
    """

    shown: DaemonSnapshot = DAEMON
    failure: Exception | None = None
    result: ReloadResult = field(default_factory=ReloadResult)
    orders: list[str] = field(default_factory=list)
    metrics: Metrics = field(default_factory=lambda: Metrics(CollectorRegistry(), version="0.1.0"))
    cut: int = 0
    drained: tuple[str, ...] | None = None
    """The names that an order to drain returns; None: the cluster that was asked for."""
    held: asyncio.Event | None = None
    """A reload or a drain does not return before this is set."""

    def __post_init__(self) -> None:
        metrics = self.metrics
        for cluster in self.shown.clusters:
            metrics.cluster(cluster.name).up = True
            metrics.cluster(cluster.name).probe_duration.observe(0.1)
            metrics.traffic(cluster.name).to_cluster += cluster.bytes_to_cluster

    def server(self, *, idle_timeout: float = 30.0, answer_timeout: float = 10.0) -> AdminServer:
        return AdminServer(
            snapshot=self.snapshot,
            metrics=self.metrics,
            control=self,
            deadlines=Deadlines(request=idle_timeout, answer=answer_timeout),
        )

    def snapshot(self) -> DaemonSnapshot:
        if self.failure and not isinstance(self.failure, ProxyError):
            raise self.failure
        return self.shown

    async def reload(self) -> ReloadResult:
        self._note("reload")
        await self._hold()
        return self.result

    async def reconnect(self, gateway: str) -> None:
        self._note(f"reconnect {gateway}")
        known = [one.name for one in self.shown.gateways]
        if gateway not in known:
            raise UnknownName.among("gateway", gateway, known)

    async def probe(self, cluster: str) -> dict[str, object]:
        self._note(f"probe {cluster}")
        return {"cluster": cluster, "alive": True}

    async def drain(self, name: str) -> DrainResult:
        self._note(f"drain {name}")
        await self._hold()
        return DrainResult(self.cut, self.drained if self.drained is not None else (f"cluster {name}",))

    async def end(self, caller: str, of: str | None) -> int:
        self._note(f"end {caller} of {of}")
        return self.cut

    async def _hold(self) -> None:
        if self.held:
            await self.held.wait()

    def _note(self, order: str) -> None:
        self.orders.append(order)
        if self.failure:
            raise self.failure


@asynccontextmanager
async def serving(
    daemon: Daemon, socket: Path, *, idle_timeout: float = 30.0, answer_timeout: float = 10.0
) -> AsyncIterator[Endpoint]:
    """Serve `daemon` at a unix socket and at a TCP port until the block ends. Yields the TCP address."""
    server = daemon.server(idle_timeout=idle_timeout, answer_timeout=answer_timeout)
    try:
        await server.start_unix(socket)
        yield await server.start_tcp(Endpoint("127.0.0.1", 0))
    finally:
        await server.close()
