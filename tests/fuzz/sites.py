"""Any bytes from a site: the answers of its SOCKS5 server, cut into any pieces, and its requests for
forwards.

The result for an answer is "more bytes needed" (and few bytes are kept), an error, or the first bytes of the
target. There are never more forwards than allowed. No forward has another site's name. A refusal can be
printed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from proxy.errors import ChannelError, ForwardRefused
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.sites.forwards import Forwards
from proxy.ssh.sites.socks5 import ConnectReply
from tests.fuzz.choices import Choices

STARTS: Final = (
    b"",
    b"\5\0",
    b"\5\0\5\0\0\1",
    b"\5\0\5\0\0\4",
    b"\5\0\5\0\0\3",
    b"\5\0\5\5",
)
LONGEST: Final = 2 + 4 + 1 + 255 + 2
"""Bytes of the longest answer: methods, then a reply with a name (RFC 1928 6)."""
TARGET: Final = Endpoint("node-a", 22)
SITE: Final = "factory-7"
TAKEN: Final = "mine-3"
NAMES: Final = (
    SITE,
    SITE,
    TAKEN,
    "kube",
    "10.0.0.1",
    "fd00::1",
    "Kube",
    "localhost",
    "*",
    "",
    "a_b",
    "node.",
)
MOST: Final = 3
LONGEST_WORDS: Final = 500


def run(data: bytes) -> None:
    """Run one input. Raises if a rule is broken."""
    choices = Choices(data)
    if choices.flag():
        ask_for_forwards(choices)
        return
    start = STARTS[choices.below(len(STARTS))]
    largest = 1 + choices.size(LONGEST)
    stream = start + choices.rest()
    if stream:
        pieces = [stream[first : first + largest] for first in range(0, len(stream), largest)]
        assert told(pieces) == told([stream])


def told(pieces: Iterable[bytes]) -> str | bytes:
    """The result for a stream: the target's bytes, or the name of the error."""
    answer, rest = ConnectReply(f"site {SITE}", TARGET), iter(pieces)
    for piece in rest:
        try:
            unread = answer.feed(piece)
        except ChannelError as exc:
            check(exc)
            return type(exc).__name__
        if unread is not None:
            return unread + b"".join(rest)
        assert len(answer._held) < LONGEST
    check(answer.closed())
    return "more"


def check(error: Exception) -> None:
    """Check that a message is short and can be printed."""
    assert str(error).isprintable()
    assert len(str(error)) <= LONGEST_WORDS


def ask_for_forwards(choices: Choices) -> None:
    """Make any requests in any order, and compare the forwards with a model."""
    forwards = Forwards(SITE, most=MOST, is_taken=lambda name: name == TAKEN)
    known = set[Endpoint]()
    while not choices.is_over:
        name = NAMES[choices.below(len(NAMES))]
        if choices.flag():
            name = choices.content(choices.size(300)).decode("utf-8", "replace")
        one = Endpoint(name, choices.below(3) if choices.flag() else choices.uint32())
        if choices.flag():
            assert forwards.cancel(*one) == (one in known)
            known.discard(one)
            continue
        try:
            known.add(forwards.register(*one, may_listen=not choices.flag()))
        except ForwardRefused as exc:
            check(exc)
        assert set(forwards) == known
        assert len(forwards) == len(known) <= MOST
        assert all(0 < forward.port <= 65535 for forward in known)
        assert TAKEN not in {forward.host for forward in known}
        assert sum(forward.host == SITE for forward in known) <= 1
        assert forwards.can_reach(TARGET) == (forwards.dynamic is not None or TARGET in known)
