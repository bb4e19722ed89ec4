"""CONNECT requests of real clients, requests that are refused, and the answers."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.entries.heads import Asked, Credentials, Login, Rejected, Step, begin
from proxy.entries.heads.head import MOST
from proxy.entries.heads.http_connect import HttpConnect
from proxy.errors.reasons import Reason
from proxy.runtime.endpoint import Endpoint

NODE = Endpoint("node-a", 22)
EU = Endpoint("prod-eu", 6443)
CURL = b"User-Agent: curl/7.88.1\r\nProxy-Connection: Keep-Alive\r\n\r\n"

RECORDED = {
    "nc, corkscrew, ncat, connect-proxy": (b"CONNECT node-a:22 HTTP/1.0\r\n\r\n", NODE),
    "nc, an IPv6 address": (b"CONNECT [fd00::1]:22 HTTP/1.0\r\n\r\n", Endpoint("fd00::1", 22)),
    "socat": (b"CONNECT node-a:22 HTTP/1.0\r\nProxy-authorization: Basic dTpw\r\n\r\n", NODE),
    "curl": (b"CONNECT prod-eu:6443 HTTP/1.1\r\nHost: prod-eu:6443\r\n" + CURL, EU),
    "curl, an IPv6 address": (
        b"CONNECT [fd00::1]:80 HTTP/1.1\r\nHost: [fd00::1]:80\r\n" + CURL,
        Endpoint("fd00::1", 80),
    ),
    "kubectl": (
        b"CONNECT prod-eu:6443 HTTP/1.1\r\nHost: prod-eu:6443\r\nUser-Agent: Go-http-client/1.1\r\n"
        b"Proxy-Authorization: Basic dTpw\r\n\r\n",
        EU,
    ),
    "kube-apiserver": (
        b"CONNECT node-a:10250 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        Endpoint("node-a", 10250),
    ),
}
"""By client: a recorded request, and its target."""


def fed(data: bytes, *, needs_user: bool = False, piece: int = 1 << 20) -> Step:
    head = begin(data[0], needs_user=needs_user)
    for start in range(0, len(data), piece):
        if step := head.feed(data[start : start + piece]):
            return step
    return None


def connect(asked: bytes = b"node-a:22", *fields: bytes, version: bytes = b"1.1") -> bytes:
    lines = (b"CONNECT %b HTTP/%b" % (asked, version), *fields, b"", b"")
    return b"\r\n".join(lines)


def rejected(data: bytes, *, needs_user: bool = False) -> Rejected:
    """The refusal, which must be the same if the bytes arrive at once or one by one."""
    steps = [fed(data, needs_user=needs_user, piece=piece) for piece in (1, 1 << 20)]
    assert isinstance(steps[0], Rejected)
    assert steps[0] == steps[1]
    return steps[0]


@pytest.mark.parametrize("early", [b"", b"SSH-2.0-x\r\n", b"\r\n\r\n", bytes(70_000)])
@pytest.mark.parametrize("client", RECORDED)
def test_recorded_requests_of_clients_are_parsed(client: str, early: bytes) -> None:
    head, asked = RECORDED[client]
    assert fed(head + early) == Asked(asked, early)
    assert fed(head, piece=1) == Asked(asked, b"")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("fields", [(), (b"Host: elsewhere:1",), (b"Host:",), (b"Content-Length: 0",)])
def test_the_host_field_is_neither_needed_nor_used(fields: tuple[bytes, ...], version: bytes) -> None:
    assert fed(connect(b"node-a:22", *fields, version=version)) == Asked(NODE, b"")


def test_a_line_may_end_with_a_bare_lf() -> None:
    """A bare LF ends a line (RFC 9112 2.2)."""
    assert fed(b"CONNECT node-a:22 HTTP/1.0\n\nearly") == Asked(NODE, b"early")
    assert fed(b"CONNECT node-a:22 HTTP/1.0\nHost: x\n\r\nearly") == Asked(NODE, b"early")


@pytest.mark.parametrize(
    ("asked", "endpoint"),
    [
        (b"NODE-A.example.:22", Endpoint("NODE-A.example.", 22)),
        (b"my_host:65535", Endpoint("my_host", 65535)),
        (b"10.0.0.10:00443", Endpoint("10.0.0.10", 443)),
        (b"[FD00:0::0001]:443", Endpoint("fd00::1", 443)),
        (b"[::ffff:10.0.0.1]:443", Endpoint("::ffff:a00:1", 443)),
        (b"x" * 255 + b":1", Endpoint("x" * 255, 1)),
    ],
)
def test_an_address_is_written_in_one_way(asked: bytes, endpoint: Endpoint) -> None:
    """RFC 5952: rules compare text."""
    assert fed(connect(asked)) == Asked(endpoint, b"")


@pytest.mark.parametrize(
    "asked",
    [
        b"node-a",
        b"node-a:",
        b"node-a:0",
        b"node-a:65536",
        b"node-a:-1",
        b"node-a:+1",
        b"node-a:1e3",
        b"node-a:22:22",
        b":22",
        b"[]:22",
        b"fd00::1:22",
        b"[fd00::1]",
        b"[fd00::1]22",
        b"[node-a]:22",
        b"[fe80::1%eth0]:22",
        b"[fe80::1%25eth0]:22",
        b"node%2da:22",
        b"root@node-a:22",
        b"root:secret@node-a:22",
        b"x" * 256 + b":22",
        b"/",
        b"*",
        b"https://node-a:22",
        b"https://node-a/?secret=1",
        b"node-a:22/x",
        b"node-a/x:22",
        b"node-a:22#x",
        b"-node:22",
        b"node\xc3\xa4:22",
        b"node a:22",
        b"node\0a:22",
        b"node\ta:22",
        b"node\ra:22",
        b"node\x7fa:22",
        b"",
    ],
)
def test_a_target_that_is_no_host_and_port_is_a_bad_request(asked: bytes) -> None:
    no = rejected(connect(asked))
    assert no.reason is Reason.BAD_REQUEST
    assert no.answer.startswith(b"HTTP/1.1 400 kubemux: bad_request (")
    assert b"secret" not in no.answer


@pytest.mark.parametrize(
    "field",
    [
        b"Host : node-a",
        b" Host: node-a",
        b"Host: node-a\r\n folded",
        b"Host: node\0a",
        b"Host: node\ra",
        b"Host: node\x1ba",
        b"no colon",
        b": no name",
        b"Host: a\r\nhost: b",
        b"Proxy-Authorization: Basic dTpw\r\nProxy-Authorization: Basic dTpw",
        b"Content-Length: 5",
        b"Content-Length: 0\r\nContent-Length: 5",
        b"Transfer-Encoding: chunked",
    ],
)
def test_fields_that_are_broken_or_ambiguous_are_refused(field: bytes) -> None:
    assert rejected(connect(b"node-a:22", field)).reason is Reason.BAD_REQUEST


@pytest.mark.parametrize(
    "line",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"CONNECT node-a:22\r\n",
        b"CONNECT node-a:22 HTTP/1.1 \r\n",
        b"CONNECT  node-a:22 HTTP/1.1\r\n",
        b"CONNECT node-a:22 http/1.1\r\n",
        b"CONNECT\tnode-a:22 HTTP/1.1\r\n",
        b"\r\n",
        b"\n",
        b"\0\n",
    ],
)
def test_a_bad_request_line_is_answered_at_once(line: bytes) -> None:
    no = rejected(line)
    assert no.reason is Reason.BAD_REQUEST
    assert b"CONNECT HOST:PORT HTTP/1.1" in no.answer


def test_tls_is_recognised_at_its_first_byte() -> None:
    """Go's client then reports that an HTTP server has answered; others report that the answer
    was not TLS.
    """
    no = rejected(b"\x16\x03\x01\x05\xba\x01\x00\x05\xb6\x03\x03")
    assert no.reason is Reason.BAD_REQUEST
    assert no.answer.startswith(b"HTTP/1.1 400 ")
    assert b"without TLS: a proxy-url begins with http://" in no.answer


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"GET http://prod-eu/x HTTP/1.1", b"curl takes --proxytunnel"),
        (b"POST http://prod-eu/x HTTP/1.0", b"curl takes --proxytunnel"),
        (b"GET /x HTTP/1.1", b"kubectl takes it as proxy-url"),
        (b"OPTIONS * HTTP/1.1", b"kubectl takes it as proxy-url"),
        (b"connect node-a:22 HTTP/1.1", b"kubectl takes it as proxy-url"),
    ],
)
def test_other_methods_get_a_message(line: bytes, words: bytes) -> None:
    no = rejected(line + b"\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
    assert no.reason is Reason.UNSUPPORTED
    status, *fields = no.answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert status.startswith(b"HTTP/1.1 405 kubemux: unsupported (")
    assert b"CONNECT and SOCKS5" in status
    assert words in status
    assert b"Allow: CONNECT" in fields


# ---------------------------------------------------------------------------------------------- the longest


def padded(size: int) -> bytes:
    head = connect(b"node-a:22", b"X: ")
    return head[:-4] + b"y" * (size - len(head)) + head[-4:]


@pytest.mark.parametrize("piece", [1, 1000, MOST, 1 << 20])
def test_a_head_above_the_longest_is_refused(piece: int) -> None:
    assert fed(padded(MOST), piece=piece) == Asked(NODE, b"")
    for longer in (padded(MOST + 1), b"CONNECT " + b"x" * MOST, b"x" * (MOST + 1), padded(1 << 20)):
        step = fed(longer, piece=piece)
        assert isinstance(step, Rejected)
        assert step.message == f"a head of more than {MOST} bytes"
    assert fed(b"x" * MOST, piece=piece) is None


# ---------------------------------------------------------------------------------------------- users


def basic(given: bytes) -> bytes:
    return b"Proxy-Authorization: Basic " + base64.b64encode(given)


@pytest.mark.parametrize(
    ("field", "user", "password"),
    [
        (basic(b"u:p"), "u", "p"),
        (b"proxy-authorization:bAsIc   dTpw  ", "u", "p"),
        (basic(b"u:p:q"), "u", "p:q"),
        (basic(b"u:"), "u", ""),
        (basic("jürgen:größe".encode()), "jürgen", "größe"),
    ],
)
def test_a_login_is_checked_before_the_answer(field: bytes, user: str, password: str) -> None:
    for is_known in (True, False):
        head = HttpConnect(needs_user=True)
        assert head.feed(connect(b"node-a:22", field) + b"early") == Login(Credentials(user, password))
        step = head.login(is_known=is_known)
        if is_known:
            assert step == Asked(NODE, b"early")
        else:
            assert isinstance(step, Rejected)
            assert step.reason is Reason.AUTH_REQUIRED
            assert step.answer.startswith(b"HTTP/1.1 407 kubemux: auth_required (wrong user or password)\r\n")
    assert fed(connect(b"node-a:22", field)) == Asked(NODE, b"")


@pytest.mark.parametrize(
    "field",
    [
        b"Host: no-authorization",
        b"Proxy-Authorization:",
        b"Proxy-Authorization: Basic",
        b"Proxy-Authorization: Bearer dTpw",
        b"Proxy-Authorization: Basic dT=pw",
        b"Proxy-Authorization: Basic d*Tpw",
        b"Proxy-Authorization: Basic dT pw",
        basic(b"no colon"),
        basic(b":p"),
        basic(b""),
        basic(b"u:\xff"),
        basic(b"u\0:p"),
        basic(b"u:p\n"),
        basic(b"u:p\x7f"),
    ],
)
def test_without_usable_credentials_a_login_is_asked_for(field: bytes) -> None:
    """RFC 9110 15.5.8: if credentials are missing, or cannot be used."""
    no = rejected(connect(b"node-a:22", field), needs_user=True)
    assert no.reason is Reason.AUTH_REQUIRED
    assert b'\r\nProxy-Authenticate: Basic realm="kubemux"\r\n' in no.answer


def test_a_password_is_not_shown() -> None:
    assert repr(Login(Credentials("ci", "secret"))) == "Login(credentials=Credentials(user='ci'))"


# ---------------------------------------------------------------------------------------------- answers


def test_the_answers_have_exactly_these_bytes() -> None:
    head = HttpConnect(needs_user=False)
    assert head.accepted() == b"HTTP/1.1 200 Connection established\r\n\r\n"
    assert head.refused(Reason.DENIED, "uid 1002 is not in allow", subject="prod-eu") == (
        b"HTTP/1.1 403 kubemux: prod-eu: denied (uid 1002 is not in allow)\r\n"
        b"Content-Type: text/plain\r\nContent-Length: 52\r\nConnection: close\r\n\r\n"
        b"kubemux: prod-eu: denied (uid 1002 is not in allow)\n"
    )
    assert head.refused(Reason.LIMIT).startswith(b"HTTP/1.1 503 kubemux: limit\r\n")


@given(st.sampled_from(Reason), st.text(max_size=300), st.text(max_size=300))
def test_any_answer_is_one_line_that_a_person_can_read(reason: Reason, message: str, subject: str) -> None:
    answer = HttpConnect(needs_user=False).refused(reason, message, subject=subject)
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode("ascii").split("\r\n")
    assert status.isprintable()
    assert len(status) <= 200
    assert f"Content-Length: {len(body)}" in fields
    assert "Connection: close" in fields
    assert body.decode("ascii") == status.split(" ", 2)[2] + "\n"
    assert status.split(" ", 2)[2].startswith("kubemux: ")
    assert reason in status
