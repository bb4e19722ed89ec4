"""The parsers of the proxy entry on any bytes, cut into any pieces.

The result must be "more bytes needed" with at most `MOST` bytes kept, a reply, or one final result, which
must not depend on how the bytes were cut.
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy.entries.heads import Asked, Head, Login, Rejected, Reply, Step, begin
from proxy.entries.heads.head import LONGEST_HOST, MOST
from proxy.entries.heads.http_connect import HttpConnect
from proxy.entries.heads.socks5 import Socks5
from proxy.errors.reasons import Reason
from tests.fuzz.choices import Choices

STARTS = (
    b"",
    b"CONNECT ",
    b"CONNECT node-a:22 HTTP/1.1\r\n",
    b"CONNECT [fd00::1]:22 HTTP/1.0\r\nProxy-Authorization: Basic ",
    b"\x05\x01\x00\x05\x01\x00",
    b"\x05\x01\x02\x01",
    b"\x05\x01\x02\x01\x01u\x01p\x05\x01\x00\x03",
)
"""Byte strings that help the fuzzer; it would find them itself, but later."""


def run(data: bytes) -> None:
    """Run one input. Raises if a rule is broken."""
    choices = Choices(data)
    needs_user = choices.flag()
    start = STARTS[choices.below(len(STARTS))]
    largest = 1 + choices.size(MOST)
    stream = start + (b"x" * (MOST + choices.below(64)) if choices.flag() else b"") + choices.rest()
    if stream:
        pieces = [stream[first : first + largest] for first in range(0, len(stream), largest)]
        assert told(pieces, needs_user=needs_user) == told([stream], needs_user=needs_user)


def told(pieces: Iterable[bytes], *, needs_user: bool) -> list[Step]:
    """All results for a stream. A login counts as right if its user is longer than its password.

    Bytes that were not fed yet when the head ended are added to `early`.
    """
    said, head = list[Step](), None
    rest = iter(pieces)
    for piece in rest:
        head = head or begin(piece[0], needs_user=needs_user)
        step = head.feed(piece)
        while isinstance(step, Reply | Login):
            said.append(step)
            step = head.feed(b"") if isinstance(step, Reply) else head.login(is_known=_is_right(step))
        if isinstance(step, Asked):
            step = step._replace(early=step.early + b"".join(rest))
        if step:
            _check(head, step)
            return [*said, step]
        assert _kept(head) <= MOST
    assert head
    _check(head, Rejected(Reason.HEAD_TIMEOUT, "", head.refused(Reason.HEAD_TIMEOUT)))
    return said


def _is_right(step: Login) -> bool:
    return len(step.credentials.user) > len(step.credentials.password)


def _kept(head: Head) -> int:
    assert isinstance(head, HttpConnect | Socks5)
    return len(head._held)


def _check(head: Head, end: Step) -> None:
    if isinstance(end, Asked):
        assert 0 < end.target.port <= 65535
        assert 0 < len(end.target.host) <= LONGEST_HOST
        assert end.target.host.isascii()
        assert end.target.host.isprintable()
        return
    assert isinstance(end, Rejected)
    assert end.message.isprintable()
    assert _kept(head) <= MOST
    if isinstance(head, HttpConnect):
        status, _, body = end.answer.partition(b"\r\n")
        assert status.startswith(b"HTTP/1.1 4")
        assert status.decode("ascii").isprintable()
        assert len(status) <= 200
        assert body
    else:
        assert end.answer[:2] in (b"\x05\xff", b"\x01\x01", b"\x00\x5b") or len(end.answer) == 10
