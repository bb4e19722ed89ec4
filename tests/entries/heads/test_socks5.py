"""SOCKS5 messages of real clients, messages that are refused, and the replies."""

from __future__ import annotations

import pytest

from proxy.entries.heads import Asked, Credentials, Head, Login, Rejected, Reply, Step, begin
from proxy.errors.reasons import Reason
from proxy.runtime.endpoint import Endpoint

NODE = b"\x05\x01\x00\x03\x06node-a\x00\x16"
EU = b"\x05\x01\x00\x03\x07prod-eu\x19\x2b"
LOGIN = b"\x01\x01u\x01p"
NO_LOGIN, PASSWORD = Reply(b"\x05\x00"), Reply(b"\x05\x02")
LOGGED_IN = Reply(b"\x01\x00")
USER = Login(Credentials("u", "p"))

RECORDED = {
    "kubectl, nc": ((b"\x05\x01\x00", NODE), Endpoint("node-a", 22)),
    "ncat, connect-proxy, kubectl with a user": ((b"\x05\x02\x00\x02", NODE), Endpoint("node-a", 22)),
    "curl": ((b"\x05\x02\x00\x01", EU), Endpoint("prod-eu", 6443)),
    "curl with a user": ((b"\x05\x03\x00\x01\x02", EU), Endpoint("prod-eu", 6443)),
    "curl, an IPv6 address": (
        (b"\x05\x02\x00\x01", b"\x05\x01\x00\x04\xfd" + bytes(14) + b"\x01\x19\x2b"),
        Endpoint("fd00::1", 6443),
    ),
    "curl, an IPv4 address": (
        (b"\x05\x02\x00\x01", b"\x05\x01\x00\x01\x0a\x00\x00\x0a\x19\x2b"),
        Endpoint("10.0.0.10", 6443),
    ),
}
"""By client: its recorded messages, and its target."""


def steps(data: bytes, *, needs_user: bool = False, piece: int = 1 << 20) -> list[Step]:
    """All steps for `data`; every login is accepted."""
    head, said = begin(data[0], needs_user=needs_user), list[Step]()
    for start in range(0, len(data), piece):
        step = head.feed(data[start : start + piece])
        while isinstance(step, Reply | Login):
            said.append(step)
            step = head.login(is_known=True) if isinstance(step, Login) else head.feed(b"")
        if step:
            return [*said, step]
    return said


def rejected(data: bytes, *, needs_user: bool = False) -> Rejected:
    """The refusal, which must be the same if the bytes arrive at once or one by one."""
    ends = [steps(data, needs_user=needs_user, piece=piece)[-1] for piece in (1, 1 << 20)]
    assert isinstance(ends[0], Rejected)
    assert ends[0] == ends[1]
    return ends[0]


@pytest.mark.parametrize("client", RECORDED)
def test_recorded_messages_of_clients_are_parsed(client: str) -> None:
    (methods, request), asked = RECORDED[client]
    whole = methods + request
    assert steps(whole + b"early") == [NO_LOGIN, Asked(asked, b"early")]
    assert steps(whole, piece=1) == [NO_LOGIN, Asked(asked, b"")]
    if 2 in methods[2:]:
        whole = methods + LOGIN + request
        assert steps(whole + b"early", needs_user=True) == [PASSWORD, USER, LOGGED_IN, Asked(asked, b"early")]
        assert steps(whole, needs_user=True, piece=1) == [PASSWORD, USER, LOGGED_IN, Asked(asked, b"")]


@pytest.mark.parametrize("client", RECORDED)
def test_a_message_is_answered_before_the_next_one_comes(client: str) -> None:
    (methods, request), asked = RECORDED[client]
    head = begin(5, needs_user=False)
    assert head.feed(methods) == NO_LOGIN
    assert head.feed(b"") is None
    assert head.feed(request) == Asked(asked, b"")
    assert head.accepted() == b"\x05\x00\x00\x01" + bytes(6)


@pytest.mark.parametrize(
    ("methods", "needs_user", "reason"),
    [
        (b"", False, Reason.BAD_REQUEST),
        (b"\x01\x02", False, Reason.BAD_REQUEST),
        (b"", True, Reason.AUTH_REQUIRED),
        (b"\x00\x01", True, Reason.AUTH_REQUIRED),
    ],
)
def test_a_client_without_an_acceptable_method_is_refused(
    methods: bytes, reason: Reason, *, needs_user: bool
) -> None:
    no = rejected(bytes((5, len(methods))) + methods, needs_user=needs_user)
    assert (no.reason, no.answer) == (reason, b"\x05\xff")


def login(user: bytes, password: bytes) -> bytes:
    return b"".join((b"\x01", bytes((len(user),)), user, bytes((len(password),)), password))


@pytest.mark.parametrize(("user", "password"), [("u" * 255, "p" * 255), ("ü", "ö"), ("u", ""), ("u:v", ":")])
def test_a_login_is_parsed(user: str, password: str) -> None:
    sent = b"\x05\x01\x02" + login(user.encode()[:255], password.encode()[:255]) + NODE
    assert Login(Credentials(user, password)) in steps(sent, needs_user=True, piece=1)


