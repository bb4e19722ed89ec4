"""One live SSH connection to a gateway, and the channels on it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import asyncssh
import structlog

from proxy.config.values import Endpoint
from proxy.errors import (
    ChannelError,
    ChannelProhibited,
    ChannelRefused,
    ChannelTimeout,
    LinkDown,
    LinkError,
    LinkReplaced,
    MemoryExhausted,
)
from proxy.relay.budget import MemoryBudget
from proxy.snapshots import LinkSnapshot
from proxy.ssh import internals
from proxy.ssh.channel import SshChannel
from proxy.ssh.errors import describe_loss
from proxy.ssh.native.channel import NativeChannel, Refusal
from proxy.ssh.native.handover import Unsupported
from proxy.ssh.native.plane import NativePlane
from proxy.tasks import Tasks

log = structlog.get_logger("kubemux.link")

HIGH_WATER: Final = 512 << 10
"""Bytes waiting in the link's transport before clients are paused: eight bites, enough to keep a 10 Gbit/s link busy."""

RESUME_AT_ONCE: Final = 4
"""Channels that may fill the link again per turn of the loop. All at once, the same first few would always win."""

DATA_PLANE: Final = "KUBEMUX_DATA_PLANE"
"""Environment: `asyncssh` keeps links on its own channels; otherwise we carry their bytes wherever that is possible."""

ABANDONED_MAX: Final = 32
"""Opens to one address that sshd has not answered in time. It may try for two minutes (tcp_syn_retries), and each holds a
window meanwhile: without a limit, one API server behind a firewall that drops packets takes the memory of all clusters."""

KEX_POLL_S: Final = 0.02

CLOSE_TIMEOUT_S: Final = 2.0


