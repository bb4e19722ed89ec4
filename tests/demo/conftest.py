from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.demo import api_server, ssh_server
from proxy.demo.stage import Stage, prepare


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str


async def call(*command: str, folder: Path) -> Finished:
    """Run a command with `folder` as its home, because kubectl writes a cache there."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1, env=environment)
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """The stand-ins and the SSH server, running; no daemon."""
    with prepare(tmp_path) as stage:
        first, second = stage.clusters
        async with (
            api_server.serve(first.sock, first.tls, first.contents, token=stage.token),
            api_server.serve(second.sock, second.tls, second.contents, token=stage.token),
            ssh_server.serve(stage.ssh_socket, stage.ssh_host_key, stage.ssh_authorized_keys),
        ):
            yield stage


def trusting(stage: Stage, name: str) -> ssl.SSLContext:
    """A client's context that trusts the CA of one of the clusters."""
    return ssl.create_default_context(cafile=stage.config.clusters[name].tls.ca_file)
