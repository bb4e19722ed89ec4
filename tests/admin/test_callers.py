"""Unusual requests to the admin endpoints, byte by byte; and ordinary HTTP programs."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from proxy.admin.http import lingering
from proxy.runtime.endpoint import Endpoint
from tests.admin.scripted import Daemon, serving

SECONDS = 30.0
END = b"Host: localhost\r\nConnection: close\r\n\r\n"

pytestmark = pytest.mark.both_loops


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


async def exchange(where: Endpoint | Path, *pieces: bytes, half_close: bool = False) -> bytes:
    """Send the pieces, each in its own TCP segment, and read until the server closes the connection."""
    async with asyncio.timeout(SECONDS):
        reader, writer = await (
            asyncio.open_unix_connection(where)
            if isinstance(where, Path)
            else asyncio.open_connection(*where)
        )
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if half_close:
                writer.write_eof()
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


async def test_a_head_may_come_byte_by_byte(daemon: Daemon, tmp_path: Path) -> None:
    async with serving(daemon, tmp_path / "s") as endpoint:
        answer = await exchange(endpoint, *(bytes([one]) for one in b"GET /healthz HTTP/1.1\r\n" + END))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nok\n")


async def test_pipelined_requests_are_answered_in_order(daemon: Daemon, tmp_path: Path) -> None:
    many = b"".join(
        b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in (b"healthz", b"nothing") * 50
    )
    async with serving(daemon, tmp_path / "s") as endpoint:
        answer = await exchange(endpoint, many + b"GET /readyz HTTP/1.1\r\n" + END)
    statuses = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"404"] * 50 + [b"200"]


@pytest.mark.parametrize("count", [1, 3])
async def test_a_client_may_end_its_side_first(daemon: Daemon, tmp_path: Path, count: int) -> None:
    """As `nc -N` does."""
    async with serving(daemon, tmp_path / "s") as endpoint:
        request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
        answer = await exchange(endpoint, request * count, half_close=True)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == count
    assert answer.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize("sent", [b"", b"GET / HT"])
async def test_an_incomplete_request_before_an_end_of_input_gets_no_answer(
    daemon: Daemon, tmp_path: Path, sent: bytes
) -> None:
    async with serving(daemon, tmp_path / "s") as endpoint:
        assert await exchange(endpoint, sent, half_close=True) == b""


@pytest.mark.parametrize(
    "path",
    [
        *(b"//status", b"/status/", b"/./status", b"/x/../status", b"/..%2fstatus", b"/%2e%2e/status"),
        *(b"/status%00", b"/status%0A", b"/status;x", b"/STATUS", b"/%ff", b"/-/reload", b"/-/reload%0a"),
    ],
)
async def test_paths_that_resemble_an_order_are_not_found(
    daemon: Daemon, tmp_path: Path, path: bytes
) -> None:
    async with serving(daemon, tmp_path / "s") as endpoint:
        answer = await exchange(endpoint, b"POST " + path + b" HTTP/1.1\r\n" + END)
        if path != b"/-/reload":
            also = await exchange(tmp_path / "s", b"POST " + path + b" HTTP/1.1\r\n" + END)
            assert also.startswith(b"HTTP/1.1 404 ")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"].startswith("there is no /")
    assert daemon.orders == []


@pytest.mark.parametrize(
    ("method", "allow"),
    [(b"BREW", b"GET, HEAD"), (b"get", b"GET, HEAD"), (b"TRACE", b"GET, HEAD"), (b"CONNECT", b"GET, HEAD")],
)
async def test_the_answer_to_an_unknown_method_lists_the_allowed_ones(
    daemon: Daemon, tmp_path: Path, method: bytes, allow: bytes
) -> None:
    async with serving(daemon, tmp_path / "s") as endpoint:
        answer = await exchange(endpoint, method + b" /status HTTP/1.1\r\n" + END)
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nallow: " + allow + b"\r\n" in answer


WEBSOCKET = b"Upgrade: websocket\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n"
H2C = b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"


@pytest.mark.parametrize(
    "upgrade",
    [b"Connection: Upgrade\r\n" + WEBSOCKET, b"Connection: Upgrade, HTTP2-Settings\r\n" + H2C],
    ids=["websocket", "h2c"],
)
async def test_an_upgrade_is_ignored_and_the_request_is_answered(
    daemon: Daemon, tmp_path: Path, upgrade: bytes
) -> None:
    """RFC 9110 7.8: a server may ignore it."""
    async with serving(daemon, tmp_path / "s") as endpoint:
        request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"\r\n"
        answer = await exchange(endpoint, request, b"GET /readyz HTTP/1.1\r\n" + END)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2


async def test_http_2_without_an_upgrade_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    async with serving(daemon, tmp_path / "s") as endpoint:
        answer = await exchange(endpoint, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 505 ")


@pytest.mark.parametrize("options", [[], ["--http1.0"], ["--head"], ["--http2"], ["-d", "x" * 100_000]])
async def test_curl_reads_the_metrics_and_may_not_post(
    daemon: Daemon, tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering, "LINGER_S", 60.0)  # curl may be stopped while it still sends
    async with serving(daemon, tmp_path / "s") as endpoint:
        command = ["curl", "-s", "-w", "%{http_code}", "-m", "60", *options, f"http://{endpoint}/metrics"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=90, check=False)
    assert done.returncode == 0, done
    assert done.stdout[-3:] == (b"405" if "-d" in options else b"200")


async def test_a_browser_keeps_its_connection(daemon: Daemon, tmp_path: Path) -> None:
    def browse(endpoint: Endpoint) -> list[int]:
        with closing(http.client.HTTPConnection(*endpoint, timeout=SECONDS)) as browser:
            statuses = []
            used: set[socket.socket] = set()
            for path in ("/", "/status", "/favicon.ico", "/readyz?verbose", "/metrics", "/healthz"):
                browser.request("GET", path, headers={"Accept-Encoding": "gzip, deflate, br"})
                used.add(browser.sock)
                answer = browser.getresponse()
                answer.read()
                statuses.append(answer.status)
            assert len(used) == 1
            return statuses

    async with serving(daemon, tmp_path / "s") as endpoint:
        assert await asyncio.to_thread(browse, endpoint) == [200, 200, 404, 200, 200, 200]
