"""The admin server over real sockets, with a real HTTP client or byte by byte."""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import pytest

from proxy.admin.endpoints import host_allowed
from proxy.admin.http.serving import MAX_CONNECTIONS
from proxy.admin.orders import ReloadResult
from proxy.admin.status import to_document
from proxy.errors import ConfigError, LinkDown, ListenError, Problem
from proxy.runtime.endpoint import Endpoint
from tests.admin.scripted import DAEMON, Daemon, serving
from tests.support.asking import Asker
from tests.support.serving import send

SECONDS = 30.0

pytestmark = pytest.mark.both_loops


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
async def tcp(daemon: Daemon, tmp_path: Path) -> AsyncIterator[Asker]:
    async with serving(daemon, tmp_path / "s") as endpoint:
        yield Asker(endpoint)


@pytest.fixture
async def unix(daemon: Daemon, tmp_path: Path) -> AsyncIterator[Asker]:
    async with serving(daemon, tmp_path / "s"):
        yield Asker(tmp_path / "s")


async def exchange(path: Path | Endpoint, request: bytes) -> bytes:
    """Send `request`. Returns everything until the server closes the connection."""
    connect = asyncio.open_unix_connection(path) if isinstance(path, Path) else asyncio.open_connection(*path)
    async with asyncio.timeout(SECONDS):
        reader, writer = await connect
        try:
            send(writer, request)
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


async def test_reads_are_answered_over_tcp_and_over_the_unix_socket(tcp: Asker, tmp_path: Path) -> None:
    for asker in (tcp, Asker(tmp_path / "s")):
        answer = await asker.get("/healthz")
        assert (answer.status, answer.text) == (200, "ok\n")
        assert (await asker.get("/status")).json() == to_document(DAEMON)
        index = await asker.get("/")
        assert 'href="/status"' in index.text
        assert index.headers["Server"] == "kubemux"
        assert "Access-Control-Allow-Origin" not in index.headers


async def test_readyz_follows_the_snapshot(tcp: Asker, daemon: Daemon) -> None:
    ready = await tcp.get("/readyz")
    assert (ready.status, ready.text) == (200, "ok\n")
    verbose = await tcp.get("/readyz?verbose")
    assert verbose.status == 200
    assert "[-]gateway us-west: auth_failed\n" in verbose.text
    daemon.shown = replace(DAEMON, draining=True)
    draining = await tcp.get("/readyz")
    assert draining.status == 503
    assert "draining" in draining.text


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/readyz?verbose", "/status", "/metrics"])
async def test_the_answer_to_head_is_that_to_get_without_its_body(tcp: Asker, path: str) -> None:
    got, head = await tcp.get(path), await tcp.ask("HEAD", path)
    assert head.status == got.status == 200
    assert head.headers["Content-Type"] == got.headers["Content-Type"]
    assert head.body == b""
    assert got.body != b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_only_reads_are_accepted_over_tcp(tcp: Asker, daemon: Daemon, method: str) -> None:
    answer = await tcp.ask(method, "/status")
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"
    assert '"hint": "use GET"' in answer.text
    for path in (
        "/-/reload",
        "/-/reconnect?gateway=eu-edge",
        "/-/drain?cluster=prod-eu",
        "/-/probe?cluster=prod-eu",
        "/-/end?caller=uid:1002",
    ):
        answer = await tcp.ask(method, path)
        assert answer.status == 404
        assert '"hint": "there are: / /metrics' in answer.text
        assert "/-/" not in answer.text.partition('"hint"')[2]
    assert daemon.orders == []


async def test_orders_are_accepted_over_the_unix_socket(unix: Asker, daemon: Daemon) -> None:
    daemon.result = ReloadResult(added=("cluster new",), warnings=("it rains",))
    answer = await unix.post("/-/reload")
    assert answer.json() == {"added": ["cluster new"], "changed": [], "removed": [], "warnings": ["it rains"]}
    assert (await unix.post("/-/reconnect?gateway=eu-edge")).status == 200
    name = "kubernetes-admin@a&b/c d"
    drained = (await unix.post(f"/-/drain?{urlencode({'cluster': name})}")).json()
    assert drained == {"cluster": name, "cut": 0, "drained": [f"cluster {name}"]}
    assert (await unix.post("/-/probe?cluster=prod-eu")).json() == {"cluster": "prod-eu", "alive": True}
    assert daemon.orders == ["reload", "reconnect eu-edge", f"drain {name}", "probe prod-eu"]
    daemon.cut = 3
    caller = "cert:spiffe://a/b?c&d"
    for of in ({}, {"of": name}):
        answer = await unix.post(f"/-/end?{urlencode({'caller': caller, **of})}")
        assert answer.json() == {"caller": caller, "ended": 3}
    assert daemon.orders[4:] == [f"end {caller} of None", f"end {caller} of {name}"]


