"""Agents that hang, lie or hang up: named in time, and in nobody's way."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest

from proxy.errors import CredentialsUnusable
from tests.ssh.conftest import config_for, dialled, failure
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.sshd, pytest.mark.both_loops]

IDENTITIES = 12
"""SSH_AGENT_IDENTITIES_ANSWER (draft-miller-ssh-agent 5.1)."""

Answer = Callable[[int, StreamWriter], Awaitable[None]]


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


@asynccontextmanager
async def agent(path: Path, answer: Answer) -> AsyncIterator[None]:
    """An agent that does `answer` to each question, given its kind."""

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
    """Lists one key, and never signs with it: it waits for a touch."""

    async def answer(kind: int, writer: StreamWriter) -> None:
        if kind == IDENTITIES - 1:
            writer.write(
                string(bytes([IDENTITIES]) + (1).to_bytes(4) + string(key.public_data) + string(b"comment"))
            )

    return answer


@pytest.mark.parametrize("kind", ["silent", "hangs up", "never signs"])
async def test_it_is_named_within_connect_timeout(
    kind: str, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "agent"
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    key = asyncssh.read_private_key(sshd.identity)
    answer = {"silent": silence, "hangs up": hang_up, "never signs": holds(key)}[kind]
    config = config_for(sshd, agent=True, identity_files=None, connect_timeout="4s")
    async with agent(path, answer), asyncio.timeout(config.connect_timeout + 5):
        found = await failure(config)
    assert isinstance(found, CredentialsUnusable), found
    said = "cannot be used: 0 bytes read" if kind == "hangs up" else "does not answer"
    assert str(found).startswith(f"the ssh-agent at {path} {said}"), found
    assert "ssh-add -l" in found.hint


@pytest.mark.parametrize("kind", ["silent", "hangs up", "never signs"])
async def test_a_key_file_is_tried_all_the_same(
    kind: str, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "agent"
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    held = sshd.new_identity("held")
    answer = {"silent": silence, "hangs up": hang_up, "never signs": holds(asyncssh.read_private_key(held))}[
        kind
    ]
    config = config_for(sshd, agent=True, connect_timeout="4s")
    async with agent(path, answer), dialled(config) as link:
        assert link.conns
