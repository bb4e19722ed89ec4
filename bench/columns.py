"""The compared forwarders, one for each column. All run at the same time, and forward to the same three
targets. The bench verifies each of them.
"""

from __future__ import annotations

import hashlib
import http.client
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from bench.result import ASYNCSSH, DIRECT, KUBEMUX, NODELAY, SSH
from bench.servers import BODY, is_nodelay
from bench.waiting import ended, wait_listening
from tests.support import ssh_keys
from tests.support.daemon import ROOT, Daemon
from tests.support.echo import pattern
from tests.support.parts import find
from tests.support.sshd import Sshd

VERIFIED_BYTES = 8 << 20
LINKS = 2
"""The default of a gateway's `connections`."""
PROBES_WITHIN = 1.5
"""Seconds. After a new link of the gateway, the daemon probes each cluster behind it within a second."""


class Ports(NamedTuple):
    """Ports on 127.0.0.1: those of iperf3, nginx and the echo server, or those of a forwarder to them."""

    bulk: int
    http: int
    echo: int


@dataclass(frozen=True, slots=True)
class Route:
    """A column: the ports of a forwarder, and its process; None for connections without a forwarder."""

    column: str
    ports: Ports
    pid: int | None


@dataclass(frozen=True, slots=True)
class Gateway:
    """The address and the keys of an sshd."""

    sshd: Sshd
    port: int
    known_hosts: Path

    @classmethod
    def of(cls, sshd: Sshd, port: int | None = None) -> Gateway:
        """This sshd, directly or through a relay at another `port`."""
        port = port or sshd.port
        known_hosts = sshd.folder / f"known_hosts_{port}"
        known_hosts.write_text(f"[{sshd.host}]:{port} {ssh_keys.public(sshd.host_key)}\n")
        return cls(sshd, port, known_hosts)

    def section(self, *, connections: int = LINKS) -> dict[str, object]:
        """The gateway's section in kubemux's configuration."""
        return {
            "host": self.sshd.host,
            "port": self.port,
            "user": self.sshd.user,
            "identity_files": [str(self.sshd.identity)],
            "known_hosts": [str(self.known_hosts)],
            "connections": connections,
        }


def start_ssh(
    gateway: Gateway, forwards: Mapping[int, int], *, dynamic: int | None = None
) -> subprocess.Popen[bytes]:
    """Start `ssh -N` with `-L` for each local port -> target port, and with `-D`. ssh listens after its
    login.
    """
    command = [
        find("ssh") or "ssh",
        "-N",
        "-F",
        "none",
        "-p",
        str(gateway.port),
        "-i",
        str(gateway.sshd.identity),
    ]
    for option in (f"UserKnownHostsFile={gateway.known_hosts}", "ExitOnForwardFailure=yes", "BatchMode=yes"):
        command += ["-o", option]
    for local, target in forwards.items():
        command += ["-L", f"127.0.0.1:{local}:127.0.0.1:{target}"]
    if dynamic:
        command += ["-D", f"127.0.0.1:{dynamic}"]
    return subprocess.Popen([*command, f"{gateway.sshd.user}@{gateway.sshd.host}"], stdin=subprocess.DEVNULL)


def cluster(gateway: str, listen: int, target: int, **more: object) -> dict[str, object]:
    """A section of kubemux's configuration."""
    return {
        "gateway": gateway,
        "listen": f"127.0.0.1:{listen}",
        "api_servers": [f"127.0.0.1:{target}"],
        **more,
    }


@contextmanager
def openssh(column: str, gateway: Gateway, targets: Ports) -> Iterator[Route]:
    """OpenSSH's client."""
    ports = Ports(*distinct_ports(len(targets)))
    with ended(start_ssh(gateway, dict(zip(ports, targets, strict=True)))) as process:
        wait_listening(ports, [process])
        yield Route(column, ports, process.pid)


