"""How fast is a site compared with `ssh -R` to an sshd, and does it need more CPU than a gateway?"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench.columns import Gateway, Ports, Route, cluster, distinct_ports, verify, wait_for_probes
from bench.load import bulk, connect, keep_alive
from bench.result import BY_GATEWAY, KUBEMUX, REMOTE, SOCKS_SITE, Answer, Row, Target
from bench.servers import CIPHER
from bench.stage import Stage
from bench.waiting import ended, wait_listening
from tests.support.daemon import Daemon
from tests.support.parts import find
from tests.support.processes import descendants
from tests.support.site import SshServerFiles

CONNECTIONS: Final = 32
COUNT: Final = 20_000
"""The maximum number of new connections in one measurement."""
NAME: Final = "site"
NO_MORE: Final = (Target(BY_GATEWAY, 1.1),)


def measure(stage: Stage) -> Answer:
    """Measure requests, new connections and bulk transfers of each column in turn."""
    requests = (
        Row(f"{CONNECTIONS} kept connections", "requests/s"),
        Row(f"{CONNECTIONS} kept connections", "p50 in ms", more_is_better=False),
        Row(f"{CONNECTIONS} kept connections", "p99 in ms", more_is_better=False),
        Row("a request", "CPU us", more_is_better=False, targets=NO_MORE),
    )
    connects = (
        Row("new connections", "1/s", targets=(Target(REMOTE, 1.0),)),
        Row("connect, request, answer", "p50 in ms", more_is_better=False),
        Row("connect, request, answer", "p99 in ms", more_is_better=False),
        Row("a new connection", "CPU us", more_is_better=False, targets=NO_MORE),
    )
    transfers = {
        way: (
            Row(f"{way} the site", "MB/s", targets=(Target(REMOTE, 1.0),)),
            Row(f"{way} the site", "CPU s per GB", more_is_better=False, targets=NO_MORE),
        )
        for way in ("to", "from")
    }
    seconds = stage.scale.seconds
    rows: tuple[Row, ...]
    with columns(stage) as routes:
        for route in stage.interleaved(routes):
            answers = keep_alive(route, connections=CONNECTIONS, seconds=seconds)
            opened = connect(route, count=COUNT, seconds=seconds)
            measured = zip((*requests, *connects), (*answers, *opened), strict=True)
            for row, value in measured:
                row.add(route.column, value)
            for way, rows in transfers.items():
                got = bulk(route, stage.targets.bulk, seconds=seconds, from_cluster=way == "from")
                for row, value in zip(rows, got, strict=True):
                    row.add(route.column, value)
    notes = (
        "One link each, all with aes128-gcm: stock clients choose chacha20 without -c. CPU: user and system "
        "time of the process on the bastion (for ssh -R the session of sshd), not of the ssh at the site. "
        f"{KUBEMUX} is a site with fixed forwards; {SOCKS_SITE}: ssh -R NAME:1080, one round trip more for "
        "each new connection."
    )
    rows = (*requests, *connects, *(row for pair in transfers.values() for row in pair))
    return Answer("sites", "Through a site, beside ssh -R and a gateway", notes, rows)


@contextmanager
def columns(stage: Stage) -> Iterator[list[Route]]:
    """Run all columns at the same time. Each is verified before and after the measurement."""
    stock = Gateway.of(stage.stock)
    fixed = [word for port in stage.targets for word in ("-R", f"127.0.0.1:{port}:127.0.0.1:{port}")]
    dynamic = ("-R", f"{NAME}:1080")
    with ExitStack() as stack:
        routes = [
            stack.enter_context(remote(stock, stage.targets)),
            stack.enter_context(by_gateway(stage.folder / "gateway", stock, stage.targets)),
            stack.enter_context(site(stage.folder / "socks", SOCKS_SITE, stage.targets, *dynamic)),
            stack.enter_context(site(stage.folder / "fixed", KUBEMUX, stage.targets, *fixed)),
        ]
        for route in routes:
            verify(route)
        yield routes
        for route in routes:
            verify(route)


@contextmanager
def remote(gateway: Gateway, targets: Ports) -> Iterator[Route]:
    """`ssh -R`: sshd listens on the bastion, and the ssh at the site connects to the targets."""
    ports = Ports(*distinct_ports(len(targets)))
    sshd = gateway.sshd
    before = sshd.sessions()
    command = [find("ssh") or "ssh", "-N", "-T", "-F", "none", "-p", str(gateway.port), "-c", CIPHER]
    command += ["-i", str(sshd.identity), "-o", f"UserKnownHostsFile={gateway.known_hosts}"]
    command += ["-o", "ExitOnForwardFailure=yes", "-o", "BatchMode=yes"]
    for local, target in zip(ports, targets, strict=True):
        command += ["-R", f"127.0.0.1:{local}:127.0.0.1:{target}"]
    with ended(subprocess.Popen([*command, f"{sshd.user}@{sshd.host}"], stdin=subprocess.DEVNULL)) as process:
        wait_listening(ports, [process])
        # With privilege separation, the child process of sshd carries the bytes.
        pids = sshd.sessions() - before
        yield Route(REMOTE, ports, next(pid for pid in pids if not descendants(pid)))


@contextmanager
def by_gateway(folder: Path, gateway: Gateway, targets: Ports) -> Iterator[Route]:
    """The daemon with the sshd as its only gateway."""
    with daemon(folder, BY_GATEWAY, targets, gateway=gateway) as (route, running):
        settle(running, targets)
        yield route


@contextmanager
def site(folder: Path, column: str, targets: Ports, *forwards: str) -> Iterator[Route]:
    """The daemon, and an OpenSSH client with these forwards as its only site."""
    folder.mkdir()
    files = SshServerFiles(folder / "ssh")
    sections = {
        "ssh_server": files.sections(),
        "sites": {NAME: {**files.authorized(NAME), "permit": ["127.0.0.1:*"]}},
    }
    command = files.command(NAME, "-N", "-T", "-c", CIPHER, *forwards)
    with (
        daemon(folder / "daemon", column, targets, sections=sections) as (route, running),
        ended(subprocess.Popen(command, stdin=subprocess.DEVNULL)),
    ):
        settle(running, targets)
        yield route


@contextmanager
def daemon(
    folder: Path,
    column: str,
    targets: Ports,
    *,
    gateway: Gateway | None = None,
    sections: Mapping[str, object] | None = None,
) -> Iterator[tuple[Route, Daemon]]:
    """The daemon with one gateway or site. The targets are clusters without probes during the bench."""
    ports = Ports(*distinct_ports(len(targets)))
    clusters: dict[str, object] = {
        name: cluster(NAME, local, target, probe={"interval": "24h"})
        for name, local, target in zip(Ports._fields, ports, targets, strict=True)
    }
    gateways: dict[str, object] = {NAME: gateway.section(connections=1)} if gateway else {}
    with Daemon(folder, gateways=gateways, clusters=clusters, sections=sections) as running:
        yield Route(column, ports, running.pid), running


def settle(running: Daemon, targets: Ports) -> None:
    """Wait for the link, and until the first probes are over."""
    running.wait_for("the link", lambda: running.metric("kubemux_gateway_links") == 1)
    wait_for_probes(running, len(targets))
