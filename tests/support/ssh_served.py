"""The byte path of kubemux's SSH server: each client that logs in becomes a Link. Any client with the test's
key may log in.
"""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import asyncssh

from proxy.errors.reasons import Reason
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import OpenRequest
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.link import Link
from proxy.ssh.metered import Metered
from proxy.ssh.open_requests import at_most
from proxy.ssh.turns import Turns
from tests.support import ssh_keys
from tests.support.parts import find

SECONDS = 30.0


class _Listener(asyncssh.SSHListener):
    """A forward that a client has registered: it listens nowhere."""

    def close(self) -> None:
        """Called by asyncssh at the end of the connection."""

    async def wait_closed(self) -> None:
        """Called by asyncssh."""


class _Owner(asyncssh.SSHServer):
    def __init__(self, served: Served) -> None:
        self._served = served
        self._conn: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        self._served.conns.append(conn)
        Metered(conn)

    def auth_completed(self) -> None:
        assert self._conn is not None
        self._served.logged_in(self._conn)

    def server_requested(self, host: str, port: int) -> asyncssh.SSHListener:
        self._served.forwards.put_nowait((host, port))
        return _Listener()


class Served:
    """`async with Served(folder) as served`. When the block ends, so do the links of its clients."""

    def __init__(
        self,
        folder: Path,
        on_open: Callable[[OpenRequest], None] | None = None,
        *,
        max_requests: int = 1000,
        **options: Any,
    ) -> None:
        """Without `on_open`, requests for channels go into `requests`. `options` are asyncssh's."""
        self._folder = folder
        self.requests: asyncio.Queue[OpenRequest] = asyncio.Queue()
        self.refusals: list[tuple[Reason, str]] = []
        """Requests that the link itself refused: `on_refused` got them, and `on_open` did not."""
        self._on_open = on_open or self.requests.put_nowait
        self._max_requests = max_requests
        self._options = options
        self._links: asyncio.Queue[Link] = asyncio.Queue()
        self._clients: list[Process] = []
        self.budget = MemoryBudget(64 << 20, connections=1000)
        self.turns = Turns()
        self.links: list[Link] = []
        self.conns: list[asyncssh.SSHServerConnection] = []
        self.forwards: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        """The forwards that clients have registered (`-R`)."""

    async def __aenter__(self) -> Self:
        host_key = ssh_keys.new_key(self._folder / "served_host")
        self.key = ssh_keys.new_key(self._folder / "served_key")
        self._server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=lambda: _Owner(self),
            server_host_keys=[str(host_key)],
            authorized_client_keys=asyncssh.import_authorized_keys(ssh_keys.public(self.key)),
            gss_host=None,
            **self._options,
        )
        self.endpoint = Endpoint("127.0.0.1", self._server.get_port())
        self.known_hosts = self._folder / "served_known_hosts"
        self.known_hosts.write_text(f"* {ssh_keys.public(host_key)}\n")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for link in self.links:
            await link.close()
        for conn in self.conns:
            conn.abort()
            await conn.wait_closed()
        for client in self._clients:
            with suppress(ProcessLookupError):
                client.kill()
            await client.communicate()
        await self._server.wait_closed()
        assert self.budget.used == 0

    def logged_in(self, conn: asyncssh.SSHServerConnection) -> None:
        """A client has logged in: make a link of it, as the daemon does."""
        link = self.make_link(conn)
        self.links.append(link)
        self._links.put_nowait(link)

    def make_link(self, conn: asyncssh.SSHServerConnection) -> Link:
        return Link(
            (conn,),
            server=f"client {len(self.links)}",
            budget=self.budget,
            turns=self.turns,
            name=f"client/{len(self.links)}",
            on_open=self._on_open,
            on_refused=lambda *refusal: self.refusals.append(refusal),
            limit=at_most(self._max_requests, "max_channels"),
        )

    @property
    def arguments(self) -> Sequence[str]:
        """The arguments of ssh(1) for this server; the destination is `bastion`."""
        options = {
            "HostName": self.endpoint.host,
            "Port": self.endpoint.port,
            "User": "anybody",
            "IdentityFile": self.key,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
            "BatchMode": "yes",
            "ExitOnForwardFailure": "yes",
        }
        return ["-F", "none", *(f"-o{name}={value}" for name, value in options.items())]

    async def ssh(self, *args: str) -> Process:
        """Run OpenSSH's client with these further arguments."""
        client = await asyncio.create_subprocess_exec(
            find("ssh") or "ssh", *self.arguments, *args, "bastion", stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        self._clients.append(client)
        return client

    async def link(self) -> Link:
        """The link of the next client that logs in."""
        async with asyncio.timeout(SECONDS):
            return await self._links.get()

    async def request(self) -> OpenRequest:
        """The next request of a client."""
        async with asyncio.timeout(SECONDS):
            return await self.requests.get()

    async def client(self, **options: Any) -> asyncssh.SSHClientConnection:
        """A client of asyncssh's. The caller closes it."""
        return await asyncssh.connect(
            *self.endpoint,
            username="anybody",
            client_keys=[str(self.key)],
            known_hosts=str(self.known_hosts),
            config=None,
            agent_path=None,
            **options,
        )