@contextmanager
def plain_asyncssh(gateway: Gateway, targets: Ports) -> Iterator[Route]:
    """asyncssh's own port forwarding."""
    ports = Ports(*distinct_ports(len(targets)))
    sshd = gateway.sshd
    command = [sys.executable, "-m", "bench.forward", sshd.host, str(gateway.port), sshd.user]
    command += [str(sshd.identity), str(gateway.known_hosts)]
    command += [f"{local}:{target}" for local, target in zip(ports, targets, strict=True)]
    with ended(subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=ROOT)) as process:
        wait_listening(ports, [process])
        yield Route(ASYNCSSH, ports, process.pid)


@contextmanager
def kubemux(folder: Path, gateway: Gateway, targets: Ports) -> Iterator[Route]:
    """The daemon with its default configuration, but with rare probes, because probes disturb iperf3."""
    ports = Ports(*distinct_ports(len(targets)))
    clusters: dict[str, object] = {
        name: cluster("edge", local, target, probe={"interval": "24h"})
        for name, local, target in zip(Ports._fields, ports, targets, strict=True)
    }
    with Daemon(folder, gateways={"edge": gateway.section()}, clusters=clusters) as daemon:
        daemon.wait_for("every link", lambda: daemon.metric("kubemux_gateway_links") == LINKS)
        wait_for_probes(daemon, len(targets))
        yield Route(KUBEMUX, ports, daemon.pid)


def wait_for_probes(daemon: Daemon, clusters: int) -> None:
    """Wait until the probes are over that follow the start and each new link, whatever the interval is."""
    seen, since = 0.0, time.monotonic()

    def are_over() -> bool:
        nonlocal seen, since
        if (count := daemon.metric("kubemux_probes_total")) != seen:
            seen, since = count, time.monotonic()
        return seen >= clusters and time.monotonic() - since > PROBES_WITHIN

    daemon.wait_for("the first probes", are_over)


@contextmanager
def routes(
    folder: Path, targets: Ports, stock: Gateway, nodelay: Gateway | None, direct: Ports | None = None
) -> Iterator[list[Route]]:
    """Run all columns. Each is verified before and after the measurement.

    `direct` are the ports of the column without SSH. Without `nodelay`, its column is left out.
    """
    with ExitStack() as stack:
        ways = [Route(DIRECT, direct or targets, None), stack.enter_context(openssh(SSH, stock, targets))]
        if nodelay:
            ways.append(stack.enter_context(openssh(NODELAY, nodelay, targets)))
            if not is_nodelay(nodelay.sshd):
                raise RuntimeError("the sshd of the TCP_NODELAY column runs without the preloaded library")
        ways.append(stack.enter_context(plain_asyncssh(stock, targets)))
        ways.append(stack.enter_context(kubemux(folder, stock, targets)))
        for way in ways:
            verify(way)
        yield ways
        for way in ways:
            verify(way)


def verify(route: Route) -> None:
    """Check that bytes come back unchanged, that half-close works, and what nginx answers. Raises
    RuntimeError.
    """
    sent = pattern(VERIFIED_BYTES)
    digest = hashlib.sha256()
    with socket.create_connection(("127.0.0.1", route.ports.echo), timeout=60) as sock:

        def send() -> None:
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)

        sender = Thread(target=send, name="verify", daemon=True)
        sender.start()
        while data := sock.recv(1 << 18):
            digest.update(data)
        sender.join()
    if digest.digest() != hashlib.sha256(sent).digest():
        raise RuntimeError(f"{route.column}: what came back is not what was sent")
    connection = http.client.HTTPConnection("127.0.0.1", route.ports.http, timeout=30)
    connection.request("GET", "/")
    answer = connection.getresponse().read()
    connection.close()
    if answer != BODY:
        raise RuntimeError(f"{route.column}: nginx answered {answer!r}")


_LOWEST, _COUNT = 10_000, 10_000
_candidates = cycle(range(_LOWEST, _LOWEST + _COUNT))
for _ in range(random.SystemRandom().randrange(_COUNT)):  # two benches at the same time use different ports
    next(_candidates)


def distinct_ports(count: int) -> list[int]:
    """Free ports that no other caller gets, from a range below that of `free_port`."""
    ports: list[int] = []
    while len(ports) < count:
        port = next(_candidates)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    return ports
