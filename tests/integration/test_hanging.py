"""Gateways whose commands, disks, resolver or agent hang, beside a healthy gateway. The healthy one comes up,
orders are answered, and a stop takes no longer than usual.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.integration.conftest import cluster, gateway
from tests.integration.running import running, told, wait_up
from tests.integration.test_life import kubemux
from tests.support.daemon import Daemon, Sections
from tests.support.https import Https
from tests.support.parts import need
from tests.support.ports import free_port
from tests.support.processes import command
from tests.support.shim import Shim
from tests.support.sshd import Sshd
from tests.support.tls import Certificates

pytestmark = [pytest.mark.sshd, pytest.mark.gcc]

THREADS: Final = 3
"""Threads that one hanging gateway may leave: for its files, its names, and the watch of its files."""


@dataclass
class Scene:
    """What makes gateways hang, and the reason and message that status then shows."""

    folder: Path
    sshd: Sshd
    reason: str = "credentials_unusable"
    said: str = ""
    section: dict[str, object] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    wrapper: tuple[str, ...] = ()
    shim: Shim | None = None

    def hangs(self, number: int) -> Sections:
        """The configuration of gateway `number`, which hangs."""
        return gateway(
            self.sshd,
            connect_timeout="2s",
            **{key: _with(number, value) for key, value in self.section.items()},
        )


def _with(number: int, value: object) -> object:
    return value.replace("NUMBER", str(number)) if isinstance(value, str) else value


@asynccontextmanager
async def match_exec(scene: Scene) -> AsyncIterator[None]:
    """An ssh_config's `Match exec` command does not end. kubemux leaves none of its processes behind."""
    path = scene.folder / "ssh_config"
    pause = f"sleep 10{free_port()}"
    path.write_text(f'Match exec "{pause}"\n  Port 1\n')
    scene.section = {"ssh_config": str(path), "host": "edge-NUMBER.test", "port": None}
    scene.said = f"ssh_config {path}"
    yield
    # kubemux has killed them, but the kernel may not have ended all of them yet.
    await asyncio.to_thread(_eventually, lambda: pause not in _commands())


@asynccontextmanager
async def key_on_a_dead_disk(scene: Scene) -> AsyncIterator[None]:
    """Reading the key hangs, from before the daemon's start on."""
    nfs = scene.folder / "nfs"
    nfs.mkdir()
    for number in range(7):
        (nfs / f"key{number}").write_bytes(scene.sshd.identity.read_bytes())
        (nfs / f"key{number}").chmod(0o600)
    scene.section = {"identity_files": [str(nfs / "key0")]}
    scene.said = f"reading {nfs / 'key0'} has been hanging since 20"
    with closing(Shim(scene.folder)) as scene.shim:
        scene.environment = scene.shim.environment
        scene.shim.hang(nfs)
        yield


@asynccontextmanager
async def known_hosts_on_a_dead_disk(scene: Scene) -> AsyncIterator[None]:
    nfs = scene.folder / "nfs"
    nfs.mkdir()
    (nfs / "known_hosts").write_bytes(scene.sshd.known_hosts().read_bytes())
    scene.section = {"known_hosts": [str(nfs / "known_hosts")]}
    scene.said = f"{nfs / 'known_hosts'} has been hanging since 20"
    with closing(Shim(scene.folder)) as scene.shim:
        scene.environment = scene.shim.environment
        scene.shim.hang(nfs)
        yield


@asynccontextmanager
async def dead_resolver(scene: Scene) -> AsyncIterator[None]:
    """The daemon's own resolv.conf names a server that never answers queries."""
    need("network")
    address = f"127.53.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"  # its port is the same for all workers
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((address, 53))
        conf = scene.folder / "resolv.conf"
        conf.write_text(f"nameserver {address}\noptions timeout:30 attempts:5\n")
        scene.wrapper = (
            "unshare",
            "-m",
            "sh",
            "-c",
            f'mount --bind {conf} /etc/resolv.conf && exec "$@"',
            "sh",
        )
        scene.section = {"host": "edge-NUMBER.example.com"}
        scene.reason, scene.said = "unresolvable", "does not resolve: no answer within 2 s"
        yield
        assert silent.recv(2000), "the name server got a query"


