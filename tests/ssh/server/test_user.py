"""The connection of a user: its limit of channels, and its end. With OpenSSH's client."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.config.model import KeepaliveConfig
from proxy.errors.reasons import Reason
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import OpenRequest
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks
from proxy.ssh.native.wire import messages
from proxy.ssh.open_requests import at_most
from proxy.ssh.server import user
from proxy.ssh.server.server import SshServer
from proxy.ssh.server.session import Session
from proxy.ssh.server.user import User
from proxy.ssh.turns import Turns
from tests.support.ports import free_port
from tests.support.serving import closed
from tests.support.ssh_bed import HOST, WAIT_S, SshBed, ended

pytestmark = pytest.mark.sshd


class Bastion:
    """A bed whose server treats every login as a user's."""

    def __init__(self, bed: SshBed) -> None:
        self.bed = bed
        self.users: asyncio.Queue[User] = asyncio.Queue()
        self.requests: asyncio.Queue[OpenRequest] = asyncio.Queue()
        self.tasks = Tasks("users")
        self._turns = Turns()
        self._budget = MemoryBudget(64 << 20, connections=10)
        bed.server = SshServer(on_login=self._logged_in, record=bed.record)

    def _logged_in(self, session: Session) -> User:
        assert session.login is not None
        one = User(
            session,
            session.login,
            self.requests.put_nowait,
            lambda *_: None,
            name="ssh-user:ops/1",
            budget=self._budget,
            turns=self._turns,
            limit=at_most(1, "users.ops.max_channels"),
            tasks=self.tasks,
        )
        self.users.put_nowait(one)
        return one


@asynccontextmanager
async def bastion(folder: Path) -> AsyncIterator[Bastion]:
    found = Bastion(SshBed(folder / "bed"))
    try:
        async with found.bed:
            yield found
    finally:
        await found.tasks.close()


@pytest.fixture
def forward() -> str:
    return f"{HOST}:{free_port()}:prod-eu:443"


async def client(forward: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the local port of ssh, as soon as ssh listens."""
    async with asyncio.timeout(WAIT_S):
        while True:
            with suppress(OSError):
                return await asyncio.open_connection(HOST, int(forward.split(":")[1]))
            await asyncio.sleep(0.01)


async def test_a_client_that_is_silent_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user, "KEEPALIVE", KeepaliveConfig(interval=0.05, max_missed=8))
    async with bastion(tmp_path) as found, asyncio.timeout(WAIT_S):
        with capture_logs() as logs:
            process = await found.bed.start(found.bed.ops, "-N")
            one = await found.users.get()
            process.send_signal(signal.SIGSTOP)
            await one.ended
        reasons = [log["reason"] for log in logs if log["event"] == "logged out"]
        assert reasons == [Reason.KEEPALIVE_TIMEOUT]
        await ended(process)


async def test_one_channel_too_many_is_refused_and_the_others_stay(tmp_path: Path, forward: str) -> None:
    async with bastion(tmp_path) as found, asyncio.timeout(WAIT_S):
        process = await found.bed.start(found.bed.ops, "-N", "-L", forward)
        refused, first = await client(forward)
        request = await found.requests.get()
        assert request.target == Endpoint("prod-eu", 443)
        reader, second = await client(forward)
        assert await reader.read() == b""
        request.refuse(messages.CONNECT_FAILED, "kubemux: enough")
        assert await refused.read() == b"", "ssh has heard of it"
        _, third = await client(forward)  # there is room again
        request = await found.requests.get()
        for writer in (first, second, third):
            await closed(writer)
        process.terminate()
        _, said = await process.communicate()
        failed = [line for line in said.decode().splitlines() if "open failed" in line]
        assert [line.partition("open failed: ")[2] for line in failed] == [
            "resource shortage: kubemux: limit (users.ops.max_channels is 1, and as many are open)",
            "connect failed: kubemux: enough",
        ]


async def test_a_leaving_user_stays_until_the_last_channel_ends(tmp_path: Path, forward: str) -> None:
    async with bastion(tmp_path) as found, asyncio.timeout(WAIT_S):
        process = await found.bed.start(found.bed.ops, "-N", "-L", forward)
        one = await found.users.get()
        _, writer = await client(forward)
        request = await found.requests.get()
        leaving = found.tasks.spawn(one.leave(), name="leave")
        with capture_logs() as logs:
            _, answered = await asyncio.wait([leaving], timeout=0.1)
            assert answered == {leaving}
            request.refuse(messages.CONNECT_FAILED, "kubemux: enough")
            await one.ended
        assert [(log["event"], log["reason"]) for log in logs] == [("logged out", Reason.CLOSED)]
        _, said = await process.communicate()
        assert "kubemux stops: connect again" in said.decode()
        await closed(writer)


async def test_many_refused_forwards_are_one_log_entry(tmp_path: Path) -> None:
    async with bastion(tmp_path) as found, asyncio.timeout(WAIT_S):
        with capture_logs() as logs:
            forwards = [word for port in range(1, 6) for word in ("-R", f"{port}:prod-eu:443")]
            process = await found.bed.start(found.bed.ops, "-N", *forwards)
            assert process.stderr is not None
            for port in range(1, 6):
                said = await process.stderr.readline()
                assert said.decode().strip().endswith(f"remote port forwarding failed for listen port {port}")
            await ended(process)
        [entry] = [log for log in logs if log["event"] == "forward refused"]
        assert (entry["forward"], entry["forwards"], entry["message"]) == ("localhost:1", 1, user.NO_FORWARD)
