"""Whatever a server sends, a probe has a result in time; whenever it is cancelled, it leaves
nothing behind.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.health.probe import probe
from proxy.health.result import Result
from proxy.health.tls import Contexts
from proxy.relay.probing import Dialled
from tests.health.scripted import (
    NOWHERE,
    OK,
    Dialer,
    Pki,
    ReadBefore,
    Script,
    Scripted,
    answers,
    cluster,
    server_context,
    silence,
)

pytestmark = pytest.mark.both_loops


def endless(first: bytes, more: bytes) -> Script:
    async def script(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while not writer.is_closing():
            writer.write(more * (8192 // len(more)))
            await writer.drain()

    return script


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a byte per second: only the first arrives before the probe's timeout; then the probe hangs up."""
    writer.write(OK[:1])
    await writer.drain()
    await reader.read()


@pytest.mark.parametrize(
    ("script", "path", "result"),
    [
        pytest.param(silence, "/healthz", Result.TIMEOUT, id="silence"),
        pytest.param(drip, "/healthz", Result.TIMEOUT, id="drip"),
        pytest.param(
            endless(b"HTTP/1.1 200 OK\r\n", b"X-Header: x\r\n"),
            "/healthz",
            Result.HTTP_FAILED,
            id="endless header",
        ),
        pytest.param(endless(b"", b"x"), "/healthz", Result.HTTP_FAILED, id="endless line"),
        pytest.param(
            endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            "/healthz",
            Result.HTTP_FAILED,
            id="endless interim answers",
        ),
        pytest.param(
            endless(b"HTTP/1.1 200 OK\r\n\r\n", b"ok\n"), "/healthz", Result.UNHEALTHY, id="endless body"
        ),
        pytest.param(
            endless(b"HTTP/1.1 200 OK\r\n\r\n", b"ok\n"), "/version", Result.OK, id="endless body elsewhere"
        ),
        pytest.param(
            endless(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 20 + b"\r\nx\r\n"
            ),
            "/healthz",
            Result.HTTP_FAILED,
            id="endless chunk extensions",
        ),
        pytest.param(answers(b"\x00\xff" * 50 + b"\r\n\r\n"), "/healthz", Result.HTTP_FAILED, id="not HTTP"),
        pytest.param(
            answers(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
            "/healthz",
            Result.HTTP_FAILED,
            id="switching",
        ),
    ],
)
async def test_a_server_that_never_ends_or_sends_nonsense_gets_a_result_in_time(
    pki: Pki, script: Script, path: str, result: Result
) -> None:
    async with Scripted(script, tls=server_context(pki.good)) as server:
        dial = Dialer(server.endpoint)
        timeout = "300ms" if result is Result.TIMEOUT else "60s"
        config = cluster(server.endpoint, pki.authority.ca.cert, path=path, timeout=timeout)
        outcome = await probe("prod", config, dial, await ReadBefore.of(config))
        assert not dial.open
    assert (outcome.result, len(outcome.message) < 400) == (result, True)
    assert outcome.message.isprintable()


FRAGMENTS = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 500 \r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"Content-Length: 2\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Connection: upgrade\r\n",
    b": \r\n",
    b"\r\n",
    b"2\r\nok\r\n",
    b"0\r\n\r\n",
    b"ok",
]
RESPONSES = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=40), max_size=8).map(b"".join)


@given(responses=st.lists(RESPONSES, min_size=10, max_size=10))
@settings(max_examples=15, deadline=None)
async def test_any_bytes_of_a_server_give_an_outcome(pki: Pki, responses: list[bytes]) -> None:
    # Ten at once, because an example spends most of its time on the server's start, its certificate and its
    # end.
    contexts = Contexts()
    async with Scripted(silence, tls=server_context(pki.good)) as server, Scripted(silence) as plain:
        for response in responses:
            server.script = plain.script = answers(response)
            outcome = await probe(
                "prod", cluster(server.endpoint, pki.authority.ca.cert), Dialer(server.endpoint), contexts
            )
            assert outcome.result in {
                Result.OK,
                Result.UNAUTHORIZED,
                Result.UNHEALTHY,
                Result.HTTP_FAILED,
                Result.CLOSED,
            }
            outcome = await probe(
                "prod", cluster(plain.endpoint, pki.authority.ca.cert), Dialer(plain.endpoint), contexts
            )
            assert outcome.result in {Result.TLS_FAILED, Result.CLOSED}


async def test_a_probe_that_is_cancelled_at_any_turn_leaves_nothing(pki: Pki) -> None:
    loop = asyncio.get_running_loop()
    contexts = Contexts()
    cancelled = finished = 0
    async with Scripted(answers(OK), tls=server_context(pki.good)) as server:
        config = cluster(server.endpoint, pki.authority.ca.cert)
        await contexts.load(config)
        while not finished and cancelled < 2000:
            dial = Dialer(server.endpoint)
            task = loop.create_task(probe("prod", config, dial, contexts))
            for _ in range(cancelled):
                await asyncio.sleep(0)
            task.cancel()
            try:
                finished += (await task).result is Result.OK
            except asyncio.CancelledError:
                cancelled += 1
            assert not dial.open
    assert cancelled > 3
    assert finished


@pytest.mark.parametrize("where", ["dial", "tls", "http"])
async def test_a_probe_that_is_cancelled_while_it_waits_for_the_server_leaves_nothing(
    pki: Pki, where: str
) -> None:
    loop = asyncio.get_running_loop()
    tls = server_context(pki.good) if where == "http" else None
    async with Scripted(silence, tls=tls) as server:
        dial = Dialer(server.endpoint)
        dialling = asyncio.Event()

        async def stuck(_deadline: float) -> Dialled:
            dialling.set()
            await asyncio.Event().wait()
            raise AssertionError

        config = cluster(server.endpoint, pki.authority.ca.cert)
        task = loop.create_task(probe("prod", config, stuck if where == "dial" else dial, Contexts()))
        await {"dial": dialling.wait, "tls": lambda: server.wait_accepted(1), "http": server.requested.wait}[
            where
        ]()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not dial.open


async def test_a_dial_that_raises_an_os_error_has_an_outcome(pki: Pki) -> None:
    # A dial should raise a ProxyError, but an OSError must also become an outcome.
    outcome = await probe("prod", cluster(NOWHERE, pki.authority.ca.cert), Dialer(NOWHERE), Contexts())
    assert outcome.result is Result.CLOSED