@asynccontextmanager
async def dead_agent(scene: Scene) -> AsyncIterator[None]:
    """An agent accepts connections and never answers."""
    path = scene.folder / "agent"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen(100)
        scene.section = {"agent": True, "identity_files": None}
        scene.environment = {"SSH_AUTH_SOCK": str(path)}
        scene.said = f"the ssh-agent at {path} does not answer"
        yield


WAYS: Final = {
    "Match exec": match_exec,
    "resolver": dead_resolver,
    "key": key_on_a_dead_disk,
    "known_hosts": known_hosts_on_a_dead_disk,
    "agent": dead_agent,
}


@pytest.fixture
async def healthy(certificates: Certificates) -> AsyncIterator[Https]:
    async with Https(certificates) as server:
        yield server


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("way", WAYS)
async def test_a_hanging_call_delays_no_other(
    way: str, count: int, sshd: Sshd, healthy: Https, tmp_path: Path, certificates: Certificates
) -> None:
    scene = Scene(tmp_path, sshd)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(WAYS[way](scene))
        names = [f"slow{number}" for number in range(count)]
        gateways: dict[str, object] = {name: scene.hangs(number) for number, name in enumerate(names)}
        clusters: dict[str, object] = {
            f"at-{name}": cluster(free_port(), healthy.endpoint, via=name, ca=certificates.ca)
            for name in names
        }
        gateways["edge"] = gateway(sshd)
        clusters["prod"] = cluster(free_port(), healthy.endpoint, ca=certificates.ca)
        daemon = await stack.enter_async_context(
            running(
                tmp_path / "daemon",
                gateways=gateways,
                clusters=clusters,
                environment=scene.environment,
                wrapper=scene.wrapper,
            )
        )
        await asyncio.to_thread(daemon.wait_up, "prod")
        await asyncio.to_thread(
            daemon.wait_for, f"every one is {scene.reason}", lambda: _are(daemon, names, scene)
        )
        for arguments in (("reload",), ("reconnect", "edge"), ("reconnect", "slow0"), ("reload",)):
            await asyncio.to_thread(kubemux, *arguments, "--config", daemon.config)
        await wait_up(daemon, "prod")
        assert (await asyncio.to_thread(daemon.get, "/readyz"))[0] == 200
        # More threads may run for a moment. Blocked ones do not end.
        await asyncio.to_thread(_eventually, lambda: _threads(daemon.pid) <= 1 + count * THREADS + 2)
        await asyncio.to_thread(daemon.stop)


async def test_a_daemon_at_rest_has_one_thread(
    sshd: Sshd, healthy: Https, tmp_path: Path, certificates: Certificates
) -> None:
    """A thread for a call that may hang is started for that call, and ends with it."""
    prod = cluster(free_port(), healthy.endpoint, ca=certificates.ca, probe={"interval": "1h"})
    async with running(
        tmp_path, gateways={"edge": gateway(sshd, host="localhost")}, clusters={"prod": prod}
    ) as daemon:
        await asyncio.to_thread(
            daemon.wait_for, "a dial", lambda: told(daemon)["edge"]["reason"] == "host_key_unknown"
        )
        await asyncio.to_thread(_eventually, lambda: _threads(daemon.pid) == 1)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Shim]]:
    """A folder on a disk that can hang."""
    folder = tmp_path / "nfs"
    folder.mkdir()
    with closing(Shim(tmp_path)) as shim:
        yield folder, shim


def on_disk(sshd: Sshd, folder: Path) -> Sections:
    key = folder / "key"
    key.write_bytes(sshd.identity.read_bytes())
    key.chmod(0o600)
    return {"slow": gateway(sshd, identity_files=[str(key)]), "edge": gateway(sshd)}


