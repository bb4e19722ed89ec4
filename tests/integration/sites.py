"""A daemon with an SSH server, sites and an entry, and servers that a site can reach."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

from proxy.runtime.endpoint import Endpoint
from tests.integration.running import running
from tests.integration.test_by_name import ask
from tests.support.daemon import Daemon, Sections
from tests.support.echo import Echo
from tests.support.ports import free_port
from tests.support.site import RemoteSite, SshServerFiles

ALL: Sections = {"permit": ["127.0.0.1:*", "kube:*"]}


class Bed(NamedTuple):
    """The daemon and its sites."""

    daemon: Daemon
    files: SshServerFiles
    proxy: Endpoint
    echo: Endpoint
    sections: dict[str, object]

    def ssh(self, name: str, *forwards: str, user: str | None = None) -> RemoteSite:
        """Run the ssh of a site with these forwards."""
        args = [word for forward in forwards for word in ("-R", forward)]
        return RemoteSite(self.files, name, *args, user=user)

    async def ask(self, host: str, payload: bytes = b"") -> tuple[str, bytes]:
        """Send a CONNECT request for `host`: see `tests.integration.test_by_name.ask`."""
        return await ask(self.proxy, host, payload)

    def told(self, name: str) -> dict[str, Any]:
        """The site in `/status`."""
        sites: list[dict[str, Any]] = json.loads(self.daemon.get("/status")[1])["sites"]
        return next(site for site in sites if site["name"] == name)

    async def until(self, name: str, what: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until `holds` is true for the site in `/status`. Returns the site."""
        await asyncio.to_thread(self.daemon.wait_for, what, lambda: holds(self.told(name)))
        return self.told(name)

    async def links(self, name: str, number: int) -> list[dict[str, Any]]:
        """Wait until the site has so many serving links. Returns them."""
        what = f"{number} links of {name}"
        site = await self.until(name, what, lambda site: len(site["links"]) == number)
        return cast("list[dict[str, Any]]", site["links"])

    async def reload(self, clusters: Sections | None = None, **sections: object) -> None:
        """Change these sections, and reload."""
        before = len(self.daemon.events("reloaded"))
        self.daemon.configure(gateways={}, clusters=clusters or {}, sections={**self.sections, **sections})
        self.daemon.signal(signal.SIGHUP)
        await asyncio.to_thread(
            self.daemon.wait_for, "reloaded", lambda: len(self.daemon.events("reloaded")) > before
        )


@asynccontextmanager
async def bed(
    folder: Path,
    sites: Mapping[str, Sections],
    *,
    clusters: Sections | None = None,
    options: Mapping[str, str] | None = None,
    **more: object,
) -> AsyncIterator[Bed]:
    """A daemon with these sites, each with its own key. `options` are the options of the keys, `more`
    arguments of `running`.
    """
    files, proxy = SshServerFiles(folder / "ssh"), Endpoint("127.0.0.1", free_port())
    sections: dict[str, object] = {
        "limits": {"drain_timeout": "500ms"},
        "entries": {"proxy": {"listen": str(proxy)}},
        "ssh_server": files.sections(),
        "sites": {
            name: {**files.authorized(name, (options or {}).get(name, "")), **site}
            for name, site in sites.items()
        },
        **more,
    }
    async with (
        Echo() as echo,
        running(folder / "daemon", gateways={}, clusters=clusters or {}, **sections) as daemon,
    ):
        yield Bed(daemon, files, proxy, echo.endpoint, sections)