class Link:
    """One SSH connection. `closed` is done when it has ended; its result says why."""

    def __init__(self, conns: tuple[asyncssh.SSHClientConnection, ...], *, server: str, budget: MemoryBudget, name: str) -> None:
        """`conns` is the jump chain, the connection to the gateway last."""
        loop = asyncio.get_running_loop()
        self._conns = conns
        self._conn = conns[-1]
        self._budget = budget
        self._tasks = Tasks(name)
        self._channels: dict[SshChannel, None] = {}
        self._waiting: deque[SshChannel] = deque()
        self._opening = 0
        self._abandoned: Counter[Endpoint] = Counter()
        self._is_congested = False
        self._is_full = False
        self._since = loop.time()
        self._loop = loop
        self.name = name
        self.server = server
        self.idle = asyncio.Event()
        """Set while no channel is open or being opened."""
        self.idle.set()
        self.error: LinkError | None = None
        self.rtt: float | None = None
        self.closed: asyncio.Future[LinkError] = loop.create_future()
        internals.check(self._conn)
        self._native = self._take_over() if os.environ.get(DATA_PLANE) != "asyncssh" else None
        if self._native is None:
            internals.on_congestion(self._conn, HIGH_WATER, self._congested, self._drained)

    def __repr__(self) -> str:
        return f"<Link {self.name} {self.server} channels={self.load} full={self._is_full}>"

    @property
    def load(self) -> int:
        """Channels open or being opened."""
        return len(self._channels) + self._opening if self._native is None else len(self._native)

    @property
    def age(self) -> float:
        """Seconds since it came up."""
        return self._loop.time() - self._since

    @property
    def data_plane(self) -> str:
        """Who carries the bytes: `native` or `asyncssh`."""
        return "asyncssh" if self._native is None else "native"

    def _take_over(self) -> NativePlane | None:
        try:
            return NativePlane(self._conn, self._budget, on_error=self._broken, on_lost=self.lost, on_ended=self._check_idle)
        except Unsupported as exc:
            log.warning("link uses asyncssh's own channels", link=self.name, server=self.server, message=str(exc))
            return None

    def snapshot(self) -> LinkSnapshot:
        """For status."""
        return LinkSnapshot(
            server=self.server,
            age=self.age,
            channels=self.load,
            data_plane=self.data_plane,
            cipher=str(self._conn.get_extra_info("send_cipher", "")),
            rtt=self.rtt,
        )

    # ------------------------------------------------------------------------------------------- channels

    async def open_channel(self, target: Endpoint, *, origin: Endpoint, timeout: float) -> SshChannel | NativeChannel:  # noqa: ASYNC109 - told in the error
        """Open a channel within `timeout` seconds. Raises LinkDown if the link ends meanwhile, else a ChannelError."""
        if self._abandoned[target] >= ABANDONED_MAX:
            raise ChannelTimeout(f"{self.server} has not reached {target} for {ABANDONED_MAX} clients yet")
        window = self._budget.take_initial()
        if not window:
            raise MemoryExhausted(f"limits.memory is all given out ({self._budget.used} of {self._budget.limit} bytes)")
        channel = self._native.channel(window) if self._native is not None else SshChannel(self, self._budget, window)
        # Counted from here on, so that clients that come in the same turn are spread over the links.
        self._opening += 1
        self.idle.clear()
        opening = self._tasks.spawn(self._open(channel, target, origin, window), name=f"open {target}")
        opening.add_done_callback(partial(self._opened, channel))
        try:
            # Shielded: asyncssh would forget a cancelled open, and a late confirmation would leave a channel that nobody
            # closes (asyncssh #823). `_open` goes on, and the channel is closed when it arrives.
            async with asyncio.timeout(timeout):
                refusal = await asyncio.shield(opening)
        except TimeoutError as exc:
            self._abandon(opening, channel, target)
            raise ChannelTimeout(f"{self.server} did not reach {target} within {timeout:g} s") from exc
        except asyncio.CancelledError:
            if opening.cancelled():
                raise LinkDown(f"the link to {self.server} was closed") from None
            opening.add_done_callback(lambda _: channel.abort())
            raise
        if refusal is not None:
            raise refusal
        return channel

    def _abandon(
        self, opening: asyncio.Task[ChannelError | LinkDown | None], channel: SshChannel | NativeChannel, target: Endpoint
    ) -> None:
        """It took too long for whoever asked, but sshd goes on trying to connect, and its window stays taken until then."""

        def ended(_: object) -> None:
            channel.abort()
            self._abandoned[target] -= 1
            if not self._abandoned[target]:
                del self._abandoned[target]

        self._abandoned[target] += 1
        opening.add_done_callback(ended)

    async def _open(
        self, channel: SshChannel | NativeChannel, target: Endpoint, origin: Endpoint, window: int
    ) -> ChannelError | LinkDown | None:
        if isinstance(channel, SshChannel):
            refusal = await self._ask(channel, target, origin, window)
        else:
            refusal = await channel.ask(window, target, origin)
        return self._refusal(refusal, target) if refusal is not None else None

    def _opened(self, channel: SshChannel | NativeChannel, opening: asyncio.Task[ChannelError | LinkDown | None]) -> None:
        self._opening -= 1
        if opening.cancelled() and isinstance(channel, SshChannel):  # by the link's end, perhaps before its first step
            channel.give_up()
        self._check_idle()

    async def _ask(self, channel: SshChannel, target: Endpoint, origin: Endpoint, window: int) -> Refusal | None:
        try:
            await self._conn.create_connection(
                lambda: channel, target.host, target.port, origin.host, origin.port, window=window, max_pktsize=32 << 10
            )
        except asyncssh.ChannelOpenError as exc:
            channel.give_up()
            return exc.code, exc.reason
        except BaseException as exc:
            channel.give_up()
            if isinstance(exc, AssertionError) and internals.is_gone(self._conn):
                # The connection ended between the answer and this session: asyncssh stumbles over its own loose end.
                return asyncssh.OPEN_CONNECT_FAILED, "SSH connection closed"
            raise
        self._channels[channel] = None
        if self._is_full:
            channel.link_full()
            self._waiting.append(channel)
        return None

    def _refusal(self, refusal: Refusal, target: Endpoint) -> ChannelError | LinkDown:
        if self.closed.done() or internals.is_gone(self._conn):
            return LinkDown(f"the link to {self.server} was lost while a channel was opened")
        code, said = refusal[0], refusal[1] or "no reason given"
        if code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            return ChannelProhibited(f"{self.server} does not allow forwarding to {target}: {said}")
        if code == asyncssh.OPEN_CONNECT_FAILED:
            return ChannelRefused(f"{self.server} could not connect to {target}: {said}")
        return ChannelError(f"{self.server} did not open a channel to {target}: {said} (code {code})")

    def forget(self, channel: SshChannel) -> None:
        """A channel has ended."""
        self._channels.pop(channel, None)
        self._check_idle()

    def _check_idle(self) -> None:
        if not self.load:
            self.idle.set()

    # ---------------------------------------------------------------------------------------- backpressure

    def written(self) -> None:
        """A channel has written: while keys are exchanged asyncssh queues without bound, so nobody writes more until then."""
        if not self._is_full and internals.is_exchanging_keys(self._conn):
            self._pause()
            self._loop.call_later(KEX_POLL_S, self._resume_after_kex)

    def _resume_after_kex(self) -> None:
        if self.closed.done():
            return
        if internals.is_exchanging_keys(self._conn):
            self._loop.call_later(KEX_POLL_S, self._resume_after_kex)
        elif not self._is_congested:
            self._resume()

    def _congested(self) -> None:
        self._is_congested = True
        self._pause()

    def _drained(self) -> None:
        self._is_congested = False
        self._resume_after_kex()

    def _pause(self) -> None:
        self._is_full = True
        waiting = set(self._waiting)
        self._waiting.extend(channel for channel in self._channels if channel not in waiting)
        for channel in self._channels:
            channel.link_full()

    def _resume(self) -> None:
        self._is_full = False
        for _ in range(min(RESUME_AT_ONCE, len(self._waiting))):
            channel = self._waiting.popleft()
            if channel in self._channels:
                channel.link_writable()
        if self._waiting:
            self._loop.call_soon(self._resume_more)

    def _resume_more(self) -> None:
        if not self._is_full and not self.closed.done():
            self._resume()

    # ------------------------------------------------------------------------------------------- life cycle

    def start(self, interval: float, on_rtt: Callable[[float], None], on_missed: Callable[[], None]) -> None:
        """Measure the round trip every `interval` seconds; one that takes longer is missed. asyncssh gives up on a silent one."""
        self._tasks.spawn(self._measure(interval, on_rtt, on_missed), name="rtt")

    async def _measure(self, interval: float, on_rtt: Callable[[float], None], on_missed: Callable[[], None]) -> None:
        while True:
            sent = self._loop.time()
            try:
                async with asyncio.timeout(interval):
                    await internals.ping(self._conn)
                    self.rtt = self._loop.time() - sent
                    if self._native is not None:
                        self._native.round_trip = self.rtt
                    on_rtt(self.rtt)
            except TimeoutError:
                on_missed()
            await asyncio.sleep(interval)

    def why_ended(self, exc: Exception | None) -> LinkError | None:
        """Why a channel of this link has ended: the link's own end, or None if only the channel was closed."""
        if self.error is None and internals.is_gone(self._conn):
            self.error = describe_loss(self.server, exc)
        return self.error

    def lost(self, exc: Exception | None) -> None:
        """Asyncssh says the connection has ended. Its own channels have been told already."""
        self._end(self.error or describe_loss(self.server, exc))

    def _broken(self, error: LinkError) -> None:
        """The peer broke the protocol: asyncssh is about to say that the connection has ended."""
        self.error = self.error or error

    def _end(self, error: LinkError) -> None:
        self.error = error
        if not self.closed.done():
            self.closed.set_result(error)
        if self._native is not None:
            self._native.lost(error)

    async def close(self, error: LinkError | None = None) -> None:
        """End the link and everything on it; returns when its sockets are closed."""
        self.error = self.error or error or LinkReplaced(f"link to {self.server} closed by kubemux")
        for conn in reversed(self._conns):
            conn.abort()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    for conn in self._conns:
                        await conn.wait_closed()
        finally:
            self._end(self.error)
            await self._tasks.close()
