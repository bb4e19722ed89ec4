"""`kubemux connect` as a process with standard streams, as ssh starts it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from proxy.connect.command import Order, read
from proxy.runtime.endpoint import Endpoint, UnixPath
from tests.connect.scripted import ACCEPTED, SECONDS, Entry, ended, kubemux
from tests.support.echo import pattern

BANNER = b"SSH-2.0-OpenSSH_9.2\r\n"
HEAVY = {
    "asyncio", "asyncssh", "bcrypt", "click", "cryptography", "dataclasses", "h11", "httpx2", "inspect",
    "logging", "prometheus_client", "proxy.cli", "proxy.config", "proxy.errors", "pydantic", "rich", "ruamel",
    "ssl", "starlette", "structlog", "subprocess", "uvicorn", "uvloop",
}  # fmt: skip


def everything(sock: socket.socket) -> bytes:
    data = b""
    while more := sock.recv(1 << 16):
        data += more
    return data


def test_an_end_of_input_is_passed_on_and_the_answer_still_arrives(scripted: Entry) -> None:
    with kubemux("--entry", scripted.listen, "nb", "22") as process:
        with scripted.serve(ACCEPTED + BANNER) as sock:
            assert process.stdin
            process.stdin.write(b"question")
            process.stdin.close()
            assert everything(sock) == b"question"
            sock.sendall(b"answer")
        assert ended(process) == (0, BANNER + b"answer", b"")


def test_the_targets_end_is_passed_on_and_input_is_still_sent(scripted: Entry) -> None:
    with kubemux("--entry", scripted.listen, "nb", "22") as process, scripted.serve() as sock:
        assert process.stdin
        assert process.stdout
        sock.sendall(b"all")
        sock.shutdown(socket.SHUT_WR)
        assert process.stdout.read() == b"all"  # until EOF
        process.stdin.write(b"later")
        process.stdin.close()
        assert everything(sock) == b"later"
        assert ended(process) == (0, b"", b"")


def test_a_target_that_closes_ends_the_command_although_its_input_is_open(scripted: Entry) -> None:
    with kubemux("--entry", scripted.listen, "nb", "22") as process:
        scripted.serve(ACCEPTED + BANNER).close()
        assert process.wait(SECONDS) == 0
        assert ended(process) == (0, BANNER, b"")


def test_megabytes_go_both_ways_though_neither_side_reads_first(scripted: Entry) -> None:
    up, down = (pattern(3 << 20, seed) for seed in (1, 2))
    with kubemux("--entry", scripted.listen, "nb", "22") as process, scripted.serve() as sock:
        assert process.stdin
        assert process.stdout
        writing = [
            threading.Thread(target=sock.sendall, args=(down,)),
            threading.Thread(target=process.stdin.write, args=(up,)),
        ]
        for thread in writing:
            thread.start()
        got = b""
        while len(got) < len(down):
            got += process.stdout.read(1 << 16)
        assert got == down
        got = b""
        while len(got) < len(up):
            got += sock.recv(1 << 16)
        assert got == up
        for thread in writing:
            thread.join()


def test_a_refusal_is_one_sentence(scripted: Entry) -> None:
    with kubemux("--entry", scripted.listen, "nb-0.team-a", "22") as process:
        scripted.serve(
            b"HTTP/1.1 503 kubemux: nb-0.team-a: link_down (edge: \x1b[2J)\r\nContent-Length: 5\r\n\r\nbody\n"
        ).close()
        code, out, err = ended(process)
    assert (code, out) == (1, b"")
    assert err.decode() == "kubemux: nb-0.team-a:22: link_down (edge: \N{REPLACEMENT CHARACTER}[2J)\n"


def test_a_lost_connection_is_one_sentence_and_a_hint(scripted: Entry) -> None:
    with kubemux("--entry", scripted.listen, "nb", "22") as process:
        with scripted.serve(ACCEPTED + BANNER) as sock:
            assert process.stdin
            process.stdin.write(b"nobody reads this")
            assert sock.recv(1, socket.MSG_PEEK)  # because bytes are unread, close() resets the connection
        code, out, err = ended(process)
    assert (code, out) == (1, BANNER)
    assert err.startswith(b"kubemux: nb:22: the connection was reset\n  hint: ")


def test_ssh_gets_the_socket_and_the_process_ends(scripted: Entry) -> None:
    ours, given = socket.socketpair()
    with ours, kubemux("--entry", scripted.listen, "--fdpass", "nb", "22", stdout=given.fileno()) as process:
        given.close()
        with scripted.serve(ACCEPTED + BANNER) as sock:
            ours.settimeout(SECONDS)
            byte, [descriptor], _, _ = socket.recv_fds(ours, 1, 4)
            assert len(byte) == 1
            assert ended(process) == (0, b"", b"")
            assert ours.recv(1) == b""
            with socket.socket(fileno=descriptor) as passed:
                assert os.get_blocking(descriptor)
                assert passed.recv(1 << 16) == BANNER
                passed.sendall(b"SSH-2.0-client\r\n")
                assert sock.recv(1 << 16) == b"SSH-2.0-client\r\n"


def test_fdpass_without_a_socket_as_standard_output_asks_no_entry(tmp_path: Path) -> None:
    """No entry listens there, but the command does not get so far."""
    with kubemux("--entry", f"unix:{tmp_path}/none", "--fdpass", "nb", "22") as process:
        code, out, err = ended(process)
    assert (code, out) == (2, b"")
    assert err.startswith(b"kubemux: --fdpass needs a unix socket as standard output")


def test_the_receiver_of_the_socket_may_have_closed(scripted: Entry) -> None:
    ours, given = socket.socketpair()
    with kubemux("--entry", scripted.listen, "--fdpass", "nb", "22", stdout=given.fileno()) as process:
        given.close()
        ours.close()
        scripted.serve().close()
        assert ended(process) == (1, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_command_without_output(scripted: Entry, number: signal.Signals) -> None:
    with ExitStack() as stack:
        # A program inherits ignored signals, and nohup(1) may run the suite.
        handler = signal.signal(number, signal.SIG_DFL)
        try:
            process = stack.enter_context(kubemux("--entry", scripted.listen, "nb", "22"))
        finally:
            signal.signal(number, handler)
        stack.enter_context(scripted.serve())
        process.send_signal(number)
        assert ended(process) == (-number, b"", b"")


@pytest.mark.parametrize("redirection", [">&-", ">&- <&-", ">&- <&- 2>&-", "<&-"])
def test_closed_streams_do_not_disturb_the_connection(scripted: Entry, redirection: str) -> None:
    """Otherwise the connection could get the number of the closed stream."""
    command = f'exec "$0" -m proxy connect --entry {scripted.listen} nb 22 {redirection}'
    with subprocess.Popen(
        ["sh", "-c", command, sys.executable], bufsize=0, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        process.stdin.close()
        with scripted.serve(ACCEPTED + BANNER) as sock:
            assert everything(sock) == b""
        assert ended(process) == (0, b"", b"")


def test_a_closed_reader_is_not_reported(scripted: Entry) -> None:
    reading, writing = os.pipe()
    with kubemux("--entry", scripted.listen, "nb", "22", stdout=writing) as process:
        os.close(writing)
        os.close(reading)
        with scripted.serve(ACCEPTED + BANNER):
            assert process.wait(SECONDS) == 1
            assert ended(process)[2] == b""


def test_a_full_disk_is_one_line(scripted: Entry) -> None:
    with (
        Path("/dev/full").open("wb") as full,
        kubemux("--entry", scripted.listen, "nb", "22", stdout=full.fileno()) as process,
    ):
        with scripted.serve(ACCEPTED + BANNER):
            assert process.wait(SECONDS) == 1
        assert ended(process)[2] == b"kubemux: standard output: No space left on device\n"


def test_the_command_starts_without_slow_imports(scripted: Entry) -> None:
    code = f"import sys; sys.argv[1:] = ['connect', '--entry', {scripted.listen!r}, 'nb', '22']\n"
    code += (
        "from proxy.__main__ import program\ntry: program()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        scripted.serve().close()
        loaded = set(ended(process)[2].decode().split())
    assert "proxy.connect.streams" in loaded
    assert not HEAVY & loaded


PLAIN = Order(UnixPath("/e.sock"), Endpoint("nb", 22), False)


@pytest.mark.parametrize(
    ("words", "where", "order"),
    [
        (["--entry", "unix:/e.sock", "nb", "22"], "", PLAIN),
        (["nb", "22", "--entry=unix:/e.sock"], "127.0.0.1:1", PLAIN),
        (["nb", "--fdpass", "22"], "unix:/e.sock", PLAIN._replace(is_passed=True)),
        (["nb", "22"], "127.0.0.1:3128", PLAIN._replace(entry=Endpoint("127.0.0.1", 3128))),
        (["nb", "22"], "", None),
        (["nb", "22", "--entry"], "", None),
        (["nb", "22", "more"], "unix:/e.sock", None),
        (["nb"], "unix:/e.sock", None),
        (["nb", "22", "--help"], "unix:/e.sock", None),
        (["--", "nb", "22"], "unix:/e.sock", None),
        (["nb", "22", "--config", "x"], "unix:/e.sock", None),
        (["n b", "22"], "unix:/e.sock", None),
        (["nb", "22"], "unix:", None),
    ],
)
def test_only_plain_arguments_are_read_without_click(
    words: list[str], where: str, order: Order | None
) -> None:
    """`proxy.cli.connect` handles all other arguments."""
    assert read(words, where) == order
