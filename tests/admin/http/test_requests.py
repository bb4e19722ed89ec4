"""Request heads in any pieces: which are refused, and which are normalised."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin.http.answers import refusal
from proxy.admin.http.requests import MAX_FIELDS, MAX_HEAD, Requests

GET = b"GET /status HTTP/1.1\r\nHost: localhost\r\n"


def parsed(data: bytes, *, piece: int = 1 << 20) -> h11.Request:
    """Parse the request at the start of `data`, which arrives in pieces."""
    requests = Requests()
    for start in range(0, len(data), piece):
        requests.receive_data(data[start : start + piece])
        event = requests.next_event()
        if isinstance(event, h11.Request):
            return event
    raise AssertionError("no request")


@pytest.mark.parametrize("piece", [1, 7, 4096, 1 << 20])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (b"X: " + b"y" * (64 << 10) + b"\r\n", 431),
        (b"X: " + b"y" * MAX_HEAD + b"\r\n", 431),
        (b"X: y\r\n" * MAX_FIELDS, 431),
        (b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Host: localhost\r\n", 400),
    ],
)
def test_a_too_large_request_is_refused_in_any_pieces(fields: bytes, status: int, piece: int) -> None:
    """One read may have more bytes than a head is allowed to have."""
    with pytest.raises(h11.RemoteProtocolError) as refused:
        parsed(GET + fields + b"\r\n", piece=piece)
    assert refused.value.error_status_hint == status


def test_a_long_target_is_refused() -> None:
    with pytest.raises(h11.RemoteProtocolError) as refused:
        parsed(GET.replace(b"/status", b"/" + b"x" * MAX_HEAD) + b"\r\n")
    assert refused.value.error_status_hint == 431


@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_a_request_with_as_many_fields_as_are_allowed_is_accepted(piece: int) -> None:
    fields = b"X: y\r\n" * (MAX_FIELDS - 2) + b"Z: " + b"z" * 8000 + b"\r\n"
    assert len(parsed(GET + fields + b"\r\n", piece=piece).headers) == MAX_FIELDS


@pytest.mark.parametrize(
    ("target", "host", "rest"),
    [
        (b"http://other:1/status?a", b"other:1", b"/status?a"),
        (b"HTTP://other", b"other", b"/"),
        (b"*", b"localhost", b"/"),
        (b"//evil/status", b"localhost", b"//evil/status"),
    ],
)
def test_the_host_of_an_absolute_form_replaces_the_host_field(
    target: bytes, host: bytes, rest: bytes
) -> None:
    """RFC 9112 3.2.2. A target that begins with two slashes is a path."""
    request = parsed(GET.replace(b"/status", target) + b"\r\n")
    assert (dict(request.headers)[b"host"], request.target) == (host, rest)


@pytest.mark.parametrize(
    "target", [b"status", b"other:443", b"http:///status", b"http:/status", b"://x/status"]
)
def test_a_target_of_an_invalid_form_is_refused(target: bytes) -> None:
    """RFC 9112 3.2; the form `other:443` is only for CONNECT."""
    with pytest.raises(h11.RemoteProtocolError, match="invalid request target") as refused:
        parsed(GET.replace(b"/status", target) + b"\r\n")
    assert refused.value.error_status_hint == 400


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_are_a_request_or_refused_or_incomplete(data: bytes) -> None:
    requests = Requests()
    requests.receive_data(data)
    event, refused = None, None
    try:
        event = requests.next_event()
    except h11.RemoteProtocolError as error:
        refused = error
    assert requests.refusal is refused
    assert refused or event is h11.NEED_DATA or isinstance(event, h11.Request)
    assert requests.is_read is (refused is None and not isinstance(event, h11.Request))


@pytest.mark.parametrize("piece", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize("line", [b"\r\n", b"\n"])
def test_an_empty_line_before_a_request_is_skipped(line: bytes, piece: int) -> None:
    """RFC 9112 2.2: a server should ignore at least one."""
    requests = Requests()
    for _ in range(2):
        data = line + GET + b"\r\n"
        events = []
        for start in range(0, len(data), piece):
            requests.receive_data(data[start : start + piece])
            events.append(requests.next_event())
        assert isinstance(events[-1], h11.Request)
        assert set(events[:-1]) <= {h11.NEED_DATA}
        assert isinstance(requests.next_event(), h11.EndOfMessage)
        requests.send(h11.Response(status_code=204, headers=[]))
        requests.send(h11.EndOfMessage())
        requests.start_next_cycle()


@pytest.mark.parametrize("start", [b"\r\n\r\n", b"\n\n", b"\r", b"\r\r\n", b" \r\n"])
def test_a_line_that_is_not_empty_is_refused(start: bytes) -> None:
    with pytest.raises(h11.RemoteProtocolError):
        parsed(start + GET + b"\r\n")


def test_an_end_of_input_after_half_an_empty_line_closes_the_connection() -> None:
    requests = Requests()
    requests.receive_data(b"\r")
    assert requests.next_event() is h11.NEED_DATA
    requests.receive_data(b"")
    assert isinstance(requests.next_event(), h11.ConnectionClosed)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET\r\n\r\n", "illegal request line: 'GET'\n"),
        (GET + b'It\'s "so") : a\r\n\r\n', "illegal header line: 'It\\'s \"so\") : a'\n"),
        (GET + b"\x1b[31m : a\r\n\r\n", "illegal header line: '\\x1b[31m : a'\n"),
        (GET + b"X" * 200 + b" : a\r\n\r\n", f"illegal header line: '{'X' * 56}...\n"),
    ],
)
def test_a_refusal_quotes_the_line_without_control_characters(data: bytes, words: str) -> None:
    with pytest.raises(h11.RemoteProtocolError) as refused:
        parsed(data)
    _, body, _ = refusal(refused.value)
    assert isinstance(body, h11.Data)
    assert body.data.decode() == words
