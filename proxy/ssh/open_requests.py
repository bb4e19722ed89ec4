"""Channels that the peer of a link opens: `direct-tcpip` to a host and a port (RFC 4254 7.2). For both data
planes.

kubemux refuses every other type of channel: shells, X11, agents, unix sockets. A gateway, which kubemux has
dialled, may open no channel at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from proxy.errors import MemoryExhausted
from proxy.errors.reasons import Reason
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel, OpenRequest
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.text import shown
from proxy.ssh.metered import SMALLEST_PACKET
from proxy.ssh.native.wire import messages

ONLY_FORWARDS: Final = "kubemux only forwards: use ssh -J, -W, -L or -D (with -N), and -R at a site"

NOT_HERE: Final = "kubemux opens no channels for this end of the connection"

LONGEST_HOST: Final = 255
"""Bytes, the limit of SOCKS5. A message could hold a name of 48 KiB, and many requests may wait at once."""

_KNOWN: Final = frozenset(
    {
        b"session",
        b"x11",
        b"auth-agent@openssh.com",
        b"direct-streamlocal@openssh.com",
        b"forwarded-streamlocal@openssh.com",
        b"tun@openssh.com",
        messages.FORWARDED,
    }
)
"""Known channel types that kubemux does not support."""

OnRequest = Callable[[OpenRequest], None]
OnRefused = Callable[[Reason, str], None]
Limit = Callable[[int], str]
"""Gets the number of the peer's channels on this link. Returns why it may open no further one, or nothing."""


def at_most(most: int, key: str) -> Limit:
    """A limit for each link. `key` is the configuration key that sets it, for the message."""
    return lambda count: f"{key} is {most}, and as many are open" if count >= most else ""


class Answers(Protocol):
    """The data plane, as the requests see it."""

    def accept(self, asked: messages.Open, window: int) -> Channel:
        """Open the channel. The caller has acquired the window from the budget."""

    def refuse(self, asked: messages.Open, code: int, text: str) -> None:
        """Send an OPEN_FAILURE."""


class Request:
    """A `proxy.relay.interfaces.OpenRequest`."""

    __slots__ = ("_asked", "_requests", "origin", "target")

    def __init__(
        self, requests: OpenRequests, asked: messages.Open, target: Endpoint, origin: Endpoint
    ) -> None:
        self._requests = requests
        self._asked = asked
        self.target = target
        self.origin = origin

    def __repr__(self) -> str:
        return f"<Request {self.target} for {self.origin}>"

    def accept(self) -> Channel:
        return self._requests.accept(self, self._asked)

    def refuse(self, code: int, text: str) -> None:
        self._requests.refuse(self, self._asked, code, text)


class OpenRequests:
    """The channel requests of one link's peer, and the channels that were opened for them."""

    def __init__(
        self,
        plane: Answers,
        budget: MemoryBudget,
        *,
        on_request: OnRequest | None,
        on_refused: OnRefused,
        limit: Limit,
        on_answered: Callable[[], None],
    ) -> None:
        """Without `on_request` every request is refused. `on_refused` is called with each request that is
        refused here, before `on_request` would get it.

        `limit` is asked about unanswered requests and open channels together. `on_answered` is called after
        a refusal of a request that has waited.
        """
        self._plane = plane
        self._budget = budget
        self._on_request = on_request
        self._on_refused = on_refused
        self._limit = limit
        self._on_answered = on_answered
        self._waiting: set[Request] = set()
        self._channels: set[Channel] = set()

    def __repr__(self) -> str:
        return f"<OpenRequests waiting={len(self._waiting)} channels={len(self._channels)}>"

    def __len__(self) -> int:
        """The number of unanswered requests."""
        return len(self._waiting)

    def asked(self, message: memoryview) -> None:
        """Handle an OPEN of the peer. Raises ProtocolError."""
        asked = messages.parse_open(message)
        if self._on_request is None:
            self._plane.refuse(asked, messages.PROHIBITED, NOT_HERE)
            return
        if asked.kind != messages.DIRECT:
            code = messages.PROHIBITED if asked.kind in _KNOWN else messages.UNKNOWN_TYPE
            self._plane.refuse(asked, code, ONLY_FORWARDS)
            kind = shown(asked.kind[:LONGEST_HOST].decode(errors="replace"))
            means = " (a shell, a command or sftp)" if asked.kind == b"session" else ""
            self._on_refused(Reason.UNSUPPORTED, f"a channel of the type {kind}{means}")
            return
        (host, port), (origin, origin_port) = messages.parse_tcpip(asked.rest)
        if len(host) > LONGEST_HOST:
            why = f"a name of {len(host)} bytes: {LONGEST_HOST} are the most"
            self._refuse_now(asked, messages.CONNECT_FAILED, Reason.BAD_REQUEST, why)
        elif asked.largest < SMALLEST_PACKET:
            why = f"packets of {asked.largest} bytes: {SMALLEST_PACKET} are the least"
            self._refuse_now(asked, messages.SHORTAGE, Reason.BAD_REQUEST, why)
        elif why := self._limit(len(self._waiting) + len(self._channels)):
            self._refuse_now(asked, messages.SHORTAGE, Reason.LIMIT, why)
        else:
            target = Endpoint(host.decode(errors="replace"), port)
            address = Endpoint(origin[:LONGEST_HOST].decode(errors="replace"), origin_port)
            request = Request(self, asked._replace(rest=b""), target, address)
            self._waiting.add(request)
            self._on_request(request)

    def _refuse_now(self, asked: messages.Open, code: int, reason: Reason, why: str) -> None:
        self._plane.refuse(asked, code, f"kubemux: {reason} ({why})")
        self._on_refused(reason, why)

    def accept(self, request: Request, asked: messages.Open) -> Channel:
        """See `OpenRequest.accept`."""
        if request not in self._waiting:
            raise ConnectionResetError("the SSH connection of this client has ended")
        window = self._budget.acquire_initial()
        if not window:
            raise MemoryExhausted(
                f"limits.memory is all given out ({self._budget.used} of {self._budget.limit} bytes)"
            )
        self._waiting.discard(request)
        channel = self._plane.accept(asked, window)
        self._channels.add(channel)
        return channel

    def refuse(self, request: Request, asked: messages.Open, code: int, text: str) -> None:
        """See `OpenRequest.refuse`."""
        if request in self._waiting:
            self._waiting.discard(request)
            self._plane.refuse(asked, code, text)
            self._on_answered()

    def ended(self, channel: Channel) -> None:
        """Forget a channel that has ended. kubemux or the peer may have opened it."""
        self._channels.discard(channel)

    def lost(self) -> None:
        """Forget every request: the link has ended."""
        self._waiting.clear()
