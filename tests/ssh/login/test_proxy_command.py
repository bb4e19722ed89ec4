"""ProxyCommand on both data planes: its link works like any other, its process ends with the link, and if the
process ends first, the link's loss names it.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.config.model import GatewayConfig
from proxy.errors import ConnectTimeout, HandshakeFailed, LinkError, ProxyCommandFailed, Stage
from proxy.relay.probing import relayed_socket
from proxy.ssh.login import proxy_command
from tests.ssh.conftest import ORIGIN, Watched, config_for, failure, started
from tests.support import carrier
from tests.support.deadlines import HOUR, Deadline
from tests.support.echo import Echo
from tests.support.processes import children, has_ended
from tests.support.processes import command as command_of
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.sshd, pytest.mark.usefixtures("data_plane")]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may need more than half a second until it tells that a process has exited."""
    monkeypatch.setattr(proxy_command, "EXIT_S", 30.0)


def carried(sshd: Sshd, command: str = "", **more: object) -> GatewayConfig:
    """The gateway behind a ProxyCommand, by default one that connects to `%h:%p`."""
    path = sshd.folder / "ssh_config"
    command = command or f"{shlex.join([sys.executable, carrier.__file__])} %h %p as %r"
    path.write_text(
        f"Host edge\n  HostName {sshd.host}\n  Port {sshd.port}\n  User {sshd.user}\n  ProxyCommand "
        f"{command}\n"
    )
    more = {"host": "edge", "port": None, "user": None, "ssh_config": str(path), **more}
    return config_for(sshd, **more)


