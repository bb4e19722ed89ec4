"""A client that has connected, as an entry passes it to its destination: a cluster, a route or a site."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import ClassVar, Final, NamedTuple

import structlog

from proxy.config.allow import Rule
from proxy.errors.reasons import Reason
from proxy.metrics import Traffic
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel, OnEnd, Relay
from proxy.relay.socket_relay import LINGER_ZERO, SocketRelay
from proxy.runtime.endpoint import Endpoint

log = structlog.get_logger("kubemux.connection")

LISTENER: Final = "listener"
"""The name of the entry that stands for the listeners of all clusters."""

_UNKNOWN: Final = Endpoint("127.0.0.1", 0)


class Caller(NamedTuple):
    """What the entry knows about the client's identity."""

    address: Endpoint | None
    """The client's address; None on a unix socket."""
    uid: int | None = None
    """The uid of a client on this machine; None if the kernel does not identify it for certain."""
    proved: frozenset[str] = frozenset()
    """The identities that the client has proved, written as in `allow`: `proxy-user:ci`,
    `cert:ci.example.com`.
    """

    def __str__(self) -> str:
        return str(self.address) if self.address else "unix"

    @property
    def origin(self) -> Endpoint:
        """The address for sshd's log (RFC 4254 7.2)."""
        return self.address or _UNKNOWN

    @property
    def identity(self) -> str:
        """For the log: the proved identities, otherwise the uid, otherwise the address."""
        return self.known_as or str(self)

    @property
    def known_as(self) -> str:
        """The proved identities, otherwise the uid; empty if only the address is known."""
        if self.proved:
            return " ".join(sorted(self.proved))
        return "" if self.uid is None else f"uid:{self.uid}"

    def is_called(self, name: str) -> bool:
        """Whether `name` is one of its proved identities, its `uid:NUMBER`, its ADDRESS or its
        `ADDRESS:PORT`.
        """
        names = {*self.proved, self.identity}
        if self.uid is not None:
            names.add(f"uid:{self.uid}")
        if self.address is not None:
            names |= {self.address.host, str(self.address)}
        return name in names


class Arrival(ABC):
    """A client that waits for a channel. The destination calls `relay` when the channel is open, and `refuse`
    if none can be opened.
    """

    __slots__ = ("asked", "began", "caller", "early", "entry", "needs_allow", "target")

    began: float
    """When its destination has accepted it, in seconds of the loop's clock. The destination sets it."""

    is_answered: ClassVar[bool] = False
    """Whether the client waits for an answer of the entry. That must always come in time, because
    kube-apiserver waits without a limit.
    """

    def __init__(
        self,
        caller: Caller,
        early: bytes = b"",
        *,
        entry: str,
        asked: Endpoint | None = None,
        needs_allow: bool = False,
    ) -> None:
        """`early` are bytes that the entry has already read from the client. The destination gets them first.

        `asked` is the name and port that the client has asked for; None if it has not asked by name.
        `needs_allow` says whether a destination that has no `allow` list denies the client.
        """
        self.caller = caller
        self.early = early
        self.entry = entry
        self.asked = asked
        self.needs_allow = needs_allow
        self.target: Endpoint | None = None
        """Where its channel leads, as soon as it has one."""

    def is_still_allowed(self, allow: tuple[Rule, ...] | None) -> bool:
        """Whether the client may stay after a reload. `allow` is the present list of its destination.

        By default True: an entry checks a client only once, when it connects. The SSH entry checks again.
        """
        del allow
        return True

    def fields(self) -> dict[str, str]:
        """For the log: the client's entry, its identity, and the requested name."""
        caller, client = self.caller, str(self.caller)
        fields = {"client": client, "entry": self.entry, "caller": caller.known_as or client}
        if self.asked is not None:
            fields["asked"] = str(self.asked)
        return fields

    def lines_due(self, reason: Reason) -> int:
        """How many refused clients the log line that is due now stands for; 0 if none is due.

        By default each has its own line. The SSH entry logs fewer: one client can open thousands of channels.
        """
        del reason
        return 1

    def log_refused(self, reason: Reason, **more: str) -> None:
        """Log that the client was refused before a destination has served it."""
        if clients := self.lines_due(reason):
            log.warning("connection refused", **self.fields(), reason=reason, **more, **summed(clients))

    @abstractmethod
    def relay(self, channel: Channel, traffic: Traffic, budget: MemoryBudget, on_end: OnEnd) -> Relay:
        """Make a relay of the kind that this client needs. It is not started yet."""

    @abstractmethod
    def refuse(self, reason: Reason, message: str = "") -> None:
        """End the client's connection, because no channel could be opened. If the protocol allows it, send
        the reason.
        """

    def ended(self, reason: Reason) -> None:  # noqa: B027 - not every entry counts
        """Called when the connection has ended, relayed or refused, after the destination has counted it."""


def summed(clients: int) -> dict[str, int]:
    """The extra field of a log line that stands for several clients: channels of one SSH client."""
    return {"channels": clients} if clients > 1 else {}


class SocketArrival(Arrival):
    """A client with a socket."""

    __slots__ = ()

    def relay(self, channel: Channel, traffic: Traffic, budget: MemoryBudget, on_end: OnEnd) -> Relay:
        return SocketRelay(channel, traffic, budget, on_end, self.start, early=self.early)

    @abstractmethod
    def start(self, relay: asyncio.BufferedProtocol) -> Awaitable[object]:
        """Make `relay` the protocol of the client's connection. Raises OSError if the client has
        disconnected.

        An entry that answers its clients (SOCKS5, HTTP CONNECT) answers first.
        """


class ListenerArrival(SocketArrival):
    """A client of a cluster's listener. kubemux itself sends nothing to it."""

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket, caller: Caller) -> None:
        """`sock` is non-blocking, and has no transport yet: bytes of the client wait in the kernel."""
        super().__init__(caller, entry=LISTENER)
        self._sock = sock

    def start(self, relay: asyncio.BufferedProtocol) -> Awaitable[object]:
        return asyncio.get_running_loop().connect_accepted_socket(lambda: relay, self._sock)

    def refuse(self, reason: Reason, message: str = "") -> None:
        """Reset (RST): after a FIN, a TLS client would believe that the API server has closed."""
        del reason, message
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        self._sock.close()
