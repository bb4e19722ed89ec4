"""Tests of tests/support, on which the other tests depend."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.support.apiserver import ApiServer
from tests.support.daemon import Daemon
from tests.support.echo import Echo, Sink, Source, exchange, pattern
from tests.support.faulty import Direction, FaultyRelay
from tests.support.files import whole_lines
from tests.support.https import Answer, Https
from tests.support.parts import find
from tests.support.ports import free_port
from tests.support.serving import closed, send
from tests.support.sshd import Sshd, SshdFactory
from tests.support.tls import Certificates

ROOT = Path(__file__).parents[1]

# Each test except the last leaves something behind.
LEAKY = """
import asyncio, os, socket, subprocess, threading, warnings
import pytest, uvloop
from tests.support import leaks

leaks.GRACE = 0  # nothing here needs time to close: `leaks.LOOKS` looks are enough
kept = []

def test_fd():
    kept.append(os.open("/dev/null", os.O_RDONLY))

def test_child():
    kept.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    kept[-1].stdin.write(b"\\n")
    kept[-1].stdin.flush()
    kept[-1].stdout.readline()  # its command is that of Python until it runs

def test_thread():
    kept.append(threading.Event())
    threading.Thread(target=kept[-1].wait, name="left-running", daemon=True).start()

def test_warning():
    warnings.warn("deprecated", DeprecationWarning)

async def test_task():
    kept.append(asyncio.create_task(asyncio.Event().wait(), name="left-waiting"))

@pytest.mark.both_loops
async def test_transport():
    left, right = socket.socketpair()
    kept.append((right, await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=left)))

async def test_coroutine():
    asyncio.sleep(0)

async def test_callback():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)

async def test_task_failure():
    async def fail():
        raise OSError("nobody looks")
    asyncio.create_task(fail())
    await asyncio.sleep(0)

async def test_clean():
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    left, right = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=left)
    transport.close()
    right.close()
    await asyncio.to_thread(subprocess.run, ["true"])

def teardown_module():
    for thing in kept:
        if isinstance(thing, subprocess.Popen):
            thing.kill()
            thing.wait()
