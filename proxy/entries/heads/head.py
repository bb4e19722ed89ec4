"""What both protocols have in common: the steps from a client's first byte to its request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from proxy.errors.reasons import Reason
from proxy.runtime.endpoint import Endpoint

MOST: Final = 8 * 1024
"""The longest head, in bytes, like the limit of nginx and Apache for a request line."""
LONGEST_HOST: Final = 255
"""Bytes: the limit of SOCKS5 (RFC 1928 5), which is longer than that of DNS (RFC 1035 2.3.4)."""


class Reply(NamedTuple):
    """Send `data`, then call `feed(b"")`, because the client's next message may have arrived already."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and a password that are not checked yet."""

    user: str
    password: str = field(repr=False)


class Login(NamedTuple):
    """Check these credentials, and call `login` with the result. Do not call `feed` before that."""

    credentials: Credentials


class Asked(NamedTuple):
    """The client asks for `target`; `early` are bytes that it has already sent for the target.

    The answer is `accepted` or `refused`.
    """

    target: Endpoint
    early: bytes


class Rejected(NamedTuple):
    """The request is not valid: send `answer`, and close the connection."""

    reason: Reason
    message: str
    answer: bytes


Step = Reply | Login | Asked | Rejected | None
"""None: more bytes are needed. After `Asked` and `Rejected`, do not call `feed` again."""


class Head(ABC):
    """The parser of one client's head, and the answers to it. No input of a client makes a method raise."""

    @abstractmethod
    def feed(self, data: bytes) -> Step:
        """Parse bytes of the client. It keeps at most `MOST` bytes of an incomplete head."""

    @abstractmethod
    def login(self, *, is_known: bool) -> Step:
        """Continue after `Login`."""

    @abstractmethod
    def accepted(self) -> bytes:
        """The answer to `Asked` when the target is connected; after it, bytes are relayed in both
        directions.
        """

    @abstractmethod
    def refused(self, reason: Reason, message: str = "", *, subject: str = "") -> bytes:
        """The last answer, for a client that is refused at any step.

        `subject` is what the reason is about: a cluster, a route, or what was asked for.
        """


def target(text: str) -> Endpoint:
    """Parse a requested target, `HOST:PORT` or `[IPV6]:PORT`.

    Raises ValueError, which says what is wrong. The message does not quote what may contain a secret: a
    password before an `@`, or a token after a `?`. A `%` is refused, too: it begins the zone of an address,
    or an escaped character.
    """
    if not (text.isascii() and text.isprintable()):
        raise ValueError("a name with other characters than ASCII letters, digits, '.', '-' and '_'")
    for sign in "@?%":
        if sign in text:
            raise ValueError(f"expected HOST:PORT or [IPV6]:PORT, without {sign!r}")
    host, port = Endpoint.parse(text)
    if len(host) > LONGEST_HOST:
        raise ValueError(f"a name of {len(host)} bytes: {LONGEST_HOST} are the most")
    return Endpoint(str(IPv6Address(host)) if ":" in host else host, port)
