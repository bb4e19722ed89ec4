"""An entry for other machines: TLS, certificates and passwords, through a real sshd."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import bcrypt
import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import gateway
from tests.integration.running import running, wait_for_log
from tests.support.daemon import Daemon
from tests.support.echo import Sink, Source, pattern
from tests.support.https import Https
from tests.support.ports import free_port
from tests.support.sshd import Sshd
from tests.support.tls import Authority, Certificates, Issued
from tests.support.tls_client import TlsClient

pytestmark = pytest.mark.sshd

MUCH = 20_000_000
HOST = "entry.example.com"


class Bed(NamedTuple):
    """A daemon with an entry that listens on all addresses of this machine."""

    daemon: Daemon
    port: int
    authority: Authority
    ci: Issued
    certificates: Certificates


@pytest.fixture
async def bed(sshd: Sshd, tmp_path: Path, certificates: Certificates) -> AsyncIterator[Bed]:
    authority = Authority(tmp_path / "entry")
    shown = authority.issue("entry", dns=(HOST,), ips=("127.0.0.1",))
    users = tmp_path / "users"
    users.touch(mode=0o600)
    users.write_bytes(b"argo:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)) + b"\n")
    port = free_port()
    entry = {
        "listen": f"0.0.0.0:{port}",
        "allow_remote": True,
        "tls": {
            "cert_file": str(shown.cert),
            "key_file": str(shown.key),
            "client_ca_file": str(authority.ca.cert),
        },
        "users_file": str(users),
        "allow": ["cert:ci.example.com"],
    }
    async with Sink() as sink, Source() as source, Https(certificates) as api:
        servers = {"sink": sink.endpoint, "source": source.endpoint}
        routes = [
            {"name": name, "match": [f"{name}:80"], "gateway": "edge", "target": str(one)}
            for name, one in servers.items()
        ]
        prod = {
            "gateway": "edge",
            "api_servers": [str(api.endpoint)],
            "dns_name": "kubernetes",
            "allow": ["proxy-user:argo"],
            "probe": {"interval": "1h"},
        }
        async with running(
            tmp_path / "daemon",
            gateways={"edge": gateway(sshd)},
            clusters={"prod": prod},
            entries={"remote": entry},
            routes=routes,
        ) as daemon:
            ci = authority.issue("ci", dns=("ci.example.com",))
            yield Bed(daemon, port, authority, ci, certificates)


async def ask(bed: Bed, target: str) -> TlsClient:
    """A client that the entry has connected to `target`."""
    context = ssl.create_default_context(cafile=bed.authority.ca.cert)
    context.load_cert_chain(bed.ci.cert, bed.ci.key)
    client = TlsClient(socket.create_connection(("127.0.0.1", bed.port)), context, HOST)
    async with asyncio.timeout(60):
        await client.shake_hands()
        basic = "Proxy-Authorization: Basic YXJnbzpzZWNyZXQ="
        await client.send(f"CONNECT {target} HTTP/1.1\r\n{basic}\r\n\r\n".encode())
        answer = b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert await client.read(len(answer)) == answer
    return client


async def test_bytes_and_their_end_arrive(bed: Bed) -> None:
    client = await ask(bed, "sink:80")
    sent = pattern(MUCH)
    async with asyncio.timeout(120):
        await client.send(sent)
        await client.end()
        assert (await client.read()).decode() == hashlib.sha256(sent).hexdigest()
    client.sock.close()
    closed = await wait_for_log(bed.daemon, "connection closed", route="sink")
    assert (closed["caller"], closed["to_cluster"]) == ("cert:ci.example.com proxy-user:argo", MUCH)


async def test_a_client_that_is_slow_gets_everything(bed: Bed) -> None:
    client = await ask(bed, "source:80")
    async with asyncio.timeout(120):
        await client.send(b"%d\n" % MUCH)
        came = await client.read(10)
        # No read until every buffer on the way is full.
        while bed.daemon.metric("kubemux_paused_relays") == 0:
            await asyncio.sleep(0.05)
        came += await client.read()
        assert hashlib.sha256(came).digest() == hashlib.sha256(pattern(MUCH)).digest()
        await client.end()
    client.sock.close()


async def test_curl_reaches_a_cluster_by_name(bed: Bed) -> None:
    folder = bed.authority.folder

    async def curl(*options: str, login: str = "argo:secret") -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *("curl", "--silent", "--show-error", "--max-time", "60"),
            *("--proxy", f"https://127.0.0.1:{bed.port}", "--proxy-cacert", str(bed.authority.ca.cert)),
            *("--proxy-user", login, *options),
            *("--cacert", str(bed.certificates.ca), "https://kubernetes:6443/healthz"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=folder,
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    ci = ("--proxy-cert", "ci.crt", "--proxy-key", "ci.key")
    assert (await curl(*ci))[:2] == (0, "ok")
    assert (await curl(*ci, "--proxy-tls13-ciphers", "TLS_CHACHA20_POLY1305_SHA256"))[:2] == (0, "ok")
    assert (await curl(*ci, "--tls-max", "1.2"))[:2] == (0, "ok")
    code, _, said = await curl(*ci, login="argo:wrong")
    assert (code, "407" in said) == (56, True)
    bed.authority.issue("other", dns=("other.example.com",))
    code, _, said = await curl("--proxy-cert", "other.crt", "--proxy-key", "other.key")
    assert (code, "403" in said) == (56, True)
    code, _, _ = await curl()
    assert code
    refused = await wait_for_log(bed.daemon, "connection refused", reason="tls_handshake")
    assert refused["message"] == "it shows no certificate, which client_ca_file asks for"
    assert bed.daemon.metric("kubemux_entry_connections_total", entry="remote", result="tls_handshake") == 1
    assert bed.daemon.metric("kubemux_entry_connections_total", entry="remote", result="denied") == 1


async def test_a_client_that_speaks_plain_http_gets_an_explanation(bed: Bed) -> None:
    reader, writer = await asyncio.open_connection(*Endpoint("127.0.0.1", bed.port))
    writer.write(b"CONNECT kubernetes:443 HTTP/1.1\r\n\r\n")
    line = await reader.readline()
    assert line.startswith(b"HTTP/1.1 400 kubemux: bad_request (this entry speaks TLS: ")
    writer.close()
    await writer.wait_closed()
