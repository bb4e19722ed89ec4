"""Many clusters: one daemon for all of them, or one `ssh -L` process for each. One stand-in serves as the API
server of all clusters.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from bench.columns import LINKS, Gateway, cluster, distinct_ports, start_ssh
from bench.result import KUBEMUX, SSH
from bench.waiting import cpu_seconds, ended, wait_listening
from proxy.runtime.endpoint import Endpoint
from tests.support.daemon import Daemon
from tests.support.https import Https
from tests.support.tls import Certificates


@dataclass(frozen=True, slots=True)
class Fleet:
    """The forwarding processes, and their ports.

    `settle` returns when the work after the start is done, for instance the first probes.
    """

    column: str
    pids: list[int]
    ports: list[int]
    settle: Callable[[], None]

    def cpu_seconds(self) -> float:
        """User and system time of all processes so far."""
        return sum(map(cpu_seconds, self.pids))


@contextmanager
def ssh_fleet(gateway: Gateway, target: Endpoint, count: int) -> Iterator[Fleet]:
    """Start `count` ssh processes at once, and wait until each listens."""
    ports = distinct_ports(count)
    with ExitStack() as stack:
        processes: list[subprocess.Popen[bytes]] = []
        for port in ports:
            processes.append(start_ssh(gateway, {port: target.port}))
            stack.enter_context(ended(processes[-1]))
        wait_listening(ports, processes)
        yield Fleet(SSH, [process.pid for process in processes], ports, lambda: None)


@contextmanager
def daemon_fleet(
    folder: Path, gateway: Gateway, target: Endpoint, count: int, certificates: Certificates, *, shared: bool
) -> Iterator[Fleet]:
    """Start one daemon, and wait until every link is up.

    If `shared`, all clusters use one gateway. Otherwise each cluster has its own gateway with one link.
    """
    ports = distinct_ports(count)
    tls = {"server_name": certificates.server_name, "ca_file": str(certificates.ca)}
    names = ["edge"] if shared else [f"edge-{n}" for n in range(count)]
    links = LINKS if shared else 1
    gateways: dict[str, object] = {name: gateway.section(connections=links) for name in names}
    clusters: dict[str, object] = {
        f"cluster-{n}": cluster(names[n % len(names)], port, target.port, tls=tls)
        for n, port in enumerate(ports)
    }
    with Daemon(folder, gateways=gateways, clusters=clusters) as daemon:
        daemon.wait_for(
            "every link", lambda: daemon.metric("kubemux_gateway_links") == links * len(names), seconds=60
        )

        def first_probes() -> None:
            daemon.wait_for(
                "every first probe", lambda: daemon.metric("kubemux_probes_total") >= count, seconds=60
            )

        yield Fleet(KUBEMUX, [daemon.pid], ports, first_probes)


@contextmanager
def api_server(certificates: Certificates) -> Iterator[Endpoint]:
    """A stand-in that answers every HTTPS request. It runs in a thread, because the bench blocks while the
    processes probe it.
    """
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="api server")
    thread.start()
    server = Https(certificates)
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(30)
        yield server.endpoint
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
