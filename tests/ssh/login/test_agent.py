"""Agents that hang, lie or close the connection: the error names the agent in time, and no other gateway
waits.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import asyncssh
import pytest

from proxy.errors import CredentialsUnusable
from proxy.ssh.governor import HANDSHAKES_IN_FLIGHT
from proxy.ssh.handshakes import Handshakes
from proxy.ssh.login.dial import Dialled, dial
from tests.ssh.conftest import config_for, dialled, failure
from tests.support.deadlines import HOUR, Deadline
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.sshd, pytest.mark.both_loops]

IDENTITIES = 12
"""SSH_AGENT_IDENTITIES_ANSWER (draft-miller-ssh-agent 5.1)."""

SIGN = 13
"""SSH_AGENTC_SIGN_REQUEST."""

Answer = Callable[[int, StreamWriter], Awaitable[None]]


class Cancelled:
    """Dials that do not end by themselves; they are cancelled when the block ends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Dialled]] = set()

    def start(self, dialling: Coroutine[Any, Any, Dialled]) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(dialling))

    @property
    def waiting(self) -> int:
        return sum(not task.done() for task in self._tasks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


@asynccontextmanager
async def agent(path: Path, answer: Answer) -> AsyncIterator[None]:
    """An agent that calls `answer` for each request, with the type of the request."""

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while head := await reader.read(4):
                question = await reader.readexactly(int.from_bytes(head))
                await answer(question[0], writer)
        finally:
            writer.close()

    async with await asyncio.start_unix_server(serve, str(path)):
        yield


async def silence(_: int, __: StreamWriter) -> None:
    """Never answers."""


async def hang_up(_: int, writer: StreamWriter) -> None:
    writer.close()


def holds(key: asyncssh.SSHKey) -> Answer:
    """Lists one key, and never signs with it, like a security key that nobody touches."""

    async def answer(kind: int, writer: StreamWriter) -> None:
        if kind == IDENTITIES - 1:
            writer.write(
                string(bytes([IDENTITIES]) + (1).to_bytes(4) + string(key.public_data) + string(b"comment"))
            )

    return answer


class Waiting:
    """Calls `answer`, and counts the requests of one type that stay without an answer."""

    def __init__(self, kind: int, answer: Answer) -> None:
        self._kind = kind
        self._answer = answer
        self._asked = asyncio.Semaphore(0)

    async def __call__(self, kind: int, writer: StreamWriter) -> None:
        if kind == self._kind:
            self._asked.release()
        await self._answer(kind, writer)

    async def asked(self) -> None:
        await self._asked.acquire()


@pytest.mark.parametrize("kind", ["silent", "never signs"])
async def test_a_healthy_gateway_of_the_same_sshd_does_not_wait_for_an_agent_that_hangs(
    kind: str, sshd: Sshd, tmp_path: Path
) -> None:
    """Six handshakes may run at one sshd, and two of those whose key may be refused. Dials that wait for an
    agent must not use these places.
    """
    shared, count = Handshakes(), 7 if kind == "silent" else HANDSHAKES_IN_FLIGHT - 1
    names = [f"held{number}" for number in range(count)]
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(Cancelled())
        for name in names:
            held = holds(asyncssh.read_private_key(sshd.new_identity(name)))
            hangs = Waiting(IDENTITIES - 1, silence) if kind == "silent" else Waiting(SIGN, held)
            await stack.enter_async_context(agent(tmp_path / name, hangs))
            ssh_config = tmp_path / f"{name}.config"
            ssh_config.write_text(f"IdentityAgent {tmp_path / name}\n")
            config = config_for(
                sshd, ssh_config=str(ssh_config), identity_files=None, agent=True, connect_timeout="1h"
            )
            group.start(dial(config, {}, shared, lambda _: None))
            await hangs.asked()
        async with asyncio.timeout(60):
            healthy = await dial(config_for(sshd), {}, shared, lambda _: None)
        assert group.waiting == count
        await healthy.close()


@asynccontextmanager
async def failing(
    kind: str, path: Path, key: Path, patch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], Coroutine[Any, Any, None]]]:
    """An agent at `path` that fails, and holds `key`. Call the result during a dial with a `connect_timeout`
    of an hour: half of it is the agent's time, and that is over when the call returns.
    """
    patch.setenv("SSH_AUTH_SOCK", str(path))
    held = holds(asyncssh.read_private_key(key))
    answer = {"silent": silence, "hangs up": hang_up, "never signs": held}[kind]
    waiting = Waiting(SIGN if kind == "never signs" else IDENTITIES - 1, answer)
    deadline = Deadline(patch, HOUR / 2)

    async def time_is_over() -> None:
        await waiting.asked()
        if kind != "hangs up":
            deadline.passes()

    async with agent(path, waiting):
        yield time_is_over


@pytest.mark.parametrize("kind", ["silent", "hangs up", "never signs"])
async def test_an_agent_that_hangs_is_named_in_the_error_within_connect_timeout(
    kind: str, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "agent"
    config = config_for(sshd, agent=True, identity_files=None, connect_timeout="1h")
    async with failing(kind, path, sshd.identity, monkeypatch) as time_is_over, asyncio.timeout(60):
        found, _ = await asyncio.gather(failure(config), time_is_over())
    assert isinstance(found, CredentialsUnusable), found
    said = "cannot be used: 0 bytes read" if kind == "hangs up" else "does not answer"
    assert str(found).startswith(f"the ssh-agent at {path} {said}"), found
    assert "ssh-add -l" in found.hint


@pytest.mark.parametrize("kind", ["silent", "hangs up", "never signs"])
async def test_a_key_file_is_tried_although_the_agent_fails(
    kind: str, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(sshd, agent=True, connect_timeout="1h")
    held = sshd.new_identity("held")
    async with (
        failing(kind, tmp_path / "agent", held, monkeypatch) as time_is_over,
        asyncio.timeout(60),
        asyncio.TaskGroup() as group,
    ):
        group.create_task(time_is_over())
        async with dialled(config) as link:
            assert link.conns
