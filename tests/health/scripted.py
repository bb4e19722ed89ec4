"""A scripted TLS server, certificates for it, and a dial to it that remembers its sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from proxy.config.model import DIRECT, ClusterConfig, ProbeConfig, TlsConfig
from proxy.config.reading import read
from proxy.health.tls import Contexts, Identity
from proxy.relay.probing import Dialled
from proxy.runtime.blocking import Place
from proxy.runtime.endpoint import Endpoint
from tests.support.serving import Server
from tests.support.tls import Authority, Issued

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

NOWHERE = Endpoint("127.0.0.1", 1)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True)
class Pki:
    authority: Authority
    good: Issued
    """A certificate for the name `kubernetes`, issued by `authority`."""
    foreign: Issued
    """The same, issued by another CA."""
    wrong_name: Issued
    expired: Issued
    not_yet_valid: Issued
    client: Issued


def server_context(issued: Issued, *, client_ca: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Scripted(Server):
    """Plays `script` on each connection; `request` is the last HTTP head that it received."""

    def __init__(self, script: Script, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self.script = script
        self.request = b""
        self.requested = asyncio.Event()

    async def __aexit__(self, *exc: object) -> None:
        # The probe has closed its end, so every script ends by itself. Cancelling one while it closes would
        # be reported as an error.
        await self.refuse()
        if self._open:
            await asyncio.wait(self._open, timeout=5)
        await super().__aexit__(*exc)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._tls:
            try:
                self.request = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return
            self.requested.set()
        await self.script(reader, writer)


def answers(data: bytes) -> Script:
    """Sends `data` and hangs up."""

    async def script(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return script


async def silence(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


class ReadBefore(Contexts):
    """The files of one cluster, read before a probe with a short deadline: it waits for no thread."""

    def __init__(self, files: tuple[Identity, str | None]) -> None:
        super().__init__()
        self._files = files

    @classmethod
    async def of(cls, config: ClusterConfig) -> ReadBefore:
        patient = config.probe.model_copy(update={"timeout": 60.0})
        return cls(await Contexts().load(config.model_copy(update={"probe": patient})))

    async def load(self, config: ClusterConfig, place: Place | None = None) -> tuple[Identity, str | None]:
        del config, place
        return self._files


class Dialer:
    """A `Dial`: plain TCP to `endpoint`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.sockets: list[socket.socket] = []

    async def __call__(self, deadline: float) -> Dialled:
        sock = socket.socket()
        self.sockets.append(sock)
        sock.setblocking(False)
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.get_running_loop().sock_connect(sock, self.endpoint)
        except BaseException:
            sock.close()
            raise
        return Dialled(sock, self.endpoint)

    @property
    def open(self) -> int:
        return sum(sock.fileno() != -1 for sock in self.sockets)


def cluster(
    endpoint: Endpoint, ca: Path | None, *, name: str | None = "kubernetes", **probe: object
) -> ClusterConfig:
    """A cluster at `endpoint`, probed as `probe` says. A busy machine may stop the server for seconds."""
    return ClusterConfig(
        gateway=DIRECT,
        listen=NOWHERE,
        api_servers=(endpoint,),
        tls=TlsConfig(server_name=name, ca_file=ca),
        probe=read(ProbeConfig, {"timeout": "60s", **probe}),
    )
