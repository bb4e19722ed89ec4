"""The output of `kubemux probe` for people and scripts, directly and through a real sshd."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.health.scripted import OK, Pki, Script, Scripted, answers, server_context
from tests.support import kubemux as support
from tests.support.sshd import SshdFactory
from tests.support.tls import Issued


@dataclass(frozen=True)
class Ran:
    exit_code: int
    stdout: str
    stderr: str


async def kubemux(*command: str | Path) -> Ran:
    """Run the command as a process. No daemon runs."""
    done = await asyncio.to_thread(support.run, *command)
    return Ran(done.returncode, done.stdout, done.stderr)


def configured(
    folder: Path, api_server: Endpoint, ca: Path, *, gateways: dict[str, object] | None = None
) -> Path:
    """A configuration with the cluster `prod`, behind the gateway if there is one. It is JSON,
    which is YAML.
    """
    cluster = {
        "gateway": next(iter(gateways), "direct") if gateways else "direct",
        "listen": "127.0.0.1:16443",
        "api_servers": [str(api_server)],
        "tls": {"server_name": "kubernetes", "ca_file": str(ca)},
        "probe": {"timeout": "60s"},
    }
    config = folder / "config.yaml"
    config.write_text(json.dumps({"version": 1, "gateways": gateways or {}, "clusters": {"prod": cluster}}))
    return config


async def run(folder: Path, pki: Pki, script: Script, issued: Issued, *arguments: str) -> Ran:
    """Run `kubemux probe`, without SSH, on a server in this loop that plays `script`."""
    async with Scripted(script, tls=server_context(issued)) as server:
        config = configured(folder, server.endpoint, pki.authority.ca.cert)
        return await kubemux("probe", *(arguments or ("prod",)), "--config", config)


async def test_every_step_of_a_healthy_cluster_is_ok(tmp_path: Path, pki: Pki) -> None:
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
    assert "hint: clients that ask for another name are served all the same: set tls.server_name" in steps[5]
    assert steps[5].endswith("kubemux probe prod lists them")
    assert "not reached" in steps[6]
    assert steps[7] == "down: tls_name_mismatch"


@pytest.mark.parametrize(
    ("status", "code", "word"), [("403 Forbidden", 0, "unauthorized"), ("500 Oops", 1, "unhealthy")]
)
async def test_json_and_the_exit_code_have_the_result(
    tmp_path: Path, pki: Pki, status: str, code: int, word: str
) -> None:
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
    assert (
        result.stderr
        == "kubemux: no cluster is called 'prdo'\n  hint: did you mean 'prod'? there are: 'prod'\n"
    )


async def test_the_error_distinguishes_a_gateway_from_a_cluster(tmp_path: Path, pki: Pki) -> None:
    result = await run(tmp_path, pki, answers(OK), pki.good, "direct")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'direct' stands for no gateway at all, and probe takes a cluster" in result.stderr
    assert "clusters that are reached without a gateway: 'prod'" in result.stderr


class Broken(StrEnum):
    """A fault on the way through a gateway."""

    NOTHING = "nothing"
    SSHD = "sshd"
    HOST_KEY = "host key"
    KEY = "key"
    FORWARDING = "forwarding"
    API_SERVER = "API server"


@pytest.mark.parametrize(
    ("broken", "passed", "result", "hint"),
    [
        (Broken.NOTHING, ["tcp", "ssh", "auth", "channel", "tls", "http"], "ok", ""),
        (Broken.SSHD, [], "link_down", "is sshd running there"),
        (Broken.HOST_KEY, ["tcp"], "link_down", "remove the old key and add the new one: ssh-keygen -f"),
        (Broken.KEY, ["tcp", "ssh"], "link_down", "authorized_keys"),
        (Broken.FORWARDING, ["tcp", "ssh", "auth"], "channel_prohibited", "AllowTcpForwarding"),
        (Broken.API_SERVER, ["tcp", "ssh", "auth"], "channel_refused", "as seen from the gateway"),
    ],
)
async def test_a_probe_through_a_real_sshd_stops_at_the_step_that_fails(
    tmp_path: Path,
    pki: Pki,
    sshd_factory: SshdFactory,
    broken: Broken,
    passed: list[str],
    result: str,
    hint: str,
) -> None:
    sshd = sshd_factory(config={"AllowTcpForwarding": "no"} if broken is Broken.FORWARDING else {})
    wrong = sshd.new_identity("wrong", authorize=False)
    gateway = {
        "host": sshd.host,
        "port": sshd.port,
        "user": sshd.user,
        "identity_files": [str(wrong if broken is Broken.KEY else sshd.identity)],
        "known_hosts": [str(sshd.known_hosts(key=wrong if broken is Broken.HOST_KEY else None))],
    }
    async with Scripted(answers(OK), tls=server_context(pki.good)) as server:
        if broken is Broken.API_SERVER:
            await server.refuse()
        if broken is Broken.SSHD:
            await asyncio.to_thread(sshd.stop)
        config = configured(tmp_path, server.endpoint, pki.authority.ca.cert, gateways={"edge": gateway})
        ran = await kubemux("probe", "prod", "--json", "--config", config)
    told = json.loads(ran.stdout)
    steps = [(step["stage"], step["verdict"]) for step in told["steps"]]
    assert [stage for stage, verdict in steps if verdict == "ok"] == passed
    assert [verdict for _, verdict in steps[len(passed) :]] == [
        "failed",
        *["not reached"] * (5 - len(passed)),
    ][: 6 - len(passed)]
    assert told["result"] == result
    assert hint in told["hint"]
    assert ran.exit_code == (0 if broken is Broken.NOTHING else 1)
    assert ran.stderr == ""


@pytest.mark.sshd
async def test_verbose_shows_the_options_of_ssh_config(
    tmp_path: Path, pki: Pki, sshd_factory: SshdFactory
) -> None:
    """It shows the options for the gateway and for its jump host, without ssh's own defaults."""
    edge, jump = sshd_factory(), sshd_factory()
    lines = [
        f"Host edge\n  Port {edge.port}\n  ProxyJump jump\n  ControlMaster auto\n  StrictHostKeyChecking off"
    ]
    lines += [
        f"  IdentityFile {tmp_path}/missing\n  Ciphers ^aes256-ctr\n  UserKnownHostsFile {edge.known_hosts()}"
    ]
    lines += [
        f"Host jump\n  Port {jump.port}\n  UserKnownHostsFile {jump.known_hosts()}\n  IdentityFile "
        f"{jump.identity}"
    ]
    lines += [f"Host *\n  HostName 127.0.0.1\n  IdentityFile {edge.identity}\n  RemoteCommand none\n"]
    (tmp_path / "ssh_config").write_text("\n".join(lines))
    gateway = {"host": "edge", "ssh_config": str(tmp_path / "ssh_config")}
    async with Scripted(answers(OK), tls=server_context(pki.good)) as server:
        config = configured(tmp_path, server.endpoint, pki.authority.ca.cert, gateways={"edge": gateway})
        ran = await kubemux("probe", "prod", "-v", "--config", config)
    assert ran.exit_code == 0, ran.stdout + ran.stderr
    said, _, rest = ran.stdout.partition("prod through edge")
    assert "alive: ok" in rest
    blocks = re.split("^ssh_config ", said, flags=re.MULTILINE)
    assert [block.partition(",")[0] for block in blocks[1:]] == [
        f"{tmp_path}/ssh_config for {host}" for host in ("edge", "jump")
    ]
    for line in (
        "used         hostname 127.0.0.1",
        f"used         port {edge.port}",
        f"used         identityfile {edge.identity}",
        "used         proxyjump jump",
        "not used     controlmaster auto: kubemux shares its own links",
        "not followed stricthostkeychecking false: the host key is always checked against known_hosts",
        f"not used     {tmp_path}/missing does not exist",
    ):
        assert f"  {line}\n" in blocks[1], blocks[1]
    assert f"  used         port {jump.port}\n" in blocks[2]
    assert "serveraliveinterval" not in said
