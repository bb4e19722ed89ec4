"""Clients of an entry reach clusters and routes by name, through a real sshd, if they are allowed to."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import gateway
from tests.integration.running import running, wait_for_log
from tests.integration.test_life import kubemux
from tests.support.daemon import Daemon, Sections
from tests.support.echo import Echo, pattern
from tests.support.ports import free_port
from tests.support.serving import send
from tests.support.sshd import Sshd

ME = f"uid:{os.getuid()}"
OTHERS = [f"uid:{os.getuid() + 4711}", "gid:no-such-group"]


class Bed(NamedTuple):
    """A daemon with an entry, and a cluster with a listener of its own."""

    daemon: Daemon
    proxy: Endpoint
    closed: Endpoint


async def ask(proxy: Endpoint, host: str, payload: bytes = b"") -> tuple[str, bytes]:
    """Send CONNECT. Returns the status line, and after 200 what comes back for `payload`."""
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(*proxy)
        send(writer, f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() + payload)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
        status = head.partition("\r\n")[0].removeprefix("HTTP/1.1 ")
        try:
            came = await (reader.readexactly(len(payload)) if status.startswith("200") else reader.read())
        finally:
            writer.close()
            await writer.wait_closed()
    return status, came


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


@contextmanager
def deaf() -> Iterator[str]:
    """An address that answers no SYN: its backlog is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(server.getsockname())
        yield str(Endpoint(*server.getsockname()))


async def connect_until_end(listen: Endpoint) -> None:
    """Connect, and wait for the end of the connection. A reset may come during connect(2) already."""
    reader, writer = await asyncio.open_connection(*listen)
    try:
        await reader.read()
    finally:
        writer.close()


@pytest.fixture
async def bed(sshd: Sshd, tmp_path: Path) -> AsyncIterator[Bed]:
    async with Echo() as echo:
        proxy, closed = (Endpoint("127.0.0.1", free_port()) for _ in range(2))
        target = str(echo.endpoint)
        clusters: Sections = {
            "Prod-EU": {"gateway": "edge", "api_servers": [target], "dns_name": "prod.example.com"},
            "closed": {
                "gateway": "edge",
                "listen": str(closed),
                "api_servers": ["127.0.0.1:1"],
                "allow": OTHERS,
            },
        }
        routes = [
            {"name": "mine", "match": ["*.mine:*"], "gateway": "edge", "target": target, "allow": [ME]},
            {
                "name": "theirs",
                "match": ["*.theirs:22"],
                "gateway": "edge",
                "target": target,
                "allow": OTHERS,
            },
        ]
        async with running(
            tmp_path / "daemon",
            gateways={"edge": gateway(sshd)},
            clusters=clusters,
            entries={"proxy": {"listen": str(proxy)}},
            routes=routes,
        ) as daemon:
            await wait_for_log(daemon, "link up")  # a client that comes before is held for 5 s at most
            yield Bed(daemon, proxy, closed)


