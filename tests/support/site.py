"""OpenSSH's client as a site of a daemon, and the configuration sections that accept it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Self

from proxy.runtime.endpoint import Endpoint
from tests.support import ssh_keys
from tests.support.daemon import Sections
from tests.support.files import replace
from tests.support.ports import free_port


class SshServerFiles:
    """The files and the address of a daemon's SSH server."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.listen = Endpoint("127.0.0.1", free_port())
        self.host_key = ssh_keys.new_key(folder / "host")
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text(f"[127.0.0.1]:{self.listen.port} {ssh_keys.public(self.host_key)}\n")

    def sections(self) -> Sections:
        """The section `ssh_server` of the configuration."""
        return {"listen": str(self.listen), "host_keys": [str(self.host_key)]}

    def key(self, name: str) -> Path:
        """The private key of a site or user. The first call makes it."""
        path = self.folder / name
        return path if path.exists() else ssh_keys.new_key(path)

    def authorized(self, name: str, options: str = "", *, key: str = "") -> Sections:
        """Write an authorized_keys file with one key for a site or user: its own, or that of `key`. Returns
        the configuration keys.
        """
        path = self.folder / f"{name}.authorized"
        replace(path, f"{options} {ssh_keys.public(self.key(key or name))}\n".lstrip())
        return {"authorized_keys": [str(path)]}

    def replace(self, name: str, *, by: str) -> None:
        """Replace the authorized key of `name` by the key of `by`."""
        replace(self.folder / f"{name}.authorized", f"{ssh_keys.public(self.key(by))}\n")

    def command(
        self, name: str, *args: str, user: str | None = None, via: Endpoint | None = None
    ) -> list[str]:
        """The command that runs ssh with the key of `name`. It connects to `via`, else to the daemon."""
        options = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "ExitOnForwardFailure": "yes",
            "HostKeyAlias": f"[127.0.0.1]:{self.listen.port}",
        }
        host, port = via or self.listen
        words = ["ssh", "-F", "none", "-p", str(port), "-i", str(self.key(name))]
        words += [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return [*words, *args, f"{user or name}@{host}"]


class RemoteSite:
    """`async with RemoteSite(files, "factory-7", "-R", "factory-7:1080")` runs ssh until the block ends."""

    def __init__(self, files: SshServerFiles, name: str, *args: str, user: str | None = None) -> None:
        self._command = files.command(name, "-N", "-T", *args, user=user)
        self.process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.communicate()

    async def ended(self) -> str:
        """Wait until ssh has ended by itself. Returns what it printed."""
        async with asyncio.timeout(60):
            _, said = await self.process.communicate()
        return said.decode()