def test_a_wrong_password_is_refused() -> None:
    head = begin(5, needs_user=True)
    assert head.feed(b"\x05\x01\x02") == PASSWORD
    assert head.feed(LOGIN) == USER
    no = head.login(is_known=False)
    assert isinstance(no, Rejected)
    assert (no.reason, no.answer) == (Reason.AUTH_REQUIRED, b"\x01\x01")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\x05\x01u\x01p", Reason.BAD_REQUEST),
        (b"\x01\x00\x00", Reason.AUTH_REQUIRED),
        (login(b"", b"p"), Reason.AUTH_REQUIRED),
        (login(b"\xff", b"p"), Reason.AUTH_REQUIRED),
        (login(b"u", b"\xff"), Reason.AUTH_REQUIRED),
    ],
)
def test_a_malformed_login_is_refused(message: bytes, reason: Reason) -> None:
    no = rejected(b"\x05\x01\x02" + message, needs_user=True)
    assert (no.reason, no.answer) == (reason, b"\x01\x01")


def request(kind: int, address: bytes, port: int = 22, command: int = 1) -> bytes:
    return b"".join((b"\x05", bytes((command, 0, kind)), address, port.to_bytes(2)))


def name(text: bytes) -> bytes:
    return bytes((len(text),)) + text


@pytest.mark.parametrize(
    ("message", "asked"),
    [
        (request(3, name(b"x" * 255)), Endpoint("x" * 255, 22)),
        (request(3, name(b"NODE-A."), 65535), Endpoint("NODE-A.", 65535)),
        (request(3, name(b"10.0.0.1")), Endpoint("10.0.0.1", 22)),
        (request(3, name(b"FD00:0::1")), Endpoint("fd00::1", 22)),
        (request(1, bytes(4)), Endpoint("0.0.0.0", 22)),  # noqa: S104  asked for, not bound
        (request(4, bytes(16)), Endpoint("::", 22)),
        (b"\x05\x01\xff" + request(3, name(b"node-a"))[3:], Endpoint("node-a", 22)),
    ],
)
def test_valid_targets_are_parsed(message: bytes, asked: Endpoint) -> None:
    assert steps(b"\x05\x01\x00" + message)[-1] == Asked(asked, b"")


@pytest.mark.parametrize(
    ("message", "reason", "reply"),
    [
        (request(3, name(b"node-a"), command=2), Reason.UNSUPPORTED, 7),
        (request(1, bytes(4), command=3), Reason.UNSUPPORTED, 7),
        (request(3, name(b"node-a"), command=0), Reason.UNSUPPORTED, 7),
        (request(0, bytes(4)), Reason.BAD_REQUEST, 8),
        (request(2, bytes(4)), Reason.BAD_REQUEST, 8),
        (request(255, bytes(4)), Reason.BAD_REQUEST, 8),
        (request(3, name(b"")), Reason.BAD_REQUEST, 1),
        (request(3, name(b"node-a"), port=0), Reason.BAD_REQUEST, 1),
        (request(1, bytes(4), port=0), Reason.BAD_REQUEST, 1),
        (request(4, bytes(16), port=0), Reason.BAD_REQUEST, 1),
        (request(3, name(b"node a")), Reason.BAD_REQUEST, 1),
        (request(3, name(b"node\0a")), Reason.BAD_REQUEST, 1),
        (request(3, name(b"node\r\na")), Reason.BAD_REQUEST, 1),
        (request(3, name(b"node\xff")), Reason.BAD_REQUEST, 1),
        (request(3, name(b"n\xc3\xb6de")), Reason.BAD_REQUEST, 1),
        (request(3, name(b"root@node-a")), Reason.BAD_REQUEST, 1),
        (request(3, name(b"fe80::1%eth0")), Reason.BAD_REQUEST, 1),
        (request(3, name(b"[fd00::1]")), Reason.BAD_REQUEST, 1),
        (request(3, name(b":\x1b[2J")), Reason.BAD_REQUEST, 1),
        (request(3, name(b"node-a:22")), Reason.BAD_REQUEST, 1),
        (b"\x04" + NODE[1:], Reason.BAD_REQUEST, 1),
        (b"CONNECT node-a:22 HTTP/1.1\r\n\r\n", Reason.BAD_REQUEST, 1),
    ],
)
def test_invalid_targets_are_refused(message: bytes, reason: Reason, reply: int) -> None:
    no = rejected(b"\x05\x01\x00" + message)
    assert (no.reason, no.answer) == (reason, b"\x05" + bytes((reply,)) + b"\x00\x01" + bytes(6))
    assert no.message.isprintable()


@pytest.mark.parametrize(
    "sent", [b"\x04\x01\x00\x16\x7f\x00\x00\x01\x00", b"\x04\x01\x19\x2b\0\0\0\x01\0prod-eu\0"]
)
def test_socks4_is_refused_by_a_reply_of_its_own(sent: bytes) -> None:
    no = rejected(sent)
    assert (no.reason, no.answer) == (Reason.UNSUPPORTED, b"\x00\x5b" + bytes(6))


def at(*messages: bytes, needs_user: bool) -> Head:
    """A parser that has got these messages, and waits for the next one."""
    head = begin(5, needs_user=needs_user)
    for message in messages:
        step = head.feed(message)
        if isinstance(step, Login):
            head.login(is_known=True)
    return head


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (at(needs_user=False), b"\x05\xff"),
        (at(b"\x05\x02\x00", needs_user=False), b"\x05\xff"),
        (at(b"\x05\x01\x02", needs_user=True), b"\x01\x01"),
        (at(b"\x05\x01\x02", LOGIN, needs_user=True), b"\x05\x06\x00\x01" + bytes(6)),
        (at(b"\x05\x01\x00", needs_user=False), b"\x05\x06\x00\x01" + bytes(6)),
        (at(b"\x05\x01\x00", NODE, needs_user=False), b"\x05\x06\x00\x01" + bytes(6)),
    ],
)
def test_a_refusal_is_in_the_clients_protocol(head: Head, answer: bytes) -> None:
    assert head.refused(Reason.TIMEOUT, "words", subject="words") == answer
