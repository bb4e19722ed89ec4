"""The admin server over real sockets, asked by a real HTTP client or byte by byte."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from proxy.admin.connections import MAX_CONNECTIONS
from proxy.admin.control import ReloadResult
from proxy.admin.server import host_allowed
from proxy.admin.status import to_document
from proxy.config.values import Endpoint
from proxy.errors import ConfigError, LinkDown, ListenError, Problem
from tests.admin.scripted import DAEMON, Daemon, serving

SECONDS = 10.0

pytestmark = pytest.mark.both_loops


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
async def tcp(daemon: Daemon, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async with serving(daemon, tmp_path / "s") as endpoint, aiohttp.ClientSession(f"http://{endpoint}") as session:
        yield session


@pytest.fixture
async def unix(daemon: Daemon, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(tmp_path / "s"))
    async with serving(daemon, tmp_path / "s"), aiohttp.ClientSession("http://localhost", connector=connector) as session:
        yield session


async def exchange(path: Path | Endpoint, request: bytes) -> bytes:
    """Send `request`, and everything that comes back until the server hangs up."""
    connect = asyncio.open_unix_connection(path) if isinstance(path, Path) else asyncio.open_connection(*path)
    async with asyncio.timeout(SECONDS):
        reader, writer = await connect
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


async def test_reads_on_both_sides(tcp: aiohttp.ClientSession, tmp_path: Path) -> None:
    async with aiohttp.ClientSession("http://x", connector=aiohttp.UnixConnector(str(tmp_path / "s"))) as unix:
        for session in (tcp, unix):
            async with session.get("/healthz") as answer:
                assert (answer.status, await answer.text()) == (200, "ok\n")
            async with session.get("/status") as answer:
                assert await answer.json() == to_document(DAEMON)
            async with session.get("/") as answer:
                assert 'href="/status"' in await answer.text()
                assert answer.headers["Server"] == "kubemux"
                assert "Access-Control-Allow-Origin" not in answer.headers


async def test_readyz_follows_the_snapshot(tcp: aiohttp.ClientSession, daemon: Daemon) -> None:
    async with tcp.get("/readyz") as answer:
        assert (answer.status, await answer.text()) == (200, "ok\n")
    async with tcp.get("/readyz?verbose") as answer:
        assert answer.status == 200
        assert "[-]gateway us-west: auth_failed\n" in await answer.text()
    daemon.shown = replace(DAEMON, draining=True)
    async with tcp.get("/readyz") as answer:
        assert answer.status == 503
        assert "draining" in await answer.text()


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/readyz?verbose", "/status", "/metrics"])
async def test_head_is_get_without_a_body(tcp: aiohttp.ClientSession, path: str) -> None:
    async with tcp.get(path, headers={"Accept-Encoding": "identity"}) as got, tcp.head(path) as head:
        assert head.status == got.status == 200
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
        assert await head.read() == b""
        assert await got.read() != b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_nothing_but_reads_is_taken_over_tcp(tcp: aiohttp.ClientSession, daemon: Daemon, method: str) -> None:
    async with tcp.request(method, "/status") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET, HEAD"
        assert (await answer.json())["hint"] == "use GET"
    for path in ("/-/reload", "/-/reconnect?gateway=eu-edge", "/-/drain?cluster=prod-eu"):
        async with tcp.request(method, path) as answer:
            assert answer.status == 404
            assert "/-/" not in (await answer.json())["hint"]
    assert daemon.told == []


async def test_orders_over_the_unix_socket(unix: aiohttp.ClientSession, daemon: Daemon) -> None:
    daemon.result = ReloadResult(added=("cluster new",), warnings=("it rains",))
    async with unix.post("/-/reload") as answer:
        assert await answer.json() == {"added": ["cluster new"], "changed": [], "removed": [], "warnings": ["it rains"]}
    async with unix.post("/-/reconnect", params={"gateway": "eu-edge"}) as answer:
        assert answer.status == 200
    name = "kubernetes-admin@a&b/c d"
    async with unix.post("/-/drain", params={"cluster": name}) as answer:
        assert await answer.json() == {"cluster": name}
    assert daemon.told == ["reload", "reconnect eu-edge", f"drain {name}"]


async def test_an_order_must_be_a_post_and_name_its_object(unix: aiohttp.ClientSession, daemon: Daemon) -> None:
    async with unix.get("/-/reload") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    async with unix.post("/-/drain") as answer:
        assert (answer.status, (await answer.json())["hint"]) == (400, "POST /-/drain?cluster=NAME")
    assert daemon.told == []


async def test_failures_of_orders_say_what_to_do(unix: aiohttp.ClientSession, daemon: Daemon) -> None:
    async with unix.post("/-/reconnect?gateway=nope") as answer:
        assert answer.status == 404
        assert await answer.json() == {
            "error": "no gateway is called 'nope'",
            "reason": "unknown_name",
            "hint": "there are: eu-edge, us-west",
        }
    daemon.failure = ConfigError("/etc/k.yaml", [Problem(3, "clusters.x.listen", "bad port", "use 1-65535")])
    async with unix.post("/-/reload") as answer:
        said = await answer.json()
        assert (answer.status, said["reason"], said["path"]) == (422, "config", "/etc/k.yaml")
        assert said["problems"] == [{"line": 3, "key": "clusters.x.listen", "message": "bad port", "hint": "use 1-65535"}]
    daemon.failure = LinkDown("no link")
    async with unix.post("/-/drain?cluster=x") as answer:
        assert (answer.status, (await answer.json())["reason"]) == (500, "link_down")


async def test_a_bug_is_logged_and_not_shown(tcp: aiohttp.ClientSession, daemon: Daemon) -> None:
    daemon.failure = RuntimeError("the secret of the daemon")
    async with tcp.get("/status") as answer:
        assert answer.status == 500
        assert "secret" not in await answer.text()
    async with tcp.get("/healthz") as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    "host", ["evil.example.com", "evil.example.com:9464", "", "localhost.evil.com", "10.0.0.1", "[::2]:1", "["]
)
async def test_a_rebound_name_is_refused_over_tcp(tcp: aiohttp.ClientSession, host: str) -> None:
    async with tcp.get("/status", headers={"Host": host}) as answer:
        assert answer.status == 403
        assert "prod-eu" not in await answer.text()


@pytest.mark.parametrize("header", ["localhost", "LOCALHOST:9464", "127.0.0.1:1", "127.9.9.9", "[::1]:80", "bastion.lan:9464"])
def test_names_of_this_machine_are_taken(header: str) -> None:
    assert host_allowed(header, "Bastion.LAN")


async def test_a_request_without_host_is_refused_over_tcp(daemon: Daemon, tmp_path: Path) -> None:
    async with serving(daemon, tmp_path / "s") as endpoint:
        answer = await exchange(endpoint, b"GET /status HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 403 ")


@pytest.mark.parametrize("request_bytes", [b"", b"GET /status HTT", b"GET /status HTTP/1.1\r\nHost: localhost\r\nX: "])
async def test_a_client_that_does_not_finish_its_request_is_cut_off(daemon: Daemon, tmp_path: Path, request_bytes: bytes) -> None:
    async with serving(daemon, tmp_path / "s", idle_timeout=0.05) as endpoint:
        assert await exchange(endpoint, request_bytes) == b""


async def test_a_body_that_never_ends_does_not_hold_the_connection(daemon: Daemon, tmp_path: Path) -> None:
    async with serving(daemon, tmp_path / "s"):
        answer = await exchange(tmp_path / "s", b"POST /-/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert daemon.told == ["reload"]


@pytest.mark.parametrize(
    "junk", [b"GET /" + b"x" * 70_000, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200, b"\x16\x03\x01\x02\x00\x01"]
)
async def test_oversized_and_foreign_requests_are_refused(daemon: Daemon, tmp_path: Path, junk: bytes) -> None:
    async with serving(daemon, tmp_path / "s", idle_timeout=1.0) as endpoint:
        answer = await exchange(endpoint, junk + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 400 ")


async def test_a_client_that_does_not_read_its_answer_is_cut_off(daemon: Daemon, tmp_path: Path) -> None:
    daemon.shown = replace(DAEMON, clusters=DAEMON.clusters * 2000)  # more than a socket's buffers take
    async with serving(daemon, tmp_path / "s", write_timeout=0.05):
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            client.connect(str(tmp_path / "s"))
            client.send(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
            poll = select.poll()
            poll.register(client, 0)  # POLLHUP alone, which cannot be masked
            assert await asyncio.to_thread(poll.poll, SECONDS * 1000) != []


async def test_connections_beyond_the_bound_are_reset_and_the_rest_go_on(daemon: Daemon, tmp_path: Path) -> None:
    held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    async with asyncio.timeout(SECONDS), serving(daemon, tmp_path / "s") as endpoint:
        for _ in range(MAX_CONNECTIONS):
            reader, writer = await asyncio.open_connection(*endpoint)
            held.append((reader, writer))
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        with suppress(ConnectionError):  # a reset, where the abort came before our read
            assert await exchange(endpoint, b"") == b""
        assert (await exchange(tmp_path / "s", b"GET /healthz HTTP/1.0\r\nConnection: close\r\n\r\n")).startswith(b"HTTP/1.0 200")
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        assert b" 200 " in await exchange(endpoint, b"GET /healthz HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n")


async def test_a_busy_port_names_the_port_and_the_remedy_and_leaves_the_other_side(daemon: Daemon, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        endpoint = Endpoint(*busy.getsockname())
        server = daemon.server()
        try:
            with pytest.raises(ListenError, match=f"admin.listen {endpoint}: Address already in use") as caught:
                await server.start_tcp(endpoint)
            assert f"sport = :{endpoint.port}" in caught.value.hint
            await server.start_unix(tmp_path / "s")
            assert b" 200 " in await exchange(tmp_path / "s", b"GET /healthz HTTP/1.0\r\n\r\n")
        finally:
            await server.close()


@pytest.mark.parametrize("where", [Endpoint("192.0.2.1", 0), Endpoint("no-such-host.invalid", 1)])
async def test_an_address_that_is_not_ours_is_a_listen_error(daemon: Daemon, where: Endpoint) -> None:
    with pytest.raises(ListenError, match=f"admin.listen {where}: [A-Z]") as caught:
        await daemon.server().start_tcp(where)
    assert "admin.listen" in caught.value.hint


async def test_a_socket_that_was_handed_over_is_served(daemon: Daemon) -> None:
    handed = socket.create_server(("127.0.0.1", 0))
    server = daemon.server()
    try:
        endpoint = await server.start_tcp(handed)
        assert endpoint == Endpoint(*handed.getsockname())
        assert b" 200 " in await exchange(endpoint, b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert b" 403 " in await exchange(endpoint, b"GET /healthz HTTP/1.0\r\nHost: evil.example\r\n\r\n")
    finally:
        await server.close()


async def test_close_ends_every_connection_and_is_idempotent(daemon: Daemon, tmp_path: Path) -> None:
    server = daemon.server()
    endpoint = await server.start_tcp(Endpoint("127.0.0.1", 0))
    await server.start_unix(tmp_path / "s")
    idle = await asyncio.open_connection(*endpoint)
    busy = await asyncio.open_unix_connection(tmp_path / "s")
    busy[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await busy[0].readline() == b"HTTP/1.1 200 OK\r\n"
    await server.close()
    await server.close()
    async with asyncio.timeout(SECONDS):
        for reader, writer in (idle, busy):
            await reader.read()
            writer.close()
            await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*endpoint)
    assert not (tmp_path / "s").exists()


async def test_an_order_goes_on_when_its_client_hangs_up(tmp_path: Path) -> None:
    entered, released, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow(Daemon):
        async def reload(self) -> ReloadResult:
            entered.set()
            await released.wait()
            ended.set()
            return ReloadResult()

    async with asyncio.timeout(SECONDS), serving(Slow(), tmp_path / "s"):
        _, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(b"POST /-/reload HTTP/1.1\r\nHost: x\r\n\r\n")
        await entered.wait()
        writer.close()
        await writer.wait_closed()
        await exchange(tmp_path / "s", b"GET /healthz HTTP/1.0\r\n\r\n")  # by then the server has seen the hang-up
        released.set()
        await ended.wait()
