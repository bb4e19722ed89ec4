"""How much memory does a daemon with 100 clusters and 1,000 idle clients need, compared with 100 `ssh -L`
processes?

There is one sshd, and one HTTPS stand-in for the API servers. kubemux is one process with 2 SSH connections
and 100 listeners, and probes every 10 s with a CA file for each cluster. OpenSSH is 100 `ssh -N -L`
processes. Both have 1,000 TLS clients, which are idle after one answer each. The bench prints RSS and PSS
(`/proc/PID/smaps_rollup`), SSH connections and file descriptors of both, from the same run.
"""

from __future__ import annotations

import asyncio
import json
import platform
import resource
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import asyncssh
import uvloop
from rich.console import Console
from rich.table import Table

from proxy.runtime.endpoint import Endpoint
from tests.support.daemon import Daemon
from tests.support.https import Https
from tests.support.parts import find
from tests.support.ports import free_port
from tests.support.sshd import Sshd
from tests.support.tls import Certificates

CLUSTERS = 100
CLIENTS = 1000
MOST_MB = 90
"""The target: the RSS of kubemux with all clients."""


def memory(pids: Iterable[int]) -> dict[str, float]:
    """RSS and PSS in MB (10^6 bytes), summed over processes."""
    sums = {"Rss": 0, "Pss": 0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name = line.partition(":")[0]
            if name in sums:
                sums[name] += int(line.split()[1]) * 1024
    return {name: size / 1e6 for name, size in sums.items()}


Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def open_clients(ports: list[int], certificates: Certificates) -> list[Client]:
    """Open CLIENTS connections, spread over `ports`. Each is idle after TLS and one verified answer."""
    context = ssl.create_default_context(cafile=certificates.ca)
    limit = asyncio.Semaphore(20)

    async def one(number: int) -> Client:
        async with limit, asyncio.timeout(30):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", ports[number % len(ports)], ssl=context, server_hostname=certificates.server_name
            )
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: kubernetes\r\n\r\n")
            answer = await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(2)
            if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(b"ok"):
                raise RuntimeError(f"connection {number} answered {answer!r}")
            return reader, writer

    return await asyncio.gather(*(one(number) for number in range(CLIENTS)))


async def close_clients(clients: list[Client]) -> None:
    """Close them, and wait until they are closed."""
    for _, writer in clients:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in clients), return_exceptions=True)


async def measure_kubemux(
    folder: Path, sshd: Sshd, target: Endpoint, ports: list[int], certificates: Certificates
) -> dict[str, float]:
    """The daemon with CLUSTERS clusters behind one gateway."""
    gateway = {
        "host": sshd.host,
        "port": sshd.port,
        "user": sshd.user,
        "identity_files": [str(sshd.identity)],
        "known_hosts": [str(sshd.known_hosts())],
    }
    clusters = {
        f"cluster-{n}": {
            "gateway": "edge",
            "listen": f"127.0.0.1:{port}",
            "api_servers": [str(target)],
            "tls": {"server_name": certificates.server_name, "ca_file": str(folder / f"ca-{n}.crt")},
        }
        for n, port in enumerate(ports)
    }
    for n in range(len(ports)):
        (folder / f"ca-{n}.crt").write_bytes(certificates.ca.read_bytes())
    with Daemon(folder / "daemon", gateways={"edge": gateway}, clusters=dict(clusters)) as daemon:
        await asyncio.to_thread(
            daemon.wait_for, "two links", lambda: daemon.metric("kubemux_gateway_links", gateway="edge") == 2
        )
        empty = memory([daemon.pid])
        clients = await open_clients(ports, certificates)
        active = await asyncio.to_thread(daemon.metric, "kubemux_connections_active")
        if active != CLIENTS:
            raise RuntimeError(f"{active:g} connections are open, not {CLIENTS}")
        full = memory([daemon.pid])
        descriptors = len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))
        links = await asyncio.to_thread(daemon.metric, "kubemux_gateway_links")
        await close_clients(clients)
        await asyncio.to_thread(
            daemon.wait_for, "no clients", lambda: daemon.metric("kubemux_connections_active") == 0
        )
    return {
        "processes": 1,
        "ssh_connections": links,
        "rss_empty_mb": empty["Rss"],
        "rss_mb": full["Rss"],
        "pss_mb": full["Pss"],
        "descriptors": descriptors,
    }