@contextmanager
def stopped_reader(daemon: Daemon) -> Iterator[None]:
    """Wait for the reader of the configuration, and keep it stopped (SIGSTOP).

    It would end 5 s after the disk began to hang. Stopped, it ends in the block only if it is killed.
    """
    _eventually(lambda: bool(_readers(daemon)))
    [reader] = _readers(daemon)
    os.kill(reader, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(reader, signal.SIGCONT)


def test_sigterm_ends_a_start_that_hangs(sshd: Sshd, tmp_path: Path, disk: tuple[Path, Shim]) -> None:
    folder, shim = disk
    daemon = Daemon(
        tmp_path / "daemon", gateways=on_disk(sshd, folder), clusters={}, environment=shim.environment
    )
    shim.hang(folder)
    daemon.spawn()
    try:
        with stopped_reader(daemon):
            daemon.signal(signal.SIGTERM)
            assert daemon.wait_ended() in {0, -signal.SIGTERM}
        # The test does not read the daemon's log, which the reader writes to if the daemon was killed.
        _eventually(lambda: not _readers(daemon))
    finally:
        daemon.kill()


def test_sigterm_ends_a_reload_that_hangs(sshd: Sshd, tmp_path: Path, disk: tuple[Path, Shim]) -> None:
    folder, shim = disk
    sections = {"limits": {"drain_timeout": "500ms"}}
    with Daemon(
        tmp_path / "daemon",
        gateways=on_disk(sshd, folder),
        clusters={},
        sections=sections,
        environment=shim.environment,
    ) as daemon:
        daemon.wait_for("two gateways up", lambda: daemon.metric("kubemux_gateway_connected") == 2)
        shim.hang(folder)
        daemon.signal(signal.SIGHUP)
        with stopped_reader(daemon):
            daemon.stop()
            _eventually(lambda: not _readers(daemon))


def test_a_configuration_that_hangs_is_named_and_the_daemon_goes_on(
    sshd: Sshd, tmp_path: Path, disk: tuple[Path, Shim]
) -> None:
    """If reading a gateway's files hangs, the reload succeeds with a warning."""
    folder, shim = disk
    gateways = on_disk(sshd, folder)
    with Daemon(
        tmp_path / "daemon",
        gateways=gateways,
        clusters={},
        environment=shim.environment,
        expected_errors={"reload rejected"},
    ) as daemon:
        daemon.wait_for("two gateways up", lambda: daemon.metric("kubemux_gateway_connected") == 2)
        shim.hang(folder)
        daemon.configure(gateways={**gateways, "third": gateway(sshd)}, clusters={})
        kubemux("reload", "--config", daemon.config)
        [reloaded] = daemon.events("reloaded")
        assert f"gateways.slow: reading {folder / 'key'} has been hanging since 20" in str(
            reloaded["warnings"]
        )
        daemon.wait_for("the third is up", lambda: daemon.metric("kubemux_gateway_connected") == 3)
        assert daemon.metric("kubemux_gateway_reconnects_total") == 0, (
            "a file that cannot be read in time counts as unchanged"
        )
        shim.hang(daemon.config.parent)
        kubemux("reload", "--config", daemon.config, code=78)
        [rejected] = daemon.events("reload rejected")
        assert f"reading {daemon.config} has been hanging since 20" in str(rejected["problems"])
        assert daemon.metric("kubemux_gateway_connected") == 3
        shim.hang(None)


def _readers(daemon: Daemon) -> list[int]:
    """The process ids of the readers of its configuration."""
    lines = {int(process.name): command(int(process.name)) for process in Path("/proc").glob("[0-9]*")}
    return [pid for pid, line in lines.items() if "proxy.config.apart" in line and str(daemon.config) in line]


def _eventually(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _are(daemon: Daemon, names: list[str], scene: Scene) -> bool:
    found = told(daemon)
    return all(
        found[name]["reason"] == scene.reason and scene.said in found[name]["message"] for name in names
    )


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def _commands() -> str:
    return "\n".join(command(int(pid.name)) for pid in Path("/proc").glob("[0-9]*"))
