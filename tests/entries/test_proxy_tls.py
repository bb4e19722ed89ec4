"""The proxy entry with TLS: correct clients, and all kinds of wrong ones."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.config import server_tls
from proxy.entries.arrival import Caller
from proxy.entries.heads import Credentials
from proxy.entries.proxy import NEEDS_TLS, ProxyEntry
from proxy.entries.users import Busy
from proxy.errors import Denied
from proxy.errors.reasons import Reason
from proxy.runtime.endpoint import Endpoint
from tests.entries.test_proxy import ACCEPTED, CONNECT, Connection, Stage, close, stage, whole
from tests.support.tls import Authority, Issued

HOST = "entry.example.com"
PAST = (timedelta(hours=-3), timedelta(hours=-1))


class Authorities:
    """The CA of an entry, the one of its clients, and a third one."""

    def __init__(self, folder: Path) -> None:
        self.servers, self.clients, self.others = (Authority(folder / name) for name in ("a", "b", "c"))
        self.entry = self.servers.issue("entry", dns=(HOST,))

    def context(self) -> ssl.SSLContext:
        return server_tls.load(self.entry.cert, self.entry.key, self.clients.ca.cert)

    def trusting(self, shown: Issued | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.servers.ca.cert)
        if shown is not None:
            context.load_cert_chain(shown.cert, shown.key)
        return context


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    return Authorities(tmp_path_factory.mktemp("authorities"))


async def connect(one: Stage, context: ssl.SSLContext) -> Connection:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, address = listener.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    one.entry.accept(ours, Caller(Endpoint(*address)))
    async with asyncio.timeout(60):
        return await asyncio.open_connection(sock=theirs, ssl=context, server_hostname=HOST)


async def test_a_certificate_proves_the_clients_identity(authorities: Authorities) -> None:
    shown = authorities.clients.issue("ci", dns=("ci.example.com",))
    async with stage() as one:
        one.entry.tls = authorities.context()
        connection = await connect(one, authorities.trusting(shown))
        connection[1].write(CONNECT + b"early")
        async with asyncio.timeout(60):
            assert await connection[0].readexactly(len(ACCEPTED) + 5) == ACCEPTED + b"early"
            connection[1].write(b"and back")
            assert await connection[0].readexactly(8) == b"and back"
        assert one.arrivals[0].caller.proved == {"cert:ci.example.com"}
        await close(connection)


async def test_a_refusal_reaches_the_client_under_tls(authorities: Authorities) -> None:
    shown = authorities.clients.issue("ci", dns=("ci.example.com",))
    async with stage() as one:
        one.entry.tls = authorities.context()
        one.refusal = (Reason.DENIED, "cert:ci.example.com is not in allow")
        connection = await connect(one, authorities.trusting(shown))
        connection[1].write(CONNECT + b"x" * 100_000)
        answer = await whole(connection)
        assert answer.startswith(
            b"HTTP/1.1 403 kubemux: prod: denied (cert:ci.example.com is not in allow)\r\n"
        )


def nothing(of: Authorities) -> ssl.SSLContext:
    return of.trusting(None)


def of_another_ca(of: Authorities) -> ssl.SSLContext:
    return of.trusting(of.others.issue("ci", dns=("ci.example.com",)))


def expired(of: Authorities) -> ssl.SSLContext:
    return of.trusting(of.clients.issue("old", dns=("ci.example.com",), valid=PAST))


def old_tls(of: Authorities) -> ssl.SSLContext:
    context = of.trusting(of.clients.issue("ci", dns=("ci.example.com",)))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


BAD = [
    (nothing, "it shows no certificate, which client_ca_file asks for"),
    (of_another_ca, "its certificate is not accepted: unable to get local issuer certificate"),
    (expired, "its certificate is not accepted: certificate has expired"),
    (old_tls, "it speaks no version of TLS that is accepted here: 1.2 and 1.3 are"),
]


@pytest.mark.parametrize(("client", "message"), BAD, ids=[client.__name__ for client, _ in BAD])
async def test_a_failed_handshake_is_logged_and_counted(
    authorities: Authorities, client: object, message: str
) -> None:
    assert callable(client)
    async with stage() as one:
        one.entry.tls = authorities.context()
        with capture_logs() as logs:
            with suppress(OSError):
                connection = await connect(one, client(authorities))
                connection[1].write(CONNECT)  # in TLS 1.3 a client is told after its side of the handshake
                with suppress(OSError):
                    assert await connection[0].read() == b""
                await close(connection)
            await one.results(Reason.TLS_HANDSHAKE)
        [told] = [entry for entry in logs if entry["event"] == "connection refused"]
        assert (told["reason"], told["message"]) == (Reason.TLS_HANDSHAKE, message)
        assert one.arrivals == []


async def test_the_log_says_that_a_client_does_not_trust_the_entry(authorities: Authorities) -> None:
    """The client is not asyncio's, which closes without an alert."""

    def shake_hands(port: int) -> None:
        context = ssl.create_default_context(cafile=authorities.others.ca.cert)
        with (
            socket.create_connection(("127.0.0.1", port)) as sock,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            context.wrap_socket(sock, server_hostname=HOST)

    async with stage() as one:
        one.entry.tls = authorities.context()
        with socket.create_server(("127.0.0.1", 0)) as listener, capture_logs() as logs:
            shaking = one.tasks.spawn(
                asyncio.to_thread(shake_hands, listener.getsockname()[1]), name="client"
            )
            ours, address = await asyncio.to_thread(listener.accept)
            ours.setblocking(False)
            one.entry.accept(ours, Caller(Endpoint(*address)))
            await shaking
            await one.results(Reason.TLS_HANDSHAKE)
        assert [entry["message"] for entry in logs] == ["it does not trust the CA of cert_file"]


async def test_a_client_without_tls_gets_the_reason_in_plain_text(authorities: Authorities) -> None:
    async with stage() as one:
        one.entry.tls = authorities.context()
        connection = await one.connect()
        connection[1].write(CONNECT)
        told = await whole(connection)
        assert told.startswith(f"HTTP/1.1 400 kubemux: bad_request ({NEEDS_TLS})\r\n".encode())
        connection = await one.connect()
        connection[1].write(b"\x05\x01\x00")
        assert (await whole(connection))[:1] == b"\x05"
        await one.results(Reason.BAD_REQUEST, Reason.BAD_REQUEST)


async def test_a_tls_client_of_an_entry_without_tls_is_refused(authorities: Authorities) -> None:
    async with stage() as one:
        with pytest.raises(ssl.SSLError):
            await connect(one, authorities.trusting(None))
        await one.results(Reason.BAD_REQUEST)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "half a hello"])
