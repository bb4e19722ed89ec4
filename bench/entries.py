"""How many new connections per second does a proxy entry accept, and how much CPU does each need?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.columns import LINKS, Gateway, cluster, distinct_ports, start_ssh, wait_for_probes
from bench.load import through_proxy
from bench.result import DYNAMIC, DYNAMIC_NODELAY, KUBEMUX, Answer, Row, Target
from bench.stage import Stage
from bench.waiting import ended, wait_listening
from tests.support.daemon import Daemon

COUNT = 2000
"""New connections in a measurement, for each second of its duration."""
SOCKS5, CONNECT = "socks5h", "http"


class Proxy(NamedTuple):
    """A column: a proxy process that listens on `port` and speaks `protocols`. Its clients ask for `host`."""

    column: str
    port: int
    pid: int
    host: str
    protocols: tuple[str, ...]


def measure(stage: Stage) -> Answer:
    """Run curl, which opens a connection for each request."""
    rows = {
        SOCKS5: (
            Row("new connections by SOCKS5", "1/s", targets=(Target(DYNAMIC, 1.0),)),
            Row("a new connection by SOCKS5", "CPU us", more_is_better=False),
        ),
        CONNECT: (
            Row("new connections by CONNECT", "1/s"),
            Row("a new connection by CONNECT", "CPU us", more_is_better=False),
        ),
    }
    with ExitStack() as stack:
        stock, nodelay = Gateway.of(stage.stock), Gateway.of(stage.nodelay)
        proxies = (
            stack.enter_context(dynamic(DYNAMIC, stock)),
            stack.enter_context(dynamic(DYNAMIC_NODELAY, nodelay)),
            stack.enter_context(kubemux(stage.folder / "kubemux", stock, stage.targets.http)),
        )
        for _ in range(stage.scale.repetitions):
            for proxy in proxies:
                for protocol in proxy.protocols:
                    url = f"{protocol}://127.0.0.1:{proxy.port}"
                    server = f"{proxy.host}:{stage.targets.http}"
                    opened = through_proxy(url, proxy.pid, server, count=COUNT * stage.scale.seconds)
                    for row, value in zip(rows[protocol], opened, strict=True):
                        row.add(proxy.column, value)
    notes = "curl, 16 at a time, against nginx. ssh -D has no CONNECT."
    return Answer(
        "entries", "A new connection through a proxy for each request", notes, sum(rows.values(), ())
    )


@contextmanager
def dynamic(column: str, gateway: Gateway) -> Iterator[Proxy]:
    """OpenSSH's client as a SOCKS server (`-D`)."""
    (port,) = distinct_ports(1)
    with ended(start_ssh(gateway, {}, dynamic=port)) as process:
        wait_listening([port], [process])
        yield Proxy(column, port, process.pid, "127.0.0.1", (SOCKS5,))


@contextmanager
def kubemux(folder: Path, gateway: Gateway, target: int) -> Iterator[Proxy]:
    """The daemon with a proxy entry, whose clients ask for the target by a cluster's name."""
    listen, port = distinct_ports(2)
    with Daemon(
        folder,
        gateways={"edge": gateway.section()},
        clusters={"nginx": cluster("edge", listen, target, probe={"interval": "24h"})},
        sections={"entries": {"proxy": {"listen": f"127.0.0.1:{port}"}}},
    ) as daemon:
        daemon.wait_for("every link", lambda: daemon.metric("kubemux_gateway_links") == LINKS)
        wait_for_probes(daemon, 1)
        yield Proxy(KUBEMUX, port, daemon.pid, "nginx", (SOCKS5, CONNECT))