async def test_allowed_callers_reach_clusters_and_routes_by_name(bed: Bed) -> None:
    payload = pattern(300_000)
    for name in ("prod-eu:6443", "PROD.example.com:443", "web-0.mine:8080"):
        status, came = await ask(bed.proxy, name, payload)
        assert (status, came == payload) == ("200 Connection established", True), name
    me = ME.replace(":", " ")
    for name, expected in (
        ("a.theirs:22", f"403 kubemux: a.theirs: denied ({me} is not in allow)"),
        ("closed:443", f"403 kubemux: closed: denied ({me} is not in allow)"),
        ("a.theirs:23", "404 kubemux: a.theirs: unknown_name (a.theirs is asked for by port 22)"),
        ("prod-eo:443", "404 kubemux: prod-eo: unknown_name (nearest: prod-eu)"),
    ):
        assert (await ask(bed.proxy, name))[0] == expected
    with pytest.raises(ConnectionResetError):
        await connect_until_end(bed.closed)
    daemon = bed.daemon
    trail = await wait_for_log(daemon, "connection closed", route="mine")
    assert (trail["entry"], trail["caller"], trail["asked"]) == ("proxy", ME, "web-0.mine:8080")
    assert daemon.metric("kubemux_denied_total", entry="proxy", reason="denied") == 2
    assert daemon.metric("kubemux_denied_total", entry="listener", reason="denied") == 1
    assert daemon.metric("kubemux_route_bytes_total", route="mine", direction="to_cluster") == len(payload)
    assert daemon.metric("kubemux_route_connections_total", route="theirs", result="denied") == 1
    told = json.loads(daemon.get("/status")[1])
    assert [(route["name"], route["connections_total"]) for route in told["routes"]] == [
        ("mine", 1),
        ("theirs", 1),
    ]
    assert [(entry["name"], entry["listening"]) for entry in told["entries"]] == [("proxy", True)]
    listening = [
        line
        for line in daemon.get("/metrics")[1].splitlines()
        if line.startswith("kubemux_cluster_listening{")
    ]
    assert listening == ['kubemux_cluster_listening{cluster="closed"} 1.0'], (
        "a unix socket's client has no address"
    )
    assert daemon.get("/readyz")[0] == 200

    reader, writer = await asyncio.open_connection(*bed.proxy)
    writer.write(b"CONNECT web-0.mine:8080 HTTP/1.1\r\n\r\n")
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    ended = await asyncio.to_thread(kubemux, "drain", "mine", "--caller", ME, "--config", daemon.config)
    assert ended == f"mine: 1 connection of {ME} ended\n"
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_a_rule_that_matches_nobody_gets_a_warning(bed: Bed) -> None:
    """The rule lets nobody in. The log says why at the start, and at each reload."""
    keys = ["routes[1].allow[1]", "clusters.closed.allow[1]"]  # as the file has them
    message = "lets nobody in: there is no group 'no-such-group' on this machine"
    told = bed.daemon.events("rule without effect")
    assert [(one["key"], one["message"]) for one in told] == [(key, message) for key in keys]
    await asyncio.to_thread(kubemux, "reload", "--config", bed.daemon.config)
    again = await wait_for_log(bed.daemon, "reloaded")
    assert again["warnings"] == [f"{key}: {message}" for key in keys]


async def test_every_failure_is_answered_in_time(sshd: Sshd, tmp_path: Path, stack: ExitStack) -> None:
    """kube-apiserver waits for the answer without a limit, and shows its users only the reason phrase."""
    refused, proxy = free_port(), Endpoint("127.0.0.1", free_port())
    silent = [stack.enter_context(deaf()) for _ in range(2)]
    clusters: Sections = {
        "refused": {"gateway": "edge", "api_servers": [f"127.0.0.1:{refused}"]},
        "lost": {"gateway": "impatient", "api_servers": silent},
        "down": {"gateway": "gone", "api_servers": ["127.0.0.1:1"]},
    }
    gateways: Sections = {
        "edge": gateway(sshd),
        "impatient": gateway(sshd, connect_timeout="2s"),
        "gone": gateway(sshd, port=free_port()),
    }
    async with running(
        tmp_path / "daemon",
        gateways=gateways,
        clusters=clusters,
        entries={"proxy": {"listen": str(proxy)}},
        limits={"hold_timeout": "300ms"},
    ) as daemon:
        for name in ("edge", "impatient"):
            await wait_for_log(daemon, "link up", gateway=name)
        await wait_for_log(daemon, "gateway dial failed", gateway="gone")
        status, _ = await ask(proxy, "refused:443")
        assert status.startswith("502 kubemux: refused: channel_refused (")
        assert status.endswith(f"could not connect to 127.0.0.1:{refused}: Connection refused)")
        status, text = await ask(proxy, "down:443")
        assert status.startswith("503 kubemux: down: link_down (gateway gone has no link")
        assert status.endswith(": unreachable)")
        assert text.decode() == status.removeprefix("503 ") + "\n"
        assert (await ask(proxy, "lost:443"))[0].startswith("504 kubemux: lost: timeout (")
        for server in silent:
            await wait_for_log(daemon, "next API server", cluster="lost", failed=server)
