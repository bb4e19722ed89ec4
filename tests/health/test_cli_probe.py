"""`kubemux probe` as a person and a script see it, without a gateway: what goes through sshd is tested with a real one."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.health.scripted import OK, Pki, Script, Scripted, answers, server_context
from tests.support.tls import Issued


@dataclass(frozen=True)
class Ran:
    exit_code: int
    stdout: str
    stderr: str


async def run(folder: Path, pki: Pki, script: Script, issued: Issued, *arguments: str) -> Ran:
    """The command as a process, the server in this loop. Nothing of the daemon runs."""
    async with Scripted(script, tls=server_context(issued)) as server:
        config = folder / "config.yaml"
        config.write_text(f"""
version: 1
clusters:
  prod:
    gateway: direct
    listen: "127.0.0.1:16443"
    api_servers: ["{server.endpoint}"]
    tls: {{server_name: kubernetes, ca_file: {pki.authority.ca.cert}}}
""")
        command = (sys.executable, "-m", "proxy", "probe", *(arguments or ("prod",)), "--config", str(config))
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        stdout, stderr = await asyncio.wait_for(process.communicate(), 30)
        return Ran(process.returncode or 0, stdout.decode(), stderr.decode())


async def test_a_healthy_cluster(tmp_path: Path, pki: Pki) -> None:
    result = await run(tmp_path, pki, answers(OK), pki.good)
    assert result.exit_code == 0
    head, *_, last = result.stdout.splitlines()
    assert head == "prod through direct"
    assert last == "alive: ok"
    assert [verdict for verdict in result.stdout.split() if verdict in {"ok", "FAILED"}] == ["ok"] * 4
    assert "\x1b" not in result.stdout
    assert result.stderr == ""


async def test_a_name_mismatch_lists_the_names(tmp_path: Path, pki: Pki) -> None:
    result = await run(tmp_path, pki, answers(OK), pki.wrong_name)
    assert result.exit_code == 1
    steps = result.stdout.splitlines()
    assert [line.split()[0] for line in steps[1:3]] == ["ok", "FAILED"]
    assert "does not name kubernetes" in steps[3]
    assert "it names somebody.example, 192.0.2.1; issued by CN=kubemux test ca" in steps[4]
    assert "hint: set tls.server_name" in steps[5]
    assert "not reached" in steps[6]
    assert steps[7] == "down: tls_name_mismatch"


@pytest.mark.parametrize(("status", "code", "word"), [("403 Forbidden", 0, "unauthorized"), ("500 Oops", 1, "unhealthy")])
async def test_json_and_the_exit_code(tmp_path: Path, pki: Pki, status: str, code: int, word: str) -> None:
    script = answers(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
    result = await run(tmp_path, pki, script, pki.good, "prod", "--json")
    assert result.exit_code == code
    told = json.loads(result.stdout)
    assert (told["result"], told["alive"], told["status"]) == (word, code == 0, int(status[:3]))
    assert told["certificate_expiry"] == pki.good.not_after.timestamp()
    assert [step["stage"] for step in told["steps"]] == ["channel", "tls", "http"]
    assert all(step["seconds"] >= 0 for step in told["steps"])


async def test_an_unknown_cluster_is_a_usage_error_that_lists_them(tmp_path: Path, pki: Pki) -> None:
    result = await run(tmp_path, pki, answers(OK), pki.good, "prdo")
    assert result.exit_code == 2
    assert "has no cluster 'prdo'; there are: prod" in result.stderr
