"""Requests to an entry and its answers. Every byte after the answer must stay in the socket."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from proxy.connect.asking import NotConnected, entry, target, through
from proxy.runtime.endpoint import Endpoint, UnixPath
from tests.connect.scripted import ACCEPTED, Entry

BANNER = b"SSH-2.0-OpenSSH_9.2\r\n"
LONG = ".".join(["a" * 63] * 4)
"""255 bytes."""
NB = Endpoint("nb", 22)


def asked(scripted: Entry, answer: bytes, *, size: int = 1 << 16, what: Endpoint = NB) -> tuple[bytes, bytes]:
    """Run `through`. Returns what the entry got, and the bytes that are still in the socket afterwards.

    The answer arrives in pieces of `size` bytes.
    """
    got: list[bytes] = []

    def serve() -> None:
        sock, head = scripted.accept()
        got.append(head)
        with sock:
            for start in range(0, len(answer), size):
                sock.sendall(answer[start : start + size])

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        with through(entry(scripted.listen), what) as sock:
            assert sock.gettimeout() is None
            rest = b""
            while data := sock.recv(1 << 16):
                rest += data
    finally:
        serving.join()
    return got[0], rest


@pytest.mark.parametrize("size", [1, 3, 38, 39, 40, 1 << 16])
@pytest.mark.parametrize("head", [ACCEPTED, b"HTTP/1.0 200 OK\r\nVia: 1.1 other\r\n\r\n"])
def test_bytes_of_the_target_stay_in_the_socket(scripted: Entry, head: bytes, size: int) -> None:
    said = BANNER + b"\r\n\r\n" + bytes(100)
    assert asked(scripted, head + said, size=size)[1] == said


@pytest.mark.parametrize(
    ("host", "line"),
    [
        ("nb-0.team-a", b"nb-0.team-a:22"),
        ("10.0.0.7", b"10.0.0.7:22"),
        ("fd00::7", b"[fd00::7]:22"),
        ("[fd00::7]", b"[fd00::7]:22"),
        (LONG, LONG.encode() + b":22"),
    ],
)
def test_the_request_has_the_host_on_one_line(scripted: Entry, host: str, line: bytes) -> None:
    head, _ = asked(scripted, ACCEPTED, what=target(host, "22"))
    assert head == b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (line, line)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("nb 0", "22"),
        ("nb\r\nHost: other", "22"),
        ("nb\x00", "22"),
        ("nb\u00e9", "22"),
        ("user@nb", "22"),
        ("arn:aws", "22"),
        ("", "22"),
        ("nb", "ssh"),
        ("nb", "0"),
        ("nb", "65536"),
        ("nb", "22 HTTP/1.1"),
    ],
)
def test_an_invalid_request_is_refused_before_sending(host: str, port: str) -> None:
    with pytest.raises(ValueError, match=r"expected|is not|is neither|out of range"):
        target(host, port)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (
            b"HTTP/1.1 503 kubemux: nb: link_down (edge: auth_failed)\r\nConnection: close\r\n\r\nbody\n",
            "link_down (edge: auth_failed)",
        ),
        (b"HTTP/1.1 403 kubemux: prod-eu: denied (uid 7)\r\n\r\n", "prod-eu: denied (uid 7)"),
        (b"HTTP/1.1 408 kubemux: head_timeout\r\n\r\n", "head_timeout"),
        (b"HTTP/1.0 502 Bad Gateway\r\n\r\n", "Bad Gateway"),
        (b"HTTP/1.1 502\r\n\r\n", "refused with status 502"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "Continue"),
        (b"SSH-2.0-x\r\n\r\n", "the answer is not HTTP"),
        (b"\x00\xff\r\n\r\n", "the answer is not HTTP"),
        (b"", "the entry has closed the connection without an answer"),
        (ACCEPTED[:-1], "the entry has closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + bytes(1 << 14), "the entry's answer is no head of HTTP"),
    ],
)
def test_every_other_answer_is_a_refusal(scripted: Entry, answer: bytes, why: str) -> None:
    with pytest.raises(NotConnected) as refused:
        asked(scripted, answer)
    assert str(refused.value) == why


def test_an_entry_that_is_silent_is_not_waited_for_for_ever(
    scripted: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.connect.asking.ANSWER_S", 0.05)
    with pytest.raises(NotConnected, match=r"^no answer within 0\.05 s$"):
        through(entry(scripted.listen), NB)


def test_an_entry_may_listen_on_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = entry(f"127.0.0.1:{listener.getsockname()[1]}")

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(ACCEPTED + BANNER)
                sock.recv(1 << 16)

        serving = threading.Thread(target=serve)
        serving.start()
        with through(where, NB) as sock:
            assert sock.recv(1 << 16) == BANNER
        serving.join()
    with pytest.raises(NotConnected, match=r"^entry 127\.0\.0\.1:\d+: Connection refused$"):
        through(where, NB)


def test_a_missing_socket_gets_a_message(tmp_path: Path) -> None:
    with pytest.raises(NotConnected) as missing:
        through(UnixPath(f"{tmp_path}/none.sock"), NB)
    assert str(missing.value) == f"entry unix:{tmp_path}/none.sock: No such file or directory"
    assert "is kubemux running" in missing.value.hint
    with pytest.raises(NotConnected, match="AF_UNIX path too long"):
        through(UnixPath("/" + "x" * 200), NB)


@pytest.mark.parametrize("text", ["unix:", "unix:a\0b", "proxy", ":3128", "127.0.0.1:0", ""])
def test_invalid_addresses_of_entries_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|out of range"):
        entry(text)