async def measure_openssh(
    sshd: Sshd, target: Endpoint, ports: list[int], certificates: Certificates
) -> dict[str, float]:
    """One `ssh -N -L` process for each cluster."""
    known_hosts = sshd.known_hosts()
    with ExitStack() as stack:
        pids: list[int] = []
        for port in ports:
            command = [
                find("ssh") or "ssh",
                "-N",
                "-F",
                "none",
                "-p",
                str(sshd.port),
                "-i",
                str(sshd.identity),
            ]
            command += [
                "-o",
                f"UserKnownHostsFile={known_hosts}",
                "-o",
                "ExitOnForwardFailure=yes",
                "-o",
                "BatchMode=yes",
            ]
            command += ["-L", f"127.0.0.1:{port}:{target}", f"{sshd.user}@{sshd.host}"]
            process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.DEVNULL))
            stack.callback(process.kill)
            pids.append(process.pid)
            await wait_listening(port)
        empty = memory(pids)
        clients = await open_clients(ports, certificates)
        full = memory(pids)
        descriptors = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
        await close_clients(clients)
    return {
        "processes": len(pids),
        "ssh_connections": len(pids),
        "rss_empty_mb": empty["Rss"],
        "rss_mb": full["Rss"],
        "pss_mb": full["Pss"],
        "descriptors": descriptors,
    }


async def wait_listening(port: int) -> None:
    """Wait until ssh has bound its port, which it does after its login."""
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


async def main() -> dict[str, dict[str, float]]:
    """Measure both, one after the other, with the same sshd and stand-in."""
    with (
        tempfile.TemporaryDirectory() as name,
        Sshd(Path(name) / "sshd", config={"MaxStartups": "200"}) as sshd,
    ):
        ports: list[int] = []
        while len(ports) < CLUSTERS:
            if (port := free_port()) not in ports:
                ports.append(port)
        certificates = Certificates(Path(name) / "pki")
        async with Https(certificates) as server:
            common = (sshd, server.endpoint, ports, certificates)
            return {
                "kubemux": await measure_kubemux(Path(name), *common),
                "ssh -L": await measure_openssh(*common),
            }


def show(results: dict[str, dict[str, float]]) -> None:
    """Print one table, and the machine."""
    table = Table(title=f"{CLUSTERS} clusters behind one sshd, {CLIENTS} idle client connections")
    table.add_column("")
    for column in ("processes", "SSH conns", "RSS idle, MB", "RSS, MB", "PSS, MB", "descriptors"):
        table.add_column(column, justify="right")
    for side, row in results.items():
        table.add_row(
            side,
            f"{row['processes']:.0f}",
            f"{row['ssh_connections']:.0f}",
            f"{row['rss_empty_mb']:.1f}",
            f"{row['rss_mb']:.1f}",
            f"{row['pss_mb']:.1f}",
            f"{row['descriptors']:.0f}",
        )
    console = Console()
    console.print(table)
    versions = subprocess.run(
        [find("ssh") or "ssh", "-V"], capture_output=True, text=True, check=True
    ).stderr.strip()
    console.print(
        f"Python {platform.python_version()}, uvloop {version('uvloop')}, asyncssh {asyncssh.__version__}, "
        f"{versions}"
    )
    console.print(
        "RSS of 100 processes counts shared pages 100 times; PSS shares them out, so compare RSS of one "
        "with PSS of 100."
    )


if __name__ == "__main__":
    # Both ends of 2 × 1,000 connections are in this process and sshd.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 16384)), hard))
    measured = uvloop.run(main())
    show(measured)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(measured, indent=2) + "\n")
    ours = measured["kubemux"]
    sys.exit(0 if ours["rss_mb"] <= MOST_MB and ours["ssh_connections"] == 2 else 1)