"""


def test_a_test_that_leaves_something_behind_fails(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(test_leaky=LEAKY)
    done = pytester.runpytest_subprocess(
        *("test_leaky.py", "-v", "-n0", "-p", "tests.conftest", "-p", "no:randomly"),
        *(f"--config-file={ROOT / 'pyproject.toml'}", f"--rootdir={pytester.path}"),
    )
    verdicts = dict(
        re.findall(r"^(?:ERROR|FAILED) test_leaky.py::test_(\S+) - (.*)", done.stdout.str(), re.MULTILINE)
    )
    names = re.findall(r"^test_leaky.py::test_(\S+) PASSED", done.stdout.str(), re.MULTILINE)
    assert "clean" in names
    assert verdicts.keys() == {
        *("fd", "child", "thread", "warning", "task", "transport[uvloop]", "transport[asyncio]"),
        *("coroutine", "callback", "task_failure"),
    }
    done.stdout.fnmatch_lines_random(
        [
            "*fd *: /dev/null",
            "*child process *: cat",
            "*thread left-running",
            "*task left-waiting: *",
            "*unhandled in the event loop: *ZeroDivisionError*",
            "*unhandled in the event loop: *nobody looks*",
            "*fd *: unix socket (unnamed)",
            "*coroutine 'sleep' was never awaited",
        ]
    )


@contextmanager
def forwarding(
    sshd: Sshd, target: Endpoint, *options: str, known_hosts: Path | None = None
) -> Iterator[Endpoint]:
    """OpenSSH's own client, forwarding a local port to `target`."""
    local = Endpoint("127.0.0.1", free_port())
    process = subprocess.Popen(
        [
            *(
                find("ssh") or "ssh",
                "-F",
                "none",
                "-N",
                "-L",
                f"{local}:{target}",
                "-p",
                str(sshd.port),
                "-l",
                sshd.user,
            ),
            *(
                "-o",
                f"UserKnownHostsFile={known_hosts or sshd.known_hosts()}",
                "-o",
                "StrictHostKeyChecking=yes",
            ),
            *("-o", "ExitOnForwardFailure=yes", "-o", "IdentitiesOnly=yes", *options, sshd.host),
        ],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(local, timeout=60):
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.02)
                raise AssertionError(process.stderr.read().decode())
            assert time.monotonic() < deadline, "ssh does not listen"
        yield local
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize(("ci", "outcome"), [("true", "failed"), ("", "skipped")])
def test_a_missing_part_fails_in_ci_and_skips_elsewhere(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: str
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(
        "import pytest\n@pytest.mark.apiserver\ndef test_it(): pass\ndef test_too(apiserver): pass"
    )
    done = pytester.runpytest_subprocess("-rA", "-p", "tests.conftest")
    assert done.parseoutcomes() == {"errors" if outcome == "failed" else outcome: 2}
    done.stdout.fnmatch_lines(["*KUBEBUILDER_ASSETS (*) is not set*"])


# --------------------------------------------------------------------------------------------------- files


def test_a_line_counts_when_its_end_is_written(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert whole_lines(log) == []
    log.write_text('{"event":"one"}\n{"eve')
    assert whole_lines(log) == ['{"event":"one"}']
    log.write_text('{"eve')
    assert whole_lines(log) == []


# ---------------------------------------------------------------------------------------------------- sshd


async def test_openssh_forwards_through_sshd(sshd: Sshd) -> None:
    data = pattern(1 << 20)
    async with Sink() as sink:
        with forwarding(sshd, sink.endpoint, "-i", str(sshd.identity)) as local:
            assert await exchange(local, data) == hashlib.sha256(data).hexdigest().encode()
    assert "Accepted publickey" in sshd.log()


async def test_ssh_accepts_hashed_known_hosts(sshd: Sshd) -> None:
    known_hosts = sshd.known_hosts(hashed=True)
    assert sshd.host not in known_hosts.read_text()
    async with Echo() as echo:
        with forwarding(sshd, echo.endpoint, "-i", str(sshd.identity), known_hosts=known_hosts) as local:
            assert await exchange(local, b"hello") == b"hello"


async def test_ssh_and_sshd_accept_certificates_of_host_and_user(sshd_factory: SshdFactory) -> None:
    sshd = sshd_factory(host_certificate=True)
    key, _ = sshd.new_certificate()
    known_hosts = sshd.known_hosts(authority=True)
    async with Echo() as echo:
        with forwarding(sshd, echo.endpoint, "-i", str(key), known_hosts=known_hosts) as local:
            assert await exchange(local, b"hello") == b"hello"
    assert "ID certified" in sshd.log()


@pytest.mark.parametrize("case", ["expired", "unauthorized", "revoked", "changed"])
def test_ssh_fails_if_the_key_or_known_hosts_does_not_match(sshd: Sshd, case: str) -> None:
    key = sshd.identity
    known_hosts = sshd.known_hosts(revoked=case == "revoked", key=sshd.user_ca if case == "changed" else None)
    if case == "expired":
        key, _ = sshd.new_certificate(validity="-2h:-1h")
    elif case == "unauthorized":
        key = sshd.new_identity("stranger", authorize=False)
    with (
        pytest.raises(
            AssertionError,
            match="verification failed" if case in ("revoked", "changed") else "Permission denied",
        ),
        forwarding(sshd, Endpoint("127.0.0.1", 1), "-i", str(key), known_hosts=known_hosts),
    ):
        pass


async def test_killing_the_listener_leaves_sessions_and_killing_all_does_not(sshd: Sshd) -> None:
    async with Echo() as echo:
        with forwarding(sshd, echo.endpoint, "-i", str(sshd.identity)) as local:
            sshd.kill_listener()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((sshd.host, sshd.port), timeout=60)
            assert await exchange(local, b"still here") == b"still here"
            port, sessions = sshd.port, sshd.sessions()
            assert sessions
            sshd.restart()
            assert sshd.port == port
            assert not sshd.sessions() & sessions


async def test_a_paused_sshd_is_silent_until_it_is_resumed(sshd: Sshd) -> None:
    sshd.pause()
    reader, writer = await asyncio.open_connection(sshd.host, sshd.port)
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), timeout=0.1)
        sshd.resume()
        assert await asyncio.wait_for(reader.readexactly(4), timeout=30) == b"SSH-"
    finally:
        await closed(writer)


