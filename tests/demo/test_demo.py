"""`kubemux demo` as a user runs it: the process, its text, the commands in that text, and Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.config.loader import load
from proxy.demo.stage import prepare
from proxy.demo.welcome import welcome
from proxy.runtime.endpoint import Endpoint
from tests.demo.conftest import Finished, call
from tests.support.processes import command, descendants


@dataclass(frozen=True, slots=True)
class Demo:
    """A running demo."""

    process: asyncio.subprocess.Process
    text: str
    home: Path

    @property
    def commands(self) -> list[str]:
        return re.findall(r"^    (\S.*)$", self.text, re.MULTILINE)

    async def paste(self, name: str) -> Finished:
        """Run the first printed command with that word in it, as a shell does."""
        command = next(command for command in self.commands if name in command)
        return await call("sh", "-c", command, folder=self.home)


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the demo with its temporary files in `folder`; it is killed at the end if it still runs."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)}
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy", "demo", stdout=asyncio.subprocess.PIPE, stderr=log, env=environment
        )
    try:
        async with asyncio.timeout(200):  # some tests start six programs, one after another
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Demo]:
    async with started(folder) as process:
        assert process.stdout is not None
        text = (await process.stdout.readuntil(b"Ctrl-C ends it")).decode()
        yield Demo(process, text, folder)


async def end(process: asyncio.subprocess.Process, number: signal.Signals) -> int:
    process.send_signal(number)
    await process.communicate()
    assert process.returncode is not None
    return process.returncode


async def is_bound(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


def left(folder: Path) -> list[str]:
    """The demos' folders in `folder`. Python itself makes a file there for a moment, to see
    whether it may.
    """
    return [path.name for path in folder.glob("kubemux-demo-*")]


def test_nothing_printed_switches_verification_off(tmp_path: Path) -> None:
    with prepare(tmp_path) as stage:
        assert not re.search(r"\s(-k|--insecure\S*)\b", welcome(stage))


async def test_the_printed_curl_status_and_metrics_commands_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as demo:
        health = await demo.paste("/healthz")
        assert (health.code, health.out) == (0, "ok")
        version = await demo.paste("--proxy")
        assert version.code == 0, version.err
        assert '"gitVersion"' in version.out
        status = await demo.paste(" status ")
        assert status.code == 0, status.err
        assert "berlin" in status.out
        assert "tokyo" in status.out
        metrics = await demo.paste("/metrics")
        assert metrics.out.count("kubemux_cluster_up{") == 2


@pytest.mark.kubectl
async def test_the_printed_kubectl_commands_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as demo:
        namespaces = await demo.paste("get ns")
        assert namespaces.code == 0, namespaces.err
        assert [line.split()[:2] for line in namespaces.out.splitlines()[1:]] == [
            ["default", "Active"],
            ["kube-system", "Active"],
        ]
        pods = await demo.paste("get pods -A")
        assert pods.code == 0, pods.err
        assert "cache-0" in pods.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_the_end_of_the_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    async with running(tmp_path) as demo:
        (name,) = left(tmp_path)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700
        config = load(tmp_path / name / "config.yaml")
        gateway = config.gateways["bastion"].port
        assert gateway is not None
        ports = [gateway, config.admin.listen.port]
        for cluster in config.clusters.values():
            assert isinstance(cluster.listen, Endpoint)
            ports += [cluster.listen.port, cluster.api_servers[0].port]
        entry = config.entries["proxy"].listen
        assert isinstance(entry, Endpoint)
        ports.append(entry.port)
        assert [await is_bound(port) for port in ports] == [True] * 7
        # An idle client must not delay the end.
        _, idle = await asyncio.open_connection("127.0.0.1", ports[2])
        children = descendants(demo.process.pid)
        assert await end(demo.process, number) == 0
        idle.close()
        while any(command(child) for child in children):  # whoever inherits them reaps them
            await asyncio.sleep(0.01)
        assert [await is_bound(port) for port in ports] == [False] * 7
    assert left(tmp_path) == []
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "[error" not in log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_while_the_demo_starts_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with started(tmp_path) as process:
        while not left(tmp_path):
            await asyncio.sleep(0.001)
        assert await end(process, number) == 0
    assert left(tmp_path) == []
    assert "Traceback" not in (tmp_path / "log").read_text()