async def test_an_order_must_be_a_post_and_name_its_object(unix: Asker, daemon: Daemon) -> None:
    answer = await unix.get("/-/reload")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    answer = await unix.post("/-/drain")
    assert answer.status == 400
    assert '"hint": "POST /-/drain?cluster=NAME"' in answer.text
    answer = await unix.post("/-/end?of=prod-eu")
    assert '"hint": "POST /-/end?caller=NAME"' in answer.text
    assert daemon.orders == []


async def test_failures_of_orders_have_a_remedy(unix: Asker, daemon: Daemon) -> None:
    answer = await unix.post("/-/reconnect?gateway=nope")
    assert answer.status == 404
    assert answer.json() == {
        "error": "no gateway is called 'nope'",
        "reason": "unknown_name",
        "hint": "there are: 'eu-edge', 'us-west'",
    }
    daemon.failure = ConfigError("/etc/k.yaml", [Problem(3, "clusters.x.listen", "bad port", "use 1-65535")])
    answer = await unix.post("/-/reload")
    said = json.loads(answer.body)
    assert (answer.status, said["reason"], said["path"]) == (422, "config", "/etc/k.yaml")
    assert said["problems"] == [
        {"line": 3, "key": "clusters.x.listen", "message": "bad port", "hint": "use 1-65535"}
    ]
    daemon.failure = LinkDown("no link")
    answer = await unix.post("/-/drain?cluster=x")
    assert (answer.status, json.loads(answer.body)["reason"]) == (500, "link_down")


async def test_a_bug_is_logged_and_not_shown(tcp: Asker, daemon: Daemon) -> None:
    daemon.failure = RuntimeError("the secret of the daemon")
    answer = await tcp.get("/status")
    assert answer.status == 500
    assert "secret" not in answer.text
    assert (await tcp.get("/healthz")).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example.com",
        "evil.example.com:9464",
        "",
        "localhost.evil.com",
        "10.0.0.1",
        "[::2]:1",
        "%6cocalhost",
    ],
)
async def test_a_host_name_that_is_not_this_machines_is_refused_over_tcp(tcp: Asker, host: str) -> None:
    answer = await tcp.get("/status", host=host)
    assert answer.status == 403
    assert "prod-eu" not in answer.text


@pytest.mark.parametrize(
    "header", ["localhost", "LOCALHOST:9464", "127.0.0.1:1", "127.9.9.9", "[::1]:80", "bastion.lan:9464"]
)
def test_host_names_of_this_machine_are_accepted(header: str) -> None:
    assert host_allowed(header, "Bastion.LAN")


@pytest.mark.parametrize("fields", [b"", b"Connection: keep-alive\r\n"])
async def test_http_1_0_without_host_is_answered_and_closed(
    daemon: Daemon, tmp_path: Path, fields: bytes
) -> None:
    # Simple health checks send no Host (HAProxy's httpchk by default). A browser, which a web page could lead
    # here, always sends it.
    async with serving(daemon, tmp_path / "s") as endpoint:
        answer = await exchange(endpoint, b"GET /healthz HTTP/1.0\r\n" + fields + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b"\r\n\r\nok\n")
        assert (await exchange(endpoint, b"GET /healthz HTTP/1.1\r\n" + fields + b"\r\n")).startswith(
            b"HTTP/1.1 400 "
        )
        assert (await exchange(endpoint, b"GET /healthz HTTP/1.0\r\nHost:\r\n\r\n")).startswith(
            b"HTTP/1.1 403 "
        )


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"Host: localhost\r\nHost: localhost\r\n",
        *(
            b"Host: " + host + b"\r\n"
            for host in (b"a b", b"[", b"::1", b"x@localhost", b"localhost:http", b"a/b", b"a\x01", b"\xe9")
        ),
    ],
)
@pytest.mark.parametrize("over_tcp", [True, False])
async def test_an_invalid_host_is_a_bad_request(
    daemon: Daemon, tmp_path: Path, fields: bytes, over_tcp: bool
) -> None:
    """RFC 9112 3.2, over TCP and over the unix socket."""
    async with serving(daemon, tmp_path / "s") as endpoint:
        request = b"GET /status HTTP/1.1\r\n" + fields + b"\r\n"
        answer = await exchange(endpoint if over_tcp else tmp_path / "s", request * 2)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1, "the connection ends after the answer"
    assert b"prod-eu" not in answer