# ---------------------------------------------------------------------------------------------------- servers


@pytest.mark.both_loops
async def test_a_bad_network_delays_and_corrupts_what_a_source_sends() -> None:
    size = 300_000
    async with Source() as source, FaultyRelay(source.endpoint) as relay:
        relay.delay = 0.05
        began = time.monotonic()
        assert await exchange(relay.endpoint, b"%d\n" % size) == pattern(size)
        assert time.monotonic() - began >= 2 * relay.delay
        relay.delay = 0
        relay.corrupt(Direction.TO_CLIENT)
        damaged = await exchange(relay.endpoint, b"%d\n" % size)
        assert sum(a != b for a, b in zip(damaged, pattern(size), strict=True)) == 1
        assert relay.carried[Direction.TO_CLIENT] == 2 * size


@pytest.mark.both_loops
async def test_a_stalled_direction_loses_nothing_and_a_reset_reaches_the_client() -> None:
    async with Echo() as echo, FaultyRelay(echo.endpoint) as relay:
        reader, writer = await asyncio.open_connection(*relay.endpoint)
        try:
            relay.stall(Direction.TO_CLIENT)
            writer.write(b"late")
            async with asyncio.timeout(30):
                while not relay.carried[Direction.TO_SERVER]:
                    await asyncio.sleep(0.01)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), timeout=0.1)
            assert relay.carried == {Direction.TO_SERVER: 4, Direction.TO_CLIENT: 0}
            relay.resume()
            assert await asyncio.wait_for(reader.readexactly(4), timeout=30) == b"late"
            await relay.disconnect(hard=True)
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(1), timeout=30)
        finally:
            await closed(writer)
        await relay.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*relay.endpoint)
        await relay.listen()
        assert await exchange(relay.endpoint, b"again") == b"again"
        await relay.wait_accepted(2)


@pytest.mark.both_loops
async def test_a_path_that_was_rebooted_answers_the_next_bytes_with_a_reset() -> None:
    async with Echo() as echo, FaultyRelay(echo.endpoint) as path:
        path.jitter = 0.01
        reader, writer = await asyncio.open_connection(*path.endpoint)
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        path.forget()
        writer.write(b"after")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await closed(writer)
        assert await exchange(path.endpoint, b"a new connection") == b"a new connection"


async def test_a_client_that_was_reset_before_it_sends_learns_of_it_when_it_reads() -> None:
    async with Echo() as echo:
        reader, writer = await asyncio.open_connection(*echo.endpoint)
        await echo.wait_accepted(1)
        await echo.disconnect(hard=True)
        async with asyncio.timeout(60):
            while not writer.is_closing():
                await asyncio.sleep(0.01)
        send(writer, b"too late")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await closed(writer)


async def test_sshd_takes_another_host_key_other_users_and_keywords(sshd: Sshd) -> None:
    before = sshd.known_hosts()
    sshd.new_host_key()
    sshd.authorize()
    sshd.reconfigure({"AllowTcpForwarding": "no"})
    await asyncio.to_thread(sshd.restart)
    for known_hosts, complaint in (
        (before, "verification failed"),
        (sshd.known_hosts(), "Permission denied"),
    ):
        with (
            pytest.raises(AssertionError, match=complaint),
            forwarding(sshd, Endpoint("127.0.0.1", 1), "-i", str(sshd.identity), known_hosts=known_hosts),
        ):
            pass
    sshd.authorize(sshd.identity)
    async with Echo() as echo:
        with (
            forwarding(sshd, echo.endpoint, "-i", str(sshd.identity)) as local,
            suppress(ConnectionResetError, BrokenPipeError),
        ):
            await exchange(local, b"hello")
        assert echo.accepted == 0, "it does not forward"