async def test_a_handshake_has_a_deadline(
    authorities: Authorities, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.entries.proxy.HEAD_S", 0.05)
    async with stage() as one:
        one.entry.tls = authorities.context()
        connection = await one.connect()
        connection[1].write(sent)
        with suppress(ConnectionResetError):  # the deadline may pass before the bytes are read
            assert await whole(connection) == b""
        await one.results(Reason.HEAD_TIMEOUT)


async def test_a_certificate_and_a_password_are_both_needed(authorities: Authorities) -> None:
    async def check(credentials: Credentials) -> bool:
        return (credentials.user, credentials.password) == ("ci", "secret")

    shown = authorities.clients.issue("ci", dns=("ci.example.com",))
    async with stage() as one:
        one.entry.tls = authorities.context()
        one.entry.check_login = check
        connection = await connect(one, authorities.trusting(shown))
        connection[1].write(CONNECT)
        assert (await whole(connection)).startswith(b"HTTP/1.1 407 ")
        connection = await connect(one, authorities.trusting(shown))
        connection[1].write(b"CONNECT prod:443 HTTP/1.1\r\nProxy-Authorization: Basic Y2k6c2VjcmV0\r\n\r\n")
        async with asyncio.timeout(60):
            assert await connection[0].readexactly(len(ACCEPTED)) == ACCEPTED
        assert one.arrivals[0].caller.proved == {"cert:ci.example.com", "proxy-user:ci"}
        await close(connection)


async def test_a_password_that_cannot_be_checked_now_is_not_called_wrong() -> None:
    async def check(credentials: Credentials) -> bool:
        del credentials
        raise Busy("too many other passwords wait to be checked")

    async with stage() as one:
        one.entry.check_login = check
        connection = await one.connect()
        connection[1].write(b"CONNECT prod:443 HTTP/1.1\r\nProxy-Authorization: Basic Y2k6c2VjcmV0\r\n\r\n")
        assert (await whole(connection)).startswith(b"HTTP/1.1 503 kubemux: limit (too many other passwords")
        await one.results(Reason.LIMIT)


async def test_a_denied_caller_learns_no_names_and_the_log_has_the_request() -> None:
    async def check(caller: Caller) -> None:
        raise Denied(f"{caller.identity.split(':', maxsplit=1)[0]} is not in allow of entries.proxy")

    def entry(one: Stage) -> ProxyEntry:
        return ProxyEntry("proxy", one.record, one.on_arrival, check_caller=check)

    async with stage(entry) as one:
        connection = await one.connect()
        connection[1].write(CONNECT)
        with capture_logs() as logs:
            answer = await whole(connection)
        assert answer.startswith(
            b"HTTP/1.1 403 kubemux: denied (127.0.0.1 is not in allow of entries.proxy)\r\n"
        )
        assert one.arrivals == []
    [refused] = [log for log in logs if log["event"] == "connection refused"]
    assert (refused["entry"], refused["asked"], refused["reason"]) == ("proxy", "prod:443", "denied")


async def test_an_entry_with_unreadable_files_refuses_every_client() -> None:
    async with stage() as one:
        one.entry.closed_because = "its certificate cannot be read"
        connection = await one.connect()
        with suppress(ConnectionError):
            assert await connection[0].read() == b""
        await close(connection)
        await one.results(Reason.INTERNAL)