LONG = replace(DAEMON, clusters=(replace(DAEMON.clusters[0], message="x" * (4 << 20)),))
"""More bytes than a socket's buffers hold."""
ENDING = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
ORDER = b"POST /-/reload HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("status", "request_bytes"),
    [
        (400, ORDER + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, ORDER + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
        (400, ORDER.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, ORDER + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        (400, ORDER + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        (400, ORDER + b"Content-Length: +3\r\n\r\nabc"),
        (400, ORDER + b"Content-Length: 0x3\r\n\r\nabc"),
        (400, ORDER + b" Content-Length: 3\r\nX\r\n\r\nabc"),
        (400, ORDER + b"X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, ORDER + b"X: a\x00b\r\n\r\n"),
        (400, ORDER + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcX0\r\n\r\n"),
        (400, ORDER + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n"),
        (501, ORDER + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        (501, ORDER + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, ORDER + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ],
)
async def test_ambiguous_requests_are_refused_and_end_the_connection(
    daemon: Daemon, tmp_path: Path, status: int, request_bytes: bytes
) -> None:
    async with serving(daemon, tmp_path / "s"):
        answer = await exchange(tmp_path / "s", request_bytes + ORDER + b"\r\n")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert answer.count(b"HTTP/1.1") == 1
    assert b"Connection: close" in answer
    assert daemon.orders == []


@pytest.mark.parametrize(
    "request_bytes",
    [
        ORDER.replace(b"\r\n", b"\n") + b"\n",
        ORDER + b"X: a\r\n b: c\r\n\r\n",
        ORDER + b'Transfer-Encoding: chunked\r\n\r\n3;x="GET / HTTP/1.1"\r\nabc\r\n0\r\n\r\n',
        ORDER + b"Transfer-Encoding: CHUNKED\r\n\r\n0\r\nX: y\r\n\r\n",
        ORDER + b"Content-Length: 3, 3\r\n\r\nabc",
    ],
)
async def test_unusual_but_unambiguous_requests_are_accepted(
    daemon: Daemon, tmp_path: Path, request_bytes: bytes
) -> None:
    async with serving(daemon, tmp_path / "s"):
        answer = await exchange(tmp_path / "s", request_bytes + ENDING)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert daemon.orders == ["reload"]


async def test_the_absolute_form_says_which_host_is_asked_for(daemon: Daemon, tmp_path: Path) -> None:
    """RFC 9112 3.2.2: `Host` is ignored then."""
    async with serving(daemon, tmp_path / "s") as endpoint:
        answer = await exchange(
            endpoint,
            b"GET http://evil.example/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        )
    assert answer.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "request_bytes", [b"", b"GET /status HTT", b"GET /status HTTP/1.1\r\nHost: localhost\r\nX: "]
)
async def test_a_client_that_does_not_finish_its_request_is_cut_off(
    daemon: Daemon, tmp_path: Path, request_bytes: bytes
) -> None:
    async with serving(daemon, tmp_path / "s", idle_timeout=0.05) as endpoint:
        assert await exchange(endpoint, request_bytes) == b""


async def test_a_body_that_never_ends_does_not_hold_the_connection(daemon: Daemon, tmp_path: Path) -> None:
    async with serving(daemon, tmp_path / "s"):
        answer = await exchange(
            tmp_path / "s", b"POST /-/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\nabc"
        )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert daemon.orders == ["reload"]


@pytest.mark.parametrize(
    "junk", [b"GET /" + b"x" * 70_000, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200, b"\x16\x03\x01\x02\x00\x01"]
)
async def test_oversized_and_foreign_requests_are_refused(
    daemon: Daemon, tmp_path: Path, junk: bytes
) -> None:
    async with serving(daemon, tmp_path / "s", idle_timeout=60.0) as endpoint:
        answer = await exchange(endpoint, junk + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))


@pytest.mark.both_loops(pauses=True)
async def test_a_client_that_does_not_read_its_answer_is_cut_off(daemon: Daemon, tmp_path: Path) -> None:
    daemon.shown = LONG
    async with serving(daemon, tmp_path / "s", answer_timeout=0.05):
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            client.connect(str(tmp_path / "s"))
            client.send(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
            poll = select.poll()
            poll.register(client, 0)  # POLLHUP alone, which cannot be masked
            assert await asyncio.to_thread(poll.poll, SECONDS * 1000) != []


async def hold(endpoint: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that got an answer and stays open (keep-alive)."""
    reader, writer = await asyncio.open_connection(*endpoint)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = await reader.readuntil(b"ok\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    return reader, writer


async def test_one_connection_too_many_replaces_the_one_that_has_waited_longest(
    daemon: Daemon, tmp_path: Path
) -> None:
    async with asyncio.timeout(SECONDS), serving(daemon, tmp_path / "s") as endpoint:
        held = [await hold(endpoint) for _ in range(MAX_CONNECTIONS)]
        # So the second is the one that waited for longest.
        held[0][1].write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await held[0][0].readuntil(b"ok\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert b" 200 " in await exchange(endpoint, b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert await held[1][0].read() == b""
        for reader, writer in [held[0], *held[2:]]:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"ok\n")
        for _, writer in held:
            writer.close()
            await writer.wait_closed()


@pytest.mark.both_loops(pauses=True)
async def test_callers_that_never_read_do_not_lock_others_out(daemon: Daemon, tmp_path: Path) -> None:
    """Their connections are closed, the oldest first; a client that reads keeps its connection."""
    daemon.shown = LONG
    async with asyncio.timeout(2 * SECONDS), serving(daemon, tmp_path / "s", answer_timeout=60.0) as endpoint:
        callers = []
        for _ in range(MAX_CONNECTIONS + 6):
            callers.append(caller := socket.socket())
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.setblocking(False)
            await asyncio.get_running_loop().sock_connect(caller, tuple(endpoint))
            caller.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            for _ in range(3):
                metrics = await Asker(endpoint).get("/metrics")
                assert (metrics.status, metrics.text.endswith("\n")) == (200, True)
                whole = await Asker(endpoint).get("/status")
                assert whole.json() == to_document(daemon.shown)
        finally:
            for caller in callers:
                caller.close()


async def test_where_every_connection_is_busy_one_more_is_reset(tmp_path: Path) -> None:
    entered, released = asyncio.Semaphore(0), asyncio.Event()

    class Slow(Daemon):
        async def reload(self) -> ReloadResult:
            entered.release()
            await released.wait()
            return ReloadResult()

    async with asyncio.timeout(SECONDS), serving(Slow(), tmp_path / "s") as endpoint:
        busy = [await asyncio.open_unix_connection(tmp_path / "s") for _ in range(MAX_CONNECTIONS)]
        for _, writer in busy:
            writer.write(b"POST /-/reload HTTP/1.1\r\nHost: x\r\n\r\n")
            await entered.acquire()
        with suppress(ConnectionError):  # a reset, where the abort came before our read
            assert await exchange(tmp_path / "s", b"") == b""
        busy.append(await hold(endpoint))  # connections over TCP have a limit of their own
        released.set()
        for reader, _ in busy[:-1]:
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        for _, writer in busy:
            writer.close()
            await writer.wait_closed()


async def test_pipelined_requests_with_bodies_are_answered(daemon: Daemon, tmp_path: Path) -> None:
    post = b"POST /-/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    async with serving(daemon, tmp_path / "s"):
        answers = await exchange(
            tmp_path / "s", post + post + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert daemon.orders == ["reload", "reload"]


async def test_the_absolute_form_of_a_request_is_accepted(daemon: Daemon, tmp_path: Path) -> None:
    async with serving(daemon, tmp_path / "s") as endpoint:
        request = (
            f"GET http://{endpoint}/readyz?verbose HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n"
        )
        assert b"readyz check passed" in await exchange(endpoint, request.encode())


async def test_a_busy_port_is_an_error_with_a_remedy_and_the_unix_socket_still_works(
    daemon: Daemon, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        endpoint = Endpoint(*busy.getsockname())
        server = daemon.server()
        try:
            with pytest.raises(
                ListenError, match=f"admin.listen {endpoint}: Address already in use"
            ) as caught:
                await server.start_tcp(endpoint)
            assert f"sport = :{endpoint.port}" in caught.value.hint
            await server.start_unix(tmp_path / "s")
            assert b" 200 " in await exchange(tmp_path / "s", b"GET /healthz HTTP/1.0\r\n\r\n")
        finally:
            await server.close()


@pytest.mark.parametrize("where", [Endpoint("192.0.2.1", 0), Endpoint("no-such-host.invalid", 1)])
async def test_an_address_that_is_not_ours_is_a_listen_error(daemon: Daemon, where: Endpoint) -> None:
    with pytest.raises(ListenError, match=f"admin.listen {where}: [A-Za-z]") as caught:
        await daemon.server().start_tcp(where)
    assert "admin.listen" in caught.value.hint


@pytest.mark.parametrize(
    ("uid", "remedy"),
    [
        (0, "create its folder; under systemd: RuntimeDirectory=kubemux"),
        (1000, "create its folder, or choose one of your own: admin: {socket: ~/.config/kubemux/admin.sock}"),
    ],
)
async def test_a_missing_folder_is_named_with_the_remedy_for_this_user(
    uid: int, remedy: str, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint for an ordinary user does not name the service's folder."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setenv("HOME", "/home/user")
    with pytest.raises(ListenError, match=f"admin.socket {tmp_path}/none/s: No such file") as caught:
        await daemon.server().start_unix(tmp_path / "none" / "s")
    assert caught.value.hint == remedy


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
        # By then the server has seen the hang-up.
        await exchange(tmp_path / "s", b"GET /healthz HTTP/1.0\r\n\r\n")
        released.set()
        await ended.wait()