async def test_https_answers_as_scripted(certificates: Certificates) -> None:
    context = ssl.create_default_context(cafile=certificates.ca)
    async with Https(certificates) as https:
        reader, writer = await asyncio.open_connection(
            *https.endpoint, ssl=context, server_hostname="kubernetes"
        )
        try:
            for answer, status in (
                (Answer.OK, b"200"),
                (Answer.FORBIDDEN, b"403"),
                (Answer.UNHEALTHY, b"500"),
            ):
                https.answer = answer
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: kubernetes\r\n\r\n")
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), timeout=30)
                assert head.split()[1] == status
                await reader.readexactly(int(head.split()[-1]))
            https.answer = Answer.RESET
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            with suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), timeout=30) == b""
        finally:
            await closed(writer)
        assert https.requests == ["GET /healthz HTTP/1.1"] * 3 + ["GET / HTTP/1.1"]
        with pytest.raises(ssl.SSLCertVerificationError, match=r"127\.0\.0\.1"):
            await asyncio.open_connection(*https.endpoint, ssl=context)


# --------------------------------------------------------------------------------------------- kube-apiserver


def test_apiserver_answers_kubectl(apiserver: ApiServer, tmp_path: Path) -> None:
    kubeconfig = apiserver.kubeconfig(tmp_path / "kubeconfig")
    assert apiserver.kubectl("get", "--raw", "/healthz", kubeconfig=kubeconfig) == "ok"
    assert "namespace/default" in apiserver.kubectl("get", "ns", "-o", "name", kubeconfig=kubeconfig)


def test_the_certificate_of_the_apiserver_does_not_name_its_address(apiserver: ApiServer) -> None:
    context = ssl.create_default_context(cafile=apiserver.ca_file)
    with (
        socket.create_connection(apiserver.endpoint, timeout=60) as plain,
        pytest.raises(ssl.SSLCertVerificationError, match=r"127\.0\.0\.1"),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


# ------------------------------------------------------------------------------------------------- the daemon


def test_a_daemon_is_ready_answers_and_stops_clean(tmp_path: Path) -> None:
    with Daemon(tmp_path, gateways={}, clusters={}) as daemon:
        assert "READY=1" in daemon.notified
        assert daemon.get("/healthz")[0] == 200
        assert daemon.metric("kubemux_build_info") == 1
        assert daemon.metric("kubemux_no_such_thing") == 0


def test_a_daemon_that_cannot_start_shows_why(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, gateways={}, clusters={}, sections={"nonsense": 1})
    with pytest.raises(AssertionError, match=r"exit code 78[\s\S]*nonsense"), daemon:
        pass


@pytest.mark.parametrize(
    "line", ["Traceback (most recent call last):", "plain text", '{"level": "error", "event": "surprise"}']
)
def test_a_daemon_that_complains_fails_the_test(tmp_path: Path, line: str) -> None:
    daemon = Daemon(tmp_path, gateways={}, clusters={}, expected_errors={"expected"})
    (tmp_path / "daemon.log").write_text(
        '{"level": "error", "event": "expected"}\n{"level": "info", "event": "fine"}\n'
    )
    daemon.assert_log_clean()
    (tmp_path / "daemon.log").write_text(line + "\n")
    with pytest.raises(AssertionError):
        daemon.assert_log_clean()


_IN_A_CONTAINER = ("--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
_AS_A_PERSON = (
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")
@pytest.mark.parametrize(
    ("become", "reason"),
    [(_IN_A_CONTAINER, "Operation not permitted"), (_AS_A_PERSON, "needs root")],
    ids=["a container", "a person"],
)
@pytest.mark.parametrize("ci", ["", "true"])
def test_tests_with_namespaces_check_for_them_first(become: tuple[str, ...], reason: str, ci: str) -> None:
    """Without namespaces, each test would wait a minute for a systemd that cannot boot. In CI it must fail,
    not skip.
    """
    program = """
import pytest
from tests.support import parts
for part in ("systemd", "network", "dropbear", "overlay"):
    try:
        parts.need(part)
    except BaseException as outcome:
        print(type(outcome).__name__, outcome)
"""
    command = ["setpriv", *become, sys.executable, "-c", program]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"CI": ci},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    outcomes = done.stdout.splitlines()
    assert [line.split()[0] for line in outcomes if line.startswith(("Skipped ", "Failed "))] == 4 * [
        "Failed" if ci else "Skipped"
    ]
    assert done.stdout.count(reason) == 4, done.stdout
