"""The test bed of every row: two gateways, three API servers, the daemon, and clients of
each cluster.

Both gateways are real sshds. In some rows edge is a site, an OpenSSH client that dials the daemon.

prod    behind edge, the gateway that has the fault
stage   also behind edge: prod's neighbour, with an API server of its own
far     behind another sshd, which the fault must not affect
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, Protocol, Self

from proxy.relay.socket_relay import LINGER_ZERO
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks
from tests.faults.api import Api
from tests.faults.doors import Door, Egress, Entry, Port, Proxy
from tests.faults.law import Edge
from tests.faults.load import Load, eventually
from tests.faults.row import By, Hits, Row
from tests.faults.site_edge import SiteEdge
from tests.integration.conftest import cluster, gateway
from tests.integration.running import told
from tests.support import ssh_keys
from tests.support.daemon import Daemon, Sections
from tests.support.echo import Source
from tests.support.faulty import FaultyRelay
from tests.support.ports import free_port
from tests.support.rogue import Rogue
from tests.support.shim import Shim
from tests.support.sshd import NewerSshd, Sshd
from tests.support.tls import Certificates

PROBE: Final[Sections] = {"interval": "600ms", "timeout": "1s"}
SELDOM: Final[Sections] = {"interval": "1h", "timeout": "1s"}
PATIENCE_S: Final = 40.0
CLUSTERS: Final = ("prod", "stage", "far")


class Stoppable(Protocol):
    """A server or client in its own process."""

    def stop(self) -> None:
        """End it. Idempotent."""


class Bed:
    """`async with Bed(...) as bed`: everything runs and every cluster is up; there are no clients yet."""

    def __init__(self, row: Row, folder: Path, certificates: Certificates, *, plane: str) -> None:
        self.row = row
        self.folder = folder
        self.certificates = certificates
        self._edge = (
            SiteEdge(folder / "edge")
            if row.is_site
            else (NewerSshd if row.is_newer else Sshd)(folder / "edge", config=row.sshd)
        )
        self.far = Sshd(folder / "far")
        self.apis = {name: Api(certificates) for name in CLUSTERS}
        self.ports = {name: free_port() for name in (*CLUSTERS, "plain", "rogue", "entry")}
        self.source = Source()
        self.visitors = 0
        """How many connections a row has made to `plain`."""
        self.tasks = Tasks("fault")
        """Background tasks of a fault, which run until the loads have ended."""
        self.kept: list[socket.socket] = []
        """Client connections that a row keeps open."""
        self.rogue: Rogue | None = None
        """The hostile gateway, in rows that have one."""
        self._known = folder / "known_hosts"
        self._egress = folder / "egress.sock"
        self._path: FaultyRelay | None = None
        self._shim: Shim | None = None
        self._daemon: Daemon | None = None
        self.good = b""
        """The first contents of the configuration file."""
        self.has_reconnected = False
        """Whether the row has called `reconnect`."""
        self._plane = plane
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.let_go()
        await self._stack.aclose()

    async def _start(self) -> None:
        for end in self.ends.values():
            self._stack.push_async_callback(asyncio.to_thread, end.stop)
            if isinstance(end, Sshd):
                await asyncio.to_thread(end.start)
        for server in (*self.apis.values(), self.source):
            await self._stack.enter_async_context(server)
        if self.row.is_through_relay:
            self._path = await self._stack.enter_async_context(FaultyRelay(self._edge.listen))
        environment = {"KUBEMUX_DATA_PLANE": self._plane, **self.row.environment}
        if self.row.has_shim:
            self._shim = Shim(self.folder)
            self._stack.callback(self._shim.close)
            if isinstance(self._edge, Sshd):
                self._shim.resolve(self._edge.host)
            environment |= self._shim.environment
        self._daemon = Daemon(
            self.folder / "daemon",
            **self.sections(),
            expected_errors=self.row.errors,
            environment=environment,
            log=self.row.log,
            executes=False,
        )
        self.good = self._daemon.config.read_bytes()
        self._stack.push_async_exit(self._stop_daemon)
        await asyncio.to_thread(self._daemon.__enter__)
        if isinstance(self._edge, SiteEdge):
            self._edge.via = self._path.endpoint if self._path else None
            await asyncio.to_thread(self._edge.start)
        await asyncio.to_thread(self._daemon.wait_up, *CLUSTERS)

    async def _stop_daemon(self, failure: type[BaseException] | None, *_: object) -> None:
        await asyncio.to_thread(self.daemon.__exit__, failure or sys.exc_info()[0])

    @property
    def daemon(self) -> Daemon:
        """The running daemon; rows may replace it."""
        assert self._daemon, "no daemon"
        return self._daemon

    @property
    def edge(self) -> Sshd:
        """The gateway that has the fault, in rows in which it is no site."""
        assert isinstance(self._edge, Sshd), f"row {self.row.name} wants no is_site"
        return self._edge

    @property
    def site(self) -> SiteEdge:
        """The gateway that has the fault, in rows in which it is a site."""
        assert isinstance(self._edge, SiteEdge), f"row {self.row.name} wants is_site"
        return self._edge

    @property
    def ends(self) -> dict[str, Edge]:
        """Both gateways."""
        return {"edge": self._edge, "far": self.far}

    @property
    def path(self) -> FaultyRelay:
        """The network between the daemon and edge, of rows that have one."""
        assert self._path, f"row {self.row.name} wants is_through_relay"
        return self._path

    @property
    def shim(self) -> Shim:
        """Controls the daemon's surroundings, and measures its turns, in rows that have it."""
        assert self._shim, f"row {self.row.name} wants has_shim"
        return self._shim

    @property
    def prod(self) -> Api:
        """prod's API server."""
        return self.apis["prod"]

    @property
    def plain(self) -> Endpoint:
        """The address of a `Source` behind edge, in rows that have it."""
        assert self.row.has_plain, f"row {self.row.name} wants has_plain"
        return Endpoint("127.0.0.1", self.ports["plain"])

    def door(self, name: str) -> Door:
        """Where the row's clients find a cluster, or its node."""
        return Port(self.ports[name]) if self.row.by is By.PORT else self.entry(name)

    def entry(self, name: str) -> Entry:
        """The entry where clients ask for a cluster, or its node, by name."""
        if self.row.by is By.EGRESS:
            return Egress(self._egress, f"node-{name}")
        return Proxy(self.ports["entry"], name)

    @property
    def hit(self) -> tuple[str, ...]:
        """The names of the clusters that the row's fault affects."""
        return {Hits.CLUSTER: ("prod",), Hits.GATEWAY: ("prod", "stage"), Hits.ALL: CLUSTERS}[self.row.hits]

    def rogue_cluster(self, via: str) -> Sections:
        """A cluster behind a hostile gateway or site. Its probes open channels there.

        With a CA of its own: to read the system's takes CPU, which a flood leaves to nobody.
        """
        ca = self.certificates.ca
        return cluster(self.ports["rogue"], self.source.endpoint, via=via, ca=ca, probe=SELDOM)

    def sections(self) -> dict[str, Sections]:
        """The configuration: gateways, clusters and the rest."""
        ca, probe = self.certificates.ca, {**PROBE, **self.row.probes}
        clusters = {
            name: cluster(
                self.ports[name], api.endpoint, via="far" if name == "far" else "edge", ca=ca, probe=probe
            )
            for name, api in self.apis.items()
        }
        if self.row.has_plain:
            clusters["plain"] = cluster(self.ports["plain"], self.source.endpoint, ca=ca, probe=SELDOM)
        limits: Sections = {"drain_timeout": "1s", "hold_timeout": "15s", **self.row.limits}
        sections: dict[str, object] = {"limits": limits}
        gateways: dict[str, object] = {"far": gateway(self.far)}
        if isinstance(self._edge, SiteEdge):
            sections |= self._edge.sections(**self.row.edge)
        else:
            self.trust()
            known_hosts = [str(self._known)]
            gateways["edge"] = gateway(
                self.edge, port=self._edge_port, known_hosts=known_hosts, **self.row.edge
            )
        match self.row.by:
            case By.PROXY:
                sections["entries"] = {"proxy": {"listen": f"127.0.0.1:{self.ports['entry']}"}}
            case By.EGRESS:
                sections["entries"] = {"egress": {"listen": f"unix:{self._egress}"}}
                sections["routes"] = [self._to_node(name) for name in clusters]
        return {"gateways": gateways, "clusters": clusters, "sections": sections}

    def _to_node(self, name: str) -> Sections:
        """A route to what stands for a kubelet there: an API server answers by TLS, too."""
        server = self.source if name == "plain" else self.apis[name]
        return {
            "name": name,
            "match": [f"node-{name}:10250"],
            "gateway": "far" if name == "far" else "edge",
            "target": str(server.endpoint),
            "entries": ["egress"],
        }

    @property
    def _edge_port(self) -> int:
        return self.edge.port if self._path is None else self._path.endpoint.port

    def trust(self) -> None:
        """Replace the daemon's known_hosts file by one that has only edge's present host key."""
        host = self.row.edge.get("host", self.edge.host)
        self._known.write_text(f"[{host}]:{self._edge_port} {ssh_keys.public(self.edge.host_key)}\n")

    @asynccontextmanager
    async def load(self) -> AsyncIterator[dict[str, Load]]:
        """Start clients of every cluster, and wait until each was served once.

        stage has no bulk clients, because those of prod, which share its gateway, are enough.
        """
        loads = {
            name: Load(
                name,
                self.door(name),
                self.certificates,
                patience=self.row.patience if name in self.hit else PATIENCE_S,
                light=name == "stage",
            )
            for name in CLUSTERS
        }
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.tasks.close)
            for load in loads.values():
                await stack.enter_async_context(load)
            for load in loads.values():
                await load.wait_served()
            yield loads

    # ----------------------------------------------------------------------------------- questions and orders

    async def wait_for(self, what: str, condition: object, *, seconds: float = 60.0) -> None:
        """`Daemon.wait_for` in a thread, so that the loads go on."""
        await asyncio.to_thread(self.daemon.wait_for, what, condition, seconds=seconds)  # type: ignore[arg-type]

    async def wait_reason(self, reason: str, *, of: str = "edge") -> None:
        """Wait until `status` shows this reason beside that gateway, or the log has it.

        On a busy machine the next dial may have ended before anybody reads `status`.
        """

        def is_told() -> bool:
            return told(self.daemon)[of]["reason"] == reason or any(
                (entry.get("gateway"), entry.get("reason")) == (of, reason) for entry in self.daemon.events()
            )

        await self.wait_for(f"status says {reason}", is_told)

    def also_stop(self, sshd: Stoppable) -> None:
        """Stop `sshd` at the end of the row."""
        self._stack.push_async_callback(asyncio.to_thread, sshd.stop)

    def keep(self, *socks: socket.socket) -> None:
        """Keep these connections open until `let_go`, or until the row ends."""
        self.kept += socks

    def let_go(self, *, hard: bool = False) -> None:
        """Close the kept connections; `hard` with RST."""
        for sock in self.kept:
            if hard:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
            sock.close()
        self.kept.clear()

    async def wait_let_go(self) -> None:
        """Wait until sshd has closed all its connections to the API servers, which means: no
        channel is open.
        """
        servers = [*self.apis.values(), self.source]
        await eventually(
            lambda: (
                "sshd closes every connection to the servers, not "
                f"{[server.connections for server in servers]}"
            ),
            lambda: not any(server.connections for server in servers),
        )

    async def reconnect(self) -> None:
        """Do what `kubemux reconnect edge` does: the daemon dials at once, without the rest of
        its backoff.
        """
        self.has_reconnected = True
        await asyncio.to_thread(self._post, "/-/reconnect?gateway=edge")

    async def reload(self) -> None:
        """Do what `kubemux reload` does. Returns when this reload and all earlier ones have been applied."""
        await asyncio.to_thread(self._post, "/-/reload")

    def _post(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)  # earlier reloads are applied first
            sock.connect(str(self.daemon.socket))
            sock.sendall(
                f"POST {path} HTTP/1.1\r\nHost: kubemux\r\n"
                "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
            )
            with sock.makefile("rb") as answer:
                assert answer.readline().split()[1] == b"200"