async def echoes(gateway: Watched, target: Echo, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    channel = await gateway.open_channel(target.endpoint, origin=ORIGIN, hold_until=loop.time() + 60)
    with await relayed_socket(channel, gateway.budget) as client:
        sending = loop.create_task(loop.sock_sendall(client, data), name="send")
        got = bytearray()
        async with asyncio.timeout(60):
            while len(got) < len(data):
                got += await loop.sock_recv(client, 1 << 20)
        await sending
        return bytes(got)


def commands() -> set[int]:
    return children(os.getpid())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_link_through_a_proxy_command_works_and_its_process_ends_with_it(
    sshd: Sshd, data_plane: str
) -> None:
    before = commands()
    with capture_logs() as logs:
        async with Echo() as target, started(carried(sshd)) as gateway:
            await gateway.until(lambda: gateway.links == 1)
            (link,) = gateway.snapshot().links
            assert (link.data_plane, link.server) == (data_plane, f"{sshd.host}:{sshd.port}")
            data = os.urandom(3 << 20)
            assert await echoes(gateway, target, data) == data
            assert len(commands() - before - sshd.sessions()) >= 1
            gateway.renew("test")
            await gateway.until(lambda: gateway.metric("gateway_reconnects_total", reason="replaced") == 1)
            assert await echoes(gateway, target, b"again") == b"again"
    said = [entry["line"] for entry in logs if entry["event"] == "ProxyCommand says"]
    assert said == [f"carrying as {sshd.user}"] * 2


async def test_a_command_that_ends_also_ends_its_link_and_is_named(sshd: Sshd) -> None:
    before = commands()
    async with started(carried(sshd)) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        (pid,) = (pid for pid in commands() - before if "carrier.py" in command_of(pid))
        os.kill(pid, signal.SIGTERM)
        await gateway.until(lambda: gateway.links == 0)
        told = gateway.snapshot()
        assert told.reason == "proxy_command_failed"
        assert "ended with exit code 7" in told.message
        assert f"carrying as {sshd.user}" in told.message
        await gateway.until(lambda: gateway.links == 1)
        assert gateway.metric("gateway_reconnects_total", reason="proxy_command_failed") == 1


@pytest.mark.parametrize(
    ("command", "kind", "says"),
    [
        (
            "sh -c 'echo no way there >&2; exit 3'",
            ProxyCommandFailed,
            "ended with exit code 3 before the SSH handshake was done",
        ),
        ("sh -c 'echo no way there >&2; exit 3'", ProxyCommandFailed, "its last words: no way there"),
        ("sh -c 'kill -9 $$'", ProxyCommandFailed, "ended with SIGKILL"),
        ("/nowhere/to/be/found", ProxyCommandFailed, "ended with exit code 127"),
        ("echo this is no SSH server", ProxyCommandFailed, "ended with exit code 0"),
        ("sh -c 'printf \"SSH-1.5-Old\\r\\n\"; sleep 600'", HandshakeFailed, "Unsupported SSH version"),
    ],
)
async def test_a_command_that_carries_nothing_fails_and_is_ended(
    sshd: Sshd, command: str, kind: type[LinkError], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_command, "PATIENCE_S", 0.2)
    before = commands()
    async with asyncio.timeout(100):  # it does not wait for a command that sleeps for ten minutes
        found = await failure(carried(sshd, command, connect_timeout="1h"))
    assert type(found) is kind, found
    assert says in str(found)
    assert str(found).isprintable()
    assert found.stage is (Stage.TCP if kind is ProxyCommandFailed else Stage.SSH)
    await until(lambda: commands() <= before)


@pytest.mark.parametrize(
    "command",
    [
        "sh -c 'echo ready >&2; exec sleep 600'",
        "sh -c 'trap \"\" HUP TERM; echo ready >&2; sleep 600 & wait'",
    ],
)
async def test_a_command_that_is_silent_is_given_up_and_ended(
    sshd: Sshd, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_command, "PATIENCE_S", 0.2)
    deadline, before = Deadline(monkeypatch, HOUR), commands()

    async def time_is_over() -> None:
        await until(lambda: any(entry.get("line") == "ready" for entry in logs))
        deadline.passes()

    with capture_logs() as logs:
        async with asyncio.timeout(100):
            dialling = failure(carried(sshd, command, connect_timeout="1h"))
            found, _ = await asyncio.gather(dialling, time_is_over())
    assert type(found) is ConnectTimeout, found
    assert "did not finish the SSH handshake within 3600 s through its ProxyCommand" in str(found)
    assert found.stage is Stage.SSH
    await until(lambda: commands() <= before)


async def test_children_of_the_command_end_with_it(sshd: Sshd, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = f"sh -c 'sleep 600 </dev/null >/dev/null 2>&1 & echo $! > {pid}; exit 4'"
    assert "exit code 4" in str(await failure(carried(sshd, command, connect_timeout="30s")))
    sleeper = int(pid.read_text())
    await until(lambda: has_ended(sleeper))


async def test_a_missing_shell_is_named_in_the_error(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/nowhere/sh")
    found = await failure(carried(sshd))
    assert isinstance(found, ProxyCommandFailed)
    assert "cannot be run by /nowhere/sh: No such file or directory" in str(found)


async def test_the_command_is_run_by_the_users_shell(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command may use quotes, variables and `$SHELL`, as with ssh(1). asyncssh alone would
    run no shell.
    """
    monkeypatch.setenv("SHELL", "/bin/bash")
    found = await failure(carried(sshd, "$(echo $BASH) -c 'echo \"$BASH says  $((6 * 7))\" >&2; exit 5'"))
    assert "exit code 5" in str(found)
    assert str(found).endswith("/bin/bash says  42")


async def test_none_means_no_proxy_command(sshd: Sshd) -> None:
    async with started(carried(sshd, "none")) as gateway:
        await gateway.until(lambda: gateway.links == 1)


async def test_a_command_that_talks_without_end_is_cut_short(sshd: Sshd) -> None:
    talk = 'yes "$(printf "\\033[31m%%0300d" 7)" | head -n 5000 >&2'
    with capture_logs() as logs:
        await failure(carried(sshd, f"sh -c '{talk}; exit 1'", connect_timeout="30s"))
    said = [entry for entry in logs if entry["event"] == "ProxyCommand says"]
    assert len(said) == proxy_command.LINES
    assert {len(str(entry["line"])) for entry in said} == {199}
    assert all(str(entry["line"]).isprintable() for entry in said)
    assert [bool(entry.get("note")) for entry in said] == [False] * (proxy_command.LINES - 1) + [True]
