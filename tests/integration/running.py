"""Runs the daemon beside servers in the test's own loop. Blocking calls run in threads. Also has a TLS
client, and lists the TCP connections of a process.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from signal import SIGHUP
from typing import Any, TypedDict, cast

from tests.support.daemon import Daemon, Sections
from tests.support.serving import closed
from tests.support.tls import Certificates

_SECTIONS = ("entries", "routes", "ssh_server", "sites", "users")

PROBE: Sections = {"interval": "200ms", "timeout": "2s"}


class Told(TypedDict):
    """A gateway in `/status`: the fields that tests read."""

    name: str
    state: str
    links: list[dict[str, object]]
    reason: str
    message: str
    hint: str
    retry_in: float | None


@asynccontextmanager
async def running(
    folder: Path, *, gateways: Sections, clusters: Sections, **more: object
) -> AsyncIterator[Daemon]:
    """A daemon, which is stopped when the block ends; it must then exit with 0.

    `more` are arguments of `Daemon`, and sections as in the configuration file (`_SECTIONS`).
    """
    sections: dict[str, object] = {name: more.pop(name) for name in _SECTIONS if name in more}
    sections["limits"] = {"drain_timeout": "500ms", **cast("Sections", more.pop("limits", {}))}
    daemon = Daemon(folder, gateways=gateways, clusters=clusters, sections=sections, **more)  # type: ignore[arg-type]
    await asyncio.to_thread(daemon.__enter__)
    try:
        yield daemon
    finally:
        await asyncio.to_thread(daemon.__exit__, sys.exc_info()[0])


async def wait_up(daemon: Daemon, *clusters: str, up: bool = True) -> None:
    await asyncio.to_thread(daemon.wait_up, *clusters, up=up)


async def wait_for_log(daemon: Daemon, event: str, **fields: object) -> dict[str, object]:
    """Wait for a log entry with this event and these fields. Returns the first."""

    def found() -> list[dict[str, object]]:
        return [entry for entry in daemon.events(event) if fields.items() <= entry.items()]

    await asyncio.to_thread(daemon.wait_for, f"{event} {fields}", lambda: bool(found()))
    return found()[0]


def told(daemon: Daemon) -> dict[str, Told]:
    """The gateways and sites of `/status`, by name."""
    status = json.loads(daemon.get("/status")[1])
    return {one["name"]: one for one in (*status["gateways"], *status["sites"])}


async def settled(daemon: Daemon, *gateways: str) -> dict[str, Told]:
    """Wait until each of these gateways (by default all) was dialled once. Returns `told`."""

    found: dict[str, Told] = {}

    def is_settled() -> bool:
        found.update(told(daemon))
        return all(
            entry["state"] != "connecting"
            for name, entry in found.items()
            if not gateways or name in gateways
        )

    await asyncio.to_thread(daemon.wait_for, "every gateway dialled once", is_settled)
    return found


async def connect(
    port: int, certificates: Certificates, *, seconds: float = 60.0
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TLS connection to a mapped port. Raises OSError, TimeoutError."""
    context = ssl.create_default_context(cafile=certificates.ca)
    async with asyncio.timeout(seconds):
        return await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=certificates.server_name
        )


async def ask(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    path: str = "/healthz",
    *,
    seconds: float = 60.0,
) -> int:
    """The status code of one more request on that connection. Raises OSError, EOFError, TimeoutError."""
    async with asyncio.timeout(seconds):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: kubernetes\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
        return int(head.split()[1])


async def get(port: int, certificates: Certificates, path: str = "/healthz", *, seconds: float = 60.0) -> int:
    """The status code of one request through a mapped port. Raises OSError, EOFError, TimeoutError."""
    async with asyncio.timeout(seconds):
        reader, writer = await connect(port, certificates)
        try:
            return await ask(reader, writer, path)
        finally:
            await closed(writer)


def connections(pid: int) -> list[tuple[int, int]]:
    """The established TCP connections of a process: (local port, remote port)."""
    inodes: set[str] = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # the process has closed it since
            inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = (row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:])
    # By inode: if the table changes while it is read, a row may come twice.
    found = {row[9]: row[1:3] for row in rows if row[9] in inodes and row[3] == "01"}
    return sorted(
        (int(local.partition(":")[2], 16), int(remote.partition(":")[2], 16))
        for local, remote in found.values()
    )


def peers(pid: int) -> list[int]:
    """The remote ports of a process' established TCP connections."""
    return sorted(remote for _, remote in connections(pid))


async def wait_for_metric(daemon: Daemon, value: float, name: str, **labels: str) -> None:
    """Wait until the sum of these samples is `value`."""
    await asyncio.to_thread(
        daemon.wait_for, f"{name} {labels}: {value}", lambda: daemon.metric(name, **labels) == value
    )


def changed(daemon: Daemon, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the configuration, and wait until the daemon has read it."""
    config = json.loads(daemon.config.read_text())
    change(config)
    daemon.config.write_text(json.dumps(config))
    reread(daemon)


def reread(daemon: Daemon, event: str = "reloaded") -> None:
    """Let the daemon read its configuration, and wait for this event in its log."""
    before = len(daemon.events(event))
    daemon.signal(SIGHUP)
    daemon.wait_for(event, lambda: len(daemon.events(event)) > before)
