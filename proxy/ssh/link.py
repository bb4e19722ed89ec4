"""One live SSH connection, and its channels: to a gateway, or of a client of our SSH server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import asyncssh

from proxy.config.model import KeepaliveConfig
from proxy.errors import (
    ChannelError,
    ChannelProhibited,
    ChannelRefused,
    ChannelTimeout,
    KeepaliveTimeout,
    LinkClosed,
    LinkDown,
    LinkError,
    MemoryExhausted,
)
from proxy.errors.reasons import Reason
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel, OpenRequest
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks
from proxy.snapshots import LinkSnapshot
from proxy.ssh import internals, serving
from proxy.ssh.data_plane import Refusal
from proxy.ssh.errors import describe_loss, is_hung_up, unused, why_refused
from proxy.ssh.keepalive import Keepalive
from proxy.ssh.login.proxy_command import ProxyCommand
from proxy.ssh.login.tcp import set_user_timeout, unanswered
from proxy.ssh.open_requests import Limit
from proxy.ssh.opening import Opening
from proxy.ssh.pace import CROWD, Pace
from proxy.ssh.planes import take_over
from proxy.ssh.turns import Turns

ABANDONED_MAX: Final = 32
"""How many opens to one address may be without an answer after their deadline.

sshd may try to connect for two minutes (tcp_syn_retries), and each open keeps a window for so long. Without a
limit, one API server behind a firewall that drops packets could use the memory of all clusters.
"""

CLOSE_TIMEOUT_S: Final = 2.0

STUCK: Final = 2
"""What `weight` adds for a link on which an open has waited from one sample to the next without any answer.

