"""What both protocols have in common: the steps from a client's first byte to what it asks for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from proxy.errors.reasons import Reason
from proxy.runtime.endpoint import Endpoint

MOST: Final = 8 * 1024
"""The longest head, in bytes: what nginx and Apache take of a request's line."""
LONGEST_HOST: Final = 255
"""Bytes: what SOCKS5 can say (RFC 1928 5), and more than DNS can (RFC 1035 2.3.4)."""


class Reply(NamedTuple):
    """Send `data`, then go on with `feed(b"")`: the client's next message may have come already."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and a password that nobody has checked yet."""

    user: str
    password: str = field(repr=False)


class Login(NamedTuple):
    """Check these credentials, and say by `login` whether they are right. Until then feed nothing."""

    credentials: Credentials


class Asked(NamedTuple):
    """The client wants to be connected to `target`, which gets the `early` bytes first.

    The answer is `accepted` or `refused`.
    """

    target: Endpoint
    early: bytes


class Rejected(NamedTuple):
    """The client asks for nothing that it can have: send `answer`, and end the connection."""

    reason: Reason
    message: str
    answer: bytes


Step = Reply | Login | Asked | Rejected | None
"""None: more bytes are needed. After `Asked` and `Rejected` nothing may be fed."""


class Head(ABC):
    """One client's head, and the answers to it. Nothing that a client sends makes a method raise."""

    @abstractmethod
    def feed(self, data: bytes) -> Step:
        """Take bytes of the client. At most `MOST` are kept where more are needed."""

    @abstractmethod
    def login(self, *, is_known: bool) -> Step:
        """Go on after `Login`."""

    @abstractmethod
    def accepted(self) -> bytes:
        """The answer to `Asked`: what the client sends from now on reaches its target, and the other way
        round.
        """

    @abstractmethod
    def refused(self, reason: Reason, message: str = "", *, subject: str = "") -> bytes:
        """The answer that ends the connection, whatever the client has sent so far.

        `subject` is what the reason is about: a cluster, a route, or what was asked for.
        """


def target(text: str) -> Endpoint:
    """What a client asks for, as `HOST:PORT` or `[IPV6]:PORT`.

    Raises ValueError, which says what is wrong. It does not quote what may have a secret in it: a password
    before an `@`, a token behind a `?`. A `%` begins the zone of an address, or stands for another character.
    """
    if not (text.isascii() and text.isprintable()):
        raise ValueError("a name of other characters than ASCII's letters, digits, '.', '-' and '_'")
    for sign in "@?%":
        if sign in text:
            raise ValueError(f"expected HOST:PORT or [IPV6]:PORT, without {sign!r}")
    host, port = Endpoint.parse(text)
    if len(host) > LONGEST_HOST:
        raise ValueError(f"a name of {len(host)} bytes: {LONGEST_HOST} are the most")
    return Endpoint(str(IPv6Address(host)) if ":" in host else host, port)
