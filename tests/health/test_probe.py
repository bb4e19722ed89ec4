"""Each possible result of a probe, with a real TLS server that behaves accordingly."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest

from proxy.config.model import ClusterConfig
from proxy.errors import (
    AuthFailed,
    ChannelProhibited,
    ChannelRefused,
    ChannelTimeout,
    LinkDown,
    MemoryExhausted,
    ProxyError,
    Stage,
    Unreachable,
)
from proxy.health.probe import probe
from proxy.health.result import Outcome, Result
from proxy.health.tls import Contexts
from proxy.relay.probing import Dialled
from proxy.runtime.endpoint import Endpoint
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
from tests.support.serving import reset
from tests.support.tls import Issued

pytestmark = pytest.mark.both_loops


async def probed(
    pki: Pki, script: Script, *, issued: Issued | None = None, name: str = "kubernetes", **settings: object
) -> Outcome:
    """The outcome with a TLS server that plays `script`. The probe's socket must be closed in every case."""
    async with Scripted(script, tls=server_context(issued or pki.good)) as server:
        dial = Dialer(server.endpoint)
        outcome = await probe(
            "prod", cluster(server.endpoint, pki.authority.ca.cert, name=name, **settings), dial, Contexts()
        )
        assert not dial.open
        return outcome


def http(status: str, body: bytes = b"") -> Script:
    return answers(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


async def test_ok_has_every_fact_of_an_outcome(pki: Pki) -> None:
    outcome = await probed(pki, answers(OK))
    assert (outcome.result, outcome.status, outcome.stage, outcome.hint) == (Result.OK, 200, Stage.HTTP, "")
    assert outcome.message == "HTTP 200 for /healthz"
    assert outcome.certificate_expiry == pki.good.not_after.timestamp()
    assert dict(outcome.expiries)["ca"] == pki.authority.ca.not_after.timestamp()
    assert [stage for stage, _ in outcome.timings] == [Stage.CHANNEL, Stage.TLS, Stage.HTTP]
    assert sum(seconds for _, seconds in outcome.timings) == pytest.approx(outcome.seconds)


@pytest.mark.parametrize(
    ("status", "body", "path", "result", "words"),
    [
        ("200 OK", b"ok", "/readyz", Result.OK, "HTTP 200"),
        ("200 OK", b"[+]ping ok\n[+]etcd ok\nlivez check passed\n", "/livez?verbose", Result.OK, "HTTP 200"),
        ("200 OK", b"ok", "/readyz/etcd", Result.OK, "HTTP 200"),
        ("200 OK", b'{"major": "1"}', "/version", Result.OK, "HTTP 200"),
        ("204 No Content", b"", "/version", Result.OK, "HTTP 204"),
        (
            "200 OK",
            b"<html>please log in</html>",
            "/healthz",
            Result.UNHEALTHY,
            "not the body of an API server",
        ),
        ("200 OK", b"", "/healthz", Result.UNHEALTHY, "not the body of an API server"),
        ("401 Unauthorized", b"", "/healthz", Result.UNAUTHORIZED, "HTTP 401"),
        ("403 Forbidden", b"{}", "/healthz", Result.UNAUTHORIZED, "HTTP 403"),
        (
            "500 Internal Server Error",
            b"[+]ping ok\n[-]etcd failed: withheld\n",
            "/healthz",
            Result.UNHEALTHY,
            ": etcd failed: withheld",
        ),
        ("503 Service Unavailable", b"\x1b[31mno\x00backend", "/healthz", Result.UNHEALTHY, "[31mno backend"),
        ("404 Not Found", b"", "/halthz", Result.UNHEALTHY, "HTTP 404"),
        ("302 Found", b"", "/healthz", Result.UNHEALTHY, "HTTP 302"),
        ("429 Too Many Requests", b"", "/healthz", Result.UNHEALTHY, "HTTP 429"),
    ],
)
async def test_an_answer_is_judged(
    pki: Pki, status: str, body: bytes, path: str, result: Result, words: str
) -> None:
    outcome = await probed(pki, http(status, body), path=path)
    assert (outcome.result, outcome.status, outcome.stage) == (result, int(status[:3]), Stage.HTTP)
    assert words in outcome.message
    assert outcome.message.isprintable()
    assert bool(outcome.hint) is (result is not Result.OK)


@pytest.mark.parametrize(
    ("field", "result", "words"),
    [
        ("foreign", Result.TLS_UNTRUSTED, "is not trusted by"),
        ("wrong_name", Result.TLS_NAME_MISMATCH, "does not name kubernetes"),
        ("expired", Result.TLS_EXPIRED, "has expired"),
        ("not_yet_valid", Result.TLS_NOT_YET_VALID, "is not valid yet"),
    ],
)
async def test_a_bad_certificate_gets_no_request(
    pki: Pki, tmp_path: Path, field: str, result: Result, words: str
) -> None:
    (tmp_path / "token").write_text("s3cret")
    issued: Issued = getattr(pki, field)
    async with Scripted(answers(OK), tls=server_context(issued)) as server:
        config = cluster(server.endpoint, pki.authority.ca.cert, token_file=str(tmp_path / "token"))
        outcome = await probe("prod", config, Dialer(server.endpoint), Contexts())
        assert not server.requested.is_set()
    assert (outcome.result, outcome.stage, outcome.certificate_expiry) == (result, Stage.TLS, None)
    assert words in outcome.message
    assert str(server.endpoint) in outcome.message
    assert outcome.hint == result.hint.replace("CLUSTER", "prod")


async def test_an_address_is_verified_as_an_address(pki: Pki) -> None:
    assert (await probed(pki, answers(OK), issued=pki.wrong_name, name="192.0.2.1")).result is Result.OK
    assert (
        await probed(pki, answers(OK), issued=pki.wrong_name, name="192.0.2.2")
    ).result is Result.TLS_NAME_MISMATCH


async def test_without_a_server_name_the_api_servers_host_is_verified(pki: Pki) -> None:
    async with Scripted(answers(OK), tls=server_context(pki.good)) as server:
        config = cluster(server.endpoint, pki.authority.ca.cert, name=None)
        outcome = await probe("prod", config, Dialer(server.endpoint), Contexts())
    assert outcome.result is Result.TLS_NAME_MISMATCH
    assert "does not name 127.0.0.1" in outcome.message


async def test_without_a_ca_file_the_systems_store_decides(pki: Pki) -> None:
    async with Scripted(answers(OK), tls=server_context(pki.good)) as server:
        outcome = await probe("prod", cluster(server.endpoint, None), Dialer(server.endpoint), Contexts())
    assert outcome.result is Result.TLS_UNTRUSTED
    assert "the system's CA store (no tls.ca_file is given)" in outcome.message


@pytest.mark.parametrize("name", ["a..b", "x" * 200, "x" * 253, ".kubernetes", "b\u00fccher.example"])
async def test_an_invalid_server_name_is_a_name_mismatch(pki: Pki, name: str) -> None:
    outcome = await probed(pki, answers(OK), name=name)
    assert (outcome.result, outcome.stage) == (Result.TLS_NAME_MISMATCH, Stage.TLS)
    assert name[:10] in outcome.message


async def hang_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    pass


async def crash(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


@pytest.mark.parametrize(
    ("script", "result"),
    [
        (
            answers(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"),
            Result.TLS_FAILED,
        ),
        (answers(b"SSH-2.0-OpenSSH_9.2p1\r\n"), Result.TLS_FAILED),
        (hang_up, Result.CLOSED),
        (crash, Result.CLOSED),
        (silence, Result.TIMEOUT),
    ],
)
async def test_a_server_that_does_not_speak_tls_fails_at_that_stage(
    pki: Pki, script: Script, result: Result
) -> None:
    async with Scripted(script) as server:
        dial = Dialer(server.endpoint)
        timeout = "500ms" if result is Result.TIMEOUT else "60s"
        config = cluster(server.endpoint, pki.authority.ca.cert, timeout=timeout)
        outcome = await probe("prod", config, dial, await ReadBefore.of(config))
        assert not dial.open
    assert (outcome.result, outcome.stage) == (result, Stage.TLS)
    assert outcome.message.isprintable()


async def test_a_channel_that_has_ended_before_the_handshake_is_closed(pki: Pki) -> None:
    # As when the probe's channel dies: a write fails with EPIPE before anything was read.
    ours, theirs = socket.socketpair()
    theirs.close()

    async def dial(_deadline: float) -> Dialled:
        return Dialled(ours, NOWHERE)

    config = cluster(NOWHERE, pki.authority.ca.cert)
    assert (await probe("prod", config, dial, Contexts())).result is Result.CLOSED
    assert ours.fileno() == -1


class TestChannel:
    """The messages of the dial's own failures are kept."""

    ERRORS: ClassVar[list[tuple[ProxyError, Result, Stage]]] = [
        (LinkDown("no link of eu-edge is up"), Result.LINK_DOWN, Stage.SSH),
        (AuthFailed("sshd refused every key"), Result.LINK_DOWN, Stage.AUTH),
        (Unreachable("connection refused"), Result.LINK_DOWN, Stage.TCP),
        (ChannelRefused("refused"), Result.CHANNEL_REFUSED, Stage.CHANNEL),
        (ChannelProhibited("prohibited"), Result.CHANNEL_PROHIBITED, Stage.CHANNEL),
        (ChannelTimeout("silent"), Result.TIMEOUT, Stage.CHANNEL),
        (MemoryExhausted("full"), Result.CHANNEL_FAILED, Stage.CHANNEL),
        (ProxyError("odd"), Result.INTERNAL, Stage.CHANNEL),
    ]

    @pytest.mark.parametrize(("error", "result", "stage"), ERRORS, ids=lambda value: type(value).__name__)
    async def test_the_error_of_a_dial_becomes_the_outcome(
        self, error: ProxyError, result: Result, stage: Stage
    ) -> None:
        async def dial(_deadline: float) -> Dialled:
            raise error

        outcome = await probe("prod", cluster(NOWHERE, None), dial, Contexts())
        assert (outcome.result, outcome.stage, outcome.message) == (result, stage, str(error))
        assert outcome.hint == (error.hint or result.hint).replace("CLUSTER", "prod")

    async def test_a_dial_that_ignores_its_deadline_is_cut_off(self) -> None:
        async def dial(_deadline: float) -> Dialled:
            await asyncio.Event().wait()
            raise AssertionError

        outcome = await probe("prod", cluster(NOWHERE, None, timeout="10ms"), dial, Contexts())
        assert (outcome.result, outcome.stage) == (Result.TIMEOUT, Stage.CHANNEL)
        assert "no channel to the API server within 0.01 s" in outcome.message


async def test_the_request_is_one_that_an_api_server_expects(pki: Pki, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    async with Scripted(answers(OK), tls=server_context(pki.good)) as server:
        config = cluster(
            server.endpoint, pki.authority.ca.cert, path="/readyz?verbose", token_file=str(tmp_path / "token")
        )
        outcome = await probe("prod", config, Dialer(server.endpoint), Contexts())
        assert outcome.result is Result.OK
        line, *headers = server.request.decode().split("\r\n")
        assert line == "GET /readyz?verbose HTTP/1.1"
        assert f"Host: {server.endpoint}" in headers
        assert "Authorization: Bearer s3cret" in headers
        assert "Connection: close" in headers


async def test_the_probe_asks_below_the_path_of_the_server(pki: Pki) -> None:
    async with Scripted(answers(OK), tls=server_context(pki.good)) as server:
        config = cluster(server.endpoint, pki.authority.ca.cert).model_copy(
            update={"base_path": "/k8s/clusters/c-1"}
        )
        outcome = await probe("prod", config, Dialer(server.endpoint), Contexts())
        assert (outcome.result, outcome.message) == (Result.OK, "HTTP 200 for /k8s/clusters/c-1/healthz")
        assert server.request.startswith(b"GET /k8s/clusters/c-1/healthz HTTP/1.1\r\n")
        server.script = http("200 OK", b"<html>please log in</html>")
        outcome = await probe("prod", config, Dialer(server.endpoint), Contexts())
        assert outcome.result is Result.UNHEALTHY  # the body is checked at that path, too


def serve_verified(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Answer one client that shows a certificate.

    It uses blocking sockets, because asyncio's server does not send the alert that refuses a certificate.
    """
    sock, _ = listener.accept()
    with sock, suppress(OSError), context.wrap_socket(sock, server_side=True) as tls:
        tls.recv(4096)
        tls.sendall(OK)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_certificate_is_shown_when_there_is_one(pki: Pki, version: ssl.TLSVersion) -> None:
    tls = server_context(pki.good, client_ca=pki.authority.ca.cert)
    tls.maximum_version = version
    ca, ours = pki.authority.ca.cert, pki.client
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        endpoint = Endpoint(*listener.getsockname())

        async def probed_once(config: ClusterConfig) -> Outcome:
            outcome, _ = await asyncio.gather(
                probe("prod", config, Dialer(endpoint), Contexts()),
                asyncio.to_thread(serve_verified, listener, tls),
            )
            return outcome

        outcome = await probed_once(
            cluster(endpoint, ca, client_cert=str(ours.cert), client_key=str(ours.key))
        )
        assert outcome.result is Result.OK
        assert dict(outcome.expiries)["client"] == ours.not_after.timestamp()
        outcome = await probed_once(cluster(endpoint, ca))
        assert outcome.result is (
            Result.TLS_CLIENT_CERT if version is ssl.TLSVersion.TLSv1_3 else Result.TLS_FAILED
        )


@pytest.mark.parametrize("end", [hang_up, crash])
@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nok"]
)
async def test_an_answer_that_ends_early_has_the_result_closed(pki: Pki, start: bytes, end: Script) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answers(start)(reader, writer)
        await end(reader, writer)

    outcome = await probed(pki, script)
    assert (outcome.result, outcome.stage) == (Result.CLOSED, Stage.HTTP)