The link may be dead, and keepalives find that out later. Until then, new channels should go to other links.
The number is larger than the usual difference between two links. It is no larger than that, because perhaps
the API server does not answer, not the link.
"""

UNUSED_S: Final = 1.0
"""If a server ends a link without a reason, and the link had no channel for this many seconds, we assume that
the server ends unused connections.
"""


class Link:
    """One SSH connection. `closed` is done when it has ended; its result is the reason."""

    def __init__(
        self,
        conns: tuple[internals.Connection, ...],
        *,
        server: str,
        budget: MemoryBudget,
        turns: Turns,
        name: str,
        command: ProxyCommand | None = None,
        on_open: Callable[[OpenRequest], None] | None = None,
        on_refused: Callable[[Reason, str], None] = lambda *_: None,
        limit: Limit = lambda _: "",
    ) -> None:
        """For a link to a gateway, `conns` is the jump chain: the last connection is to the gateway. If there
        is a `command`, it carries the first connection.

        For a link of a client of our SSH server, `conns` has one connection, and `server` names the client.
        `on_open` is called with each channel request of the client, but not before this returns. `limit` says
        whether the client may open a further one. `on_refused` is called with the requests that `on_open`
        does not get.
        """
        loop = asyncio.get_running_loop()
        self._conns = conns
        self._conn = conns[-1]
        self._budget = budget
        self._command = command
        self._tasks = Tasks(f"link {name}")
        self._abandoned: Counter[Endpoint] = Counter()
        self._openings: dict[Opening, None] = {}
        self._unneeded: set[Channel] = set()
        self._oldest: Opening | None = None
        self._stuck = 0
        self._since = loop.time()
        self._loop = loop
        self.name = name
        self.server = server
        self.idle = asyncio.Event()
        """Set while no channel is open or being opened."""
        self.idle.set()
        self._idle_since = self._since
        self.is_unused = False
        """Whether the server probably ended the link because it had no channel."""
        self.error: LinkError | None = None
        self._pace = Pace(self._since)
        self.closed: asyncio.Future[LinkError] = loop.create_future()
        self.on_open = partial(self._requested, on_open) if on_open else None
        self.on_refused = on_refused
        self.limit = limit
        internals.check(self._conn)
        for conn in conns:
            internals.forget_login(conn)
        if isinstance(self._conn, asyncssh.SSHServerConnection):
            serving.on_end(self._conn, self.lost)
            serving.on_prove(self._conn)
        self._plane = take_over(self._conn, budget, turns, self)
        self._keepalive = Keepalive(self._conn, self._plane)

    def __repr__(self) -> str:
        return f"<Link {self.name} {self.server} channels={self.load}>"

    @property
    def load(self) -> int:
        """The number of channels that are open or being opened."""
        return len(self._plane)

    @property
    def needed(self) -> int:
        """The number of channels for which the link must stay up, without those of ordinary probes."""
        if self._unneeded:
            self._unneeded = {channel for channel in self._unneeded if channel in self._plane}
        return self.load - len(self._unneeded)

    @property
    def weight(self) -> int:
        """How busy the link is, in coarse steps: the least busy link gets the next channel."""
        return len(self._plane) // CROWD + self._pace.busy + self._stuck

    def sample(self) -> None:
        """Sample how busy the link is, and whether it answers. Called about twice a second."""
        self._pace.sample(self._plane.bulk, self._loop.time())
        oldest = next((one for one in self._openings if not one.has_answer), None)
        if oldest is not None and oldest is self._oldest:
            self._stuck = STUCK
        self._oldest = oldest

    @property
    def is_still(self) -> bool:
        """Whether `sample` would find nothing: no channel, and no bytes of one that has just ended."""
        return not (self._openings or self._pace.busy or self.load)

    @property
    def age(self) -> float:
        """Seconds since the link came up."""
        return self._loop.time() - self._since

    @property
    def data_plane(self) -> str:
        """The mode of its data plane (`proxy.ssh.planes`)."""
        return self._plane.mode

    @property
    def rtt(self) -> float | None:
        """The last round trip in seconds."""
        return self._keepalive.rtt

    def snapshot(self) -> LinkSnapshot:
        return LinkSnapshot(
            server=self.server,
            age=self.age,
            channels=self.load,
            data_plane=self.data_plane,
            cipher=str(self._conn.get_extra_info("send_cipher", "")),
            rtt=self.rtt,
        )

    # ------------------------------------------------------------------------------------------- channels

    async def open_channel(
        self,
        target: Endpoint,
        *,
        origin: Endpoint,
        timeout: float,  # noqa: ASYNC109
        is_needed: bool = True,
        opening: Opening | None = None,
    ) -> Channel:
        """Open a channel within `timeout` seconds.

        A probe's channel is not needed (`is_needed` is false): the link may be closed in spite of it.
        Pass an `opening` if the client must wait for more than the peer's answer.

        Raises LinkDown if the link ends before the answer, MemoryExhausted, otherwise a ChannelError.
        """
        if target in self._abandoned and self._abandoned[target] >= ABANDONED_MAX:
            raise ChannelTimeout(f"{self.server} has not reached {target} for {ABANDONED_MAX} clients yet")
        window = self._budget.acquire_initial()
        if not window:
            raise MemoryExhausted(
                f"limits.memory is all given out ({self._budget.used} of {self._budget.limit} bytes)"
            )
        self.idle.clear()
        if opening is None:
            opening = Opening(self._loop, target)
        opening.channel = channel = self._plane.open(window, target, origin, opening.answered)
        self._openings[opening] = None
        if is_needed:
            self._keepalive.hurry()
        else:
            self._unneeded.add(channel)
        timer = self._loop.call_later(timeout, opening.expired)
        try:
            refusal = await opening.answer
        except BaseException:
            _give_up(channel)
            raise
        finally:
            timer.cancel()
            # Otherwise the two would keep each other alive until the garbage collector runs.
            del self._openings[opening], opening.channel
        if opening.is_expired:
            if not opening.has_answer:
                self._abandon(opening, target)
            _give_up(channel)
            raise ChannelTimeout(f"{self.server} did not reach {opening.target} within {timeout:g} s")
        self._note_answer()
        if refusal is not None:
            raise self._refusal(refusal, target)
        return channel

    def _note_answer(self) -> None:
        self._oldest, self._stuck = None, 0

    def _abandon(self, opening: Opening, target: Endpoint) -> None:
        """The client no longer waits, but sshd still tries to connect, and may use the window until then."""

        def answered() -> None:
            self._abandoned[target] -= 1
            if not self._abandoned[target]:
                del self._abandoned[target]

        self._abandoned[target] += 1
        opening.on_late = answered

    def _refusal(self, refusal: Refusal, target: Endpoint) -> ChannelError | LinkDown:
        if self.closed.done() or internals.is_gone(self._conn):
            return LinkDown(f"the link to {self.server} was lost while a channel was opened")
        code, why = refusal[0], why_refused(refusal[1])
        if code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            return ChannelProhibited(f"{self.server} does not allow forwarding to {target}{why}")
        if code == asyncssh.OPEN_CONNECT_FAILED:
            look = f"nc -vz {target.host} {target.port}"
            if not target.is_address:
                look = f"getent hosts {target.host}; {look}"
            hint = ChannelRefused.hint.replace("nc -vz HOST PORT", look)
            return ChannelRefused(f"{self.server} could not connect to {target}{why}", hint=hint)
        return ChannelError(f"{self.server} did not open a channel to {target}{why} (code {code})")

    def _requested(self, on_open: Callable[[OpenRequest], None], request: OpenRequest) -> None:
        self.idle.clear()
        self._keepalive.hurry()
        on_open(request)

    def channel_ended(self) -> None:
        """See `proxy.ssh.data_plane.PlaneUser`."""
        if not self.load and not self.idle.is_set():
            self._idle_since = self._loop.time()
            self.idle.set()

    # ------------------------------------------------------------------------------------------- life cycle

    def start(
        self, settings: KeepaliveConfig, on_rtt: Callable[[float], None], on_missed: Callable[[int], None]
    ) -> None:
        """Send keepalives. Call it again to change the settings or the callbacks (`Keepalive.start`).

        Jump hosts keep the settings of their own gateways.
        """

        def answered(rtt: float) -> None:
            self._note_answer()
            on_rtt(rtt)

        if not self.closed.done():
            self._keepalive.start(settings, answered, on_missed)

    def limit_silence(self, settings: KeepaliveConfig) -> None:
        """Let the kernel end the connection if the peer's kernel acknowledges nothing (`unanswered`)."""
        if len(self._conns) == 1 and not internals.is_gone(self._conn):
            with suppress(OSError):  # the connection is about to end
                set_user_timeout(self._conn.get_extra_info("socket"), unanswered(settings))

    def lost(self, exc: Exception | None) -> None:
        """Asyncssh calls this when the connection has ended; before that, it has ended its own channels."""
        error = self.error or describe_loss(self.server, exc)
        is_silent = self.error is None and (exc is None or is_hung_up(exc))
        idle = self._loop.time() - self._idle_since if self.idle.is_set() else 0.0
        may_be_unused = is_silent and not self._conn.is_server() and not isinstance(error, KeepaliveTimeout)
        if may_be_unused and idle >= UNUSED_S:
            self.is_unused, error = True, unused(self.server, idle)
        if is_silent and self._command is not None:
            self._tasks.spawn(self._ended_with(self._command, error), name="ended")
        else:
            self._end(error)

    async def _ended_with(self, command: ProxyCommand, error: LinkError) -> None:
        self._end(await command.explain(error, "and with it the link"))

    def protocol_broken(self, error: LinkError) -> None:
        """See `proxy.ssh.data_plane.PlaneUser`: asyncssh is about to report the end of the connection."""
        self.error = self.error or error

    def _end(self, error: LinkError) -> None:
        self.error = error
        self._keepalive.stop()
        if not self.closed.done():
            self.closed.set_result(error)
        self._plane.lost(error)

    async def close(self, error: LinkError | None = None) -> None:
        """End the link and all channels on it. Returns when its sockets are closed."""
        self.error = self._plane.error = (
            self.error or error or LinkClosed(f"link to {self.server} closed by kubemux")
        )
        for conn in reversed(self._conns):
            conn.abort()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    for conn in self._conns:
                        await conn.wait_closed()
        finally:
            self._end(self.error)
            await self._plane.close()
            await self._tasks.close()
            if self._command is not None:
                await self._command.close()


def _give_up(channel: Channel) -> None:
    """Close a channel that its client does not wait for any more, now or as soon as it is open.

    If a CLOSE comes before the SOCKS5 request, the SOCKS5 server in a site's ssh client keeps the channel for
    ever. An EOF before the CLOSE makes it close the channel.
    """
    channel.write_eof()
    channel.abort()
