"""A forked kubemux behaves like an executed one (tests/support/kubemux.py)."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.kubemux import PROGRAM, Forked, run
from tests.support.processes import command

BOTH = pytest.mark.parametrize("popen", [Forked, subprocess.Popen], ids=["forked", "executed"])
Start = Callable[..., "subprocess.Popen[bytes]"]


def state(pid: int) -> dict[str, object]:
    """The kernel's state of a process that must be the same for a forked and an executed one."""
    process = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    kept = ("Umask", "PPid", "Uid", "Gid", "SigPnd", "SigBlk", "SigIgn", "SigCgt", "CapEff")
    files = []
    for link in (process / "fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            files.append(re.sub(r"\d+", "N", str(link.readlink())))
    return {
        "status": {name: status[name] for name in kept},
        "files": sorted(files),
        "folder": (process / "cwd").readlink(),
        "limits": (process / "limits").read_text(),
        "session": (os.getsid(pid), os.getpgid(pid)),
        "niceness": os.getpriority(os.PRIO_PROCESS, pid),
    }


def test_a_forked_daemon_has_the_same_kernel_state(tmp_path: Path) -> None:
    with (
        Daemon(tmp_path / "1", gateways={}, clusters={}) as forked,
        Daemon(tmp_path / "2", gateways={}, clusters={}, executes=True) as executed,
    ):
        assert "tests.support.forker" in command(forked.pid)
        assert "-m proxy run" in command(executed.pid)
        # A starting daemon has threads and files that it soon closes.
        forked.wait_for("the same state", lambda: state(forked.pid) == state(executed.pid))


def test_the_configuration_reader_of_a_forked_daemon_is_the_same(tmp_path: Path) -> None:
    """A forked daemon also forks the process that reads its configuration."""
    said = []
    for executes in (True, False):
        daemon = Daemon(tmp_path, gateways={"edge": {"hots": "x"}}, clusters={}, executes=executes)
        daemon.spawn()
        assert daemon.wait_ended() == 78
        said.append(daemon.set_log_aside())
    assert "gateways.edge.hots: unknown key" in said[0]
    assert said[0] == said[1]


@BOTH
def test_exit_code_and_streams_are_the_same(popen: Start, tmp_path: Path) -> None:
    with popen(
        [*PROGRAM, "check", "nothing.yaml"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (78, b"")
    assert b"nothing.yaml: the file does not exist" in err
    assert b"Traceback" not in err


@BOTH
def test_a_signal_ends_the_process(popen: Start, tmp_path: Path) -> None:
    """`kubemux drain CLUSTER` waits for the answer of a daemon that gives none."""
    (tmp_path / "config.yaml").write_text(f"version: 1\nadmin: {{socket: {tmp_path}/admin}}\n")
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(f"{tmp_path}/admin")
        daemon.listen()
        daemon.settimeout(60)
        with popen([*PROGRAM, "drain", "any", "--config", tmp_path / "config.yaml"]) as process:
            client, _ = daemon.accept()
            with client:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.01)
                process.terminate()
                assert process.wait(60) == -signal.SIGTERM


@BOTH
def test_the_output_to_a_terminal_is_the_same(popen: Start, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("version: 1\n")
    ours, its = pty.openpty()
    try:
        with popen(
            [*PROGRAM, "check", tmp_path / "config.yaml"], stdin=its, stdout=its, stderr=its
        ) as process:
            assert process.wait(60) == 0
        said = b""
        while not said.endswith(b"\r\n"):  # a terminal's output may arrive after its writer's end
            said += os.read(ours, 4096)
        assert said.endswith(b"config.yaml: ok, 0 gateways, 0 clusters\r\n")
    finally:
        os.close(ours)
        os.close(its)


@BOTH
def test_the_process_has_the_given_environment(popen: Start, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "KUBEMUX_CONFIG"}
    answers = []
    for more in ({}, {"KUBEMUX_CONFIG": str(tmp_path / "here.yaml")}):
        home = environment | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": ""} | more
        with popen([*PROGRAM, "check"], env=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            answers.append(process.communicate(timeout=60)[1])
    assert b"KUBEMUX_CONFIG" in answers[0]
    assert f"{tmp_path}/here.yaml: the file does not exist".encode() in answers[1]


def test_with_an_environment_for_the_interpreter_kubemux_is_executed(tmp_path: Path) -> None:
    """A fork would ignore PYTHONPATH, because its interpreter has started already."""
    (tmp_path / "sitecustomize.py").write_text("print('a new interpreter')")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    assert run("check", "--help", environment={"PYTHONPATH": path}).stdout.startswith("a new interpreter\n")
    assert run("check", "--help").stdout.startswith("Usage: ")


def test_other_programs_are_executed() -> None:
    with Forked([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        assert process.wait(60) == 3
