"""The SSH server in the test's own loop, with the keys of a user and a site, and OpenSSH's client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from proxy.config import authorized, key_table
from proxy.config.key_table import Lines
from proxy.config.model import SiteConfig, SshServerConfig, UserConfig
from proxy.config.reading import read
from proxy.entries.listener import Listener
from proxy.errors import LinkError
from proxy.metrics.records import LoginRecord
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.server import host_keys
from proxy.ssh.server.server import SshServer
from proxy.ssh.server.session import Guest, Session
from tests.support import ssh_keys
from tests.support.ports import free_port

HOST = "127.0.0.1"
WAIT_S = 60.0


class Kept(Guest):
    """The owner of a login, which records its calls."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.error: LinkError | None = None
        self.rechecks = 0
        self.gone = asyncio.get_running_loop().create_future()

    def ends(self, error: LinkError) -> None:
        self.error = error

    def recheck(self) -> None:
        self.rechecks += 1

    def lost(self, exc: Exception | None) -> None:
        self.gone.set_result(exc)


class Ended(NamedTuple):
    """The end of ssh: its exit code and its output."""

    code: int
    said: str


class SshBed:
    """The server. `files` are the files of its folder, by name. `people` names the files of each identity."""

    def __init__(self, folder: Path, **settings: object) -> None:
        folder.mkdir()
        self.folder = folder
        self.host_key = ssh_keys.new_key(folder / "host")
        self.ops, self.factory, self.stranger = (
            ssh_keys.new_key(folder / name) for name in ("ops", "factory", "stranger")
        )
        self.sections: dict[tuple[str, str], SiteConfig | UserConfig] = {}
        self.authorize("users", "ops", ssh_keys.public(self.ops))
        self.authorize("sites", "factory-7", ssh_keys.public(self.factory))
        self.config = read(
            SshServerConfig,
            {"listen": f"{HOST}:{free_port()}", "host_keys": [str(self.host_key)], **settings},
        )
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text(f"[{HOST}]:{self.config.listen.port} {ssh_keys.public(self.host_key)}\n")
        self.record = LoginRecord()
        self.guests: list[Kept] = []
        self.server = SshServer(on_login=self._keep, record=self.record)
        self.listener = Listener(
            self.config.listen, lambda sock, caller: self.server.accept(sock, caller.origin)
        )

    def authorize(self, kind: str, name: str, *lines: str, **more: object) -> None:
        """Write these lines into the authorized_keys file. They are used after the next `reread`."""
        path = self.folder / f"{kind}-{name}"
        path.write_text("".join(f"{line}\n" for line in lines))
        path.chmod(0o644)
        section = {**({"authorized_keys": [str(path)]} if lines else {}), **more}
        one = read(UserConfig, section) if kind == "users" else read(SiteConfig, section)
        self.sections[kind, name] = one

    def reread(self) -> None:
        self.server.use_table(key_table.table(self._lines())[0])

    def _lines(self) -> Iterable[Lines]:
        return [authorized.read(loc, section) for loc, section in self.sections.items()]

    def _keep(self, session: Session) -> Kept:
        guest = Kept(session)
        self.guests.append(guest)
        return guest

    def allow_time(self, seconds: float) -> None:
        """Set the deadline of new logins."""
        self.config = self.config.model_copy(update={"login_timeout": seconds})
        self.server.use(self.config, host_keys.read(self.config.host_keys))

    async def __aenter__(self) -> Self:
        self.server.use(self.config, host_keys.read(self.config.host_keys))
        self.reread()
        await self.listener.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.listener.release()
        await self.server.close()

    @property
    def address(self) -> Endpoint:
        return self.config.listen

    def command(
        self, key: Path | None, *args: str, user: str = "somebody", port: int | None = None
    ) -> list[str]:
        """The command that runs OpenSSH's client with this key."""
        options = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "ConnectTimeout": str(int(WAIT_S)),
        }
        words = ["ssh", "-F", "none", "-p", str(port or self.address.port), "-l", user]
        words += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return [*words, "-i", str(key or "/dev/null"), HOST, *args]

    async def ssh(
        self,
        key: Path | None,
        *args: str,
        user: str = "somebody",
        port: int | None = None,
        is_login: bool = True,
    ) -> Ended:
        """Run OpenSSH's client until it ends by itself. `port` can be the port of a relay.

        If it `is_login`, wait also until the server has counted its connection: it counts a refused client
        when it sees the client's end, which may be later than we see it.
        """
        before = self.record.results.total()
        process = await self.start(key, *args, user=user, port=port)
        async with asyncio.timeout(WAIT_S):
            _, said = await process.communicate()
            while is_login and self.record.results.total() == before:
                await asyncio.sleep(0.01)
        assert process.returncode is not None
        return Ended(process.returncode, said.decode())

    async def start(
        self, key: Path | None, *args: str, user: str = "somebody", port: int | None = None
    ) -> asyncio.subprocess.Process:
        """Start OpenSSH's client."""
        return await asyncio.create_subprocess_exec(
            *self.command(key, *args, user=user, port=port),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def logged_in(self, count: int = 1) -> Kept:
        """Wait until so many clients have logged in. Returns the last one."""
        async with asyncio.timeout(WAIT_S):
            while len(self.guests) < count:
                await asyncio.sleep(0.01)
        return self.guests[count - 1]

    async def quiet(self) -> None:
        """Wait until every connection has logged in or ended."""
        while self.record.startups:
            await asyncio.sleep(0.01)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A plain TCP connection to the server."""
        return await asyncio.open_connection(*self.address)

    def plain(self) -> socket.socket:
        """Like `connect`, but a blocking socket."""
        return socket.create_connection(self.address, timeout=WAIT_S)


async def ended(process: asyncio.subprocess.Process) -> None:
    """Kill a client that still runs."""
    with suppress(ProcessLookupError):
        process.kill()
    await process.communicate()
