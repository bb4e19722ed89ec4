"""The data plane that uses asyncssh's own channels, for links that the native plane cannot carry.

asyncssh queues bytes without bound while the link does not take them. So when a link is full, all its clients
are paused; when it has room again, they resume a few at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import asyncssh

from proxy.errors import LinkError
from proxy.relay.budget import MemoryBudget
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks
from proxy.ssh import internals, serving
from proxy.ssh.data_plane import OnAnswer, Refusal
from proxy.ssh.errors import describe_loss
from proxy.ssh.fallback.asyncssh_channel import AsyncsshChannel
from proxy.ssh.internals import Connection
from proxy.ssh.metered import POLL_S, carrier, is_behind
from proxy.ssh.native.wire import messages
from proxy.ssh.open_requests import Limit, OnRefused, OnRequest, OpenRequests
from proxy.ssh.pace import BULK

HIGH_WATER: Final = 512 << 10
"""Bytes that may wait in the link's transport; with more, clients are paused. So many keep 10 Gbit/s busy."""

RESUME_AT_ONCE: Final = 4
"""How many channels resume in one turn of the loop. If all did, the first few would always fill the link."""

LOST: Final = "SSH connection closed"


class AsyncsshPlane:
    """A `proxy.ssh.data_plane.DataPlane`."""

    mode: Final = "asyncssh"

    def __init__(
        self,
        conn: Connection,
        budget: MemoryBudget,
        *,
        server: str,
        name: str,
        why_ended: Callable[[], LinkError | None],
        on_ended: Callable[[], None],
        on_request: OnRequest | None = None,
        on_refused: OnRefused = lambda *_: None,
        limit: Limit = lambda _: "",
    ) -> None:
        self._conn = conn
        self._budget = budget
        self._server = server
        self._why_ended = why_ended
        self._on_ended = on_ended
        self._carrier = carrier(conn)
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks(f"link {name}")
        self._channels: dict[AsyncsshChannel, None] = {}
        self._waiting: deque[AsyncsshChannel] = deque()
        self._opening: set[AsyncsshChannel] = set()
        self._is_congested = False
        self._is_full = False
        self.error: LinkError | None = None
        """Why the connection has ended."""
        self.round_trip = 0.0
        self.bulk = 0
        """Bytes in full packets so far, in both directions."""
        self._requests = OpenRequests(
            self, budget, on_request=on_request, on_refused=on_refused, limit=limit, on_answered=on_ended
        )
        serving.on_open(conn, self._requests.asked)
        internals.on_congestion(conn, HIGH_WATER, self._congested, self._drained)

    def __repr__(self) -> str:
        return f"<AsyncsshPlane channels={len(self)} full={self._is_full}>"

    @property
    def received(self) -> int:
        """See `proxy.ssh.data_plane.DataPlane`."""
        return internals.received(self._conn)

    def __len__(self) -> int:
        """Channels open or being opened, by us or by the peer."""
        return len(self._channels) + len(self._opening) + len(self._requests)

    def __contains__(self, channel: object) -> bool:
        return channel in self._channels or channel in self._opening

    # ------------------------------------------------------------------------------------------- channels

    def open(self, window: int, target: Endpoint, origin: Endpoint, on_answer: OnAnswer) -> AsyncsshChannel:
        """Ask the peer for a channel. Its receive window `window` is acquired from the budget already."""
        channel = AsyncsshChannel(self, self._budget, window)
        self._opening.add(channel)
        # In a task of its own, which the client does not cancel: asyncssh forgets a cancelled open, and then
        # a late confirmation leaves a channel that nobody closes (asyncssh #823).
        opening = self._tasks.spawn(self._open(channel, target, origin, window), name=f"open {target}")
        opening.add_done_callback(partial(self._open_ended, channel, on_answer))
        return channel

    async def _open(
        self, channel: AsyncsshChannel, target: Endpoint, origin: Endpoint, window: int
    ) -> Refusal | None:
        try:
            await self._conn.create_connection(
                lambda: channel,
                target.host,
                target.port,
                origin.host,
                origin.port,
                window=window,
                max_pktsize=32 << 10,
            )
        except asyncssh.ChannelOpenError as exc:
            return exc.code, exc.reason
        except AssertionError:
            # asyncssh asserts that the connection exists, but it has ended since the answer arrived.
            if not internals.is_gone(self._conn):
                raise
            return asyncssh.OPEN_CONNECT_FAILED, LOST
        self._add(channel)
        if channel.is_aborted:
            channel.abort()
        return None

    def _add(self, channel: AsyncsshChannel) -> None:
        self._channels[channel] = None
        if self._is_full:
            channel.link_full()
            self._waiting.append(channel)

    def accept(self, asked: messages.Open, window: int) -> AsyncsshChannel:
        """See `proxy.ssh.open_requests.Answers`."""
        channel = AsyncsshChannel(self, self._budget, window)
        serving.accept(self._conn, asked, window, channel)
        self._add(channel)
        return channel

    def refuse(self, asked: messages.Open, code: int, text: str) -> None:
        """See `proxy.ssh.open_requests.Answers`."""
        serving.refuse(self._conn, asked, code, text)

    def _open_ended(
        self, channel: AsyncsshChannel, on_answer: OnAnswer, asking: asyncio.Task[Refusal | None]
    ) -> None:
        self._opening.discard(channel)
        if asking.cancelled() or asking.exception() is not None:
            # The link has ended, perhaps before the task began
            refusal: Refusal | None = (asyncssh.OPEN_CONNECT_FAILED, LOST)
        else:
            refusal = asking.result()
        if refusal is not None:
            channel.release_window()
        on_answer(refusal)
        self._on_ended()

    def forget(self, channel: AsyncsshChannel) -> None:
        """A channel has ended."""
        self._channels.pop(channel, None)
        self._requests.ended(channel)
        self._on_ended()

    def why_ended(self, exc: Exception | None) -> LinkError | None:
        """Why a channel has ended: the link's own end, or None if only the channel was closed."""
        if self.error is None and internals.is_gone(self._conn):
            self.error = self._why_ended() or describe_loss(self._server, exc)
        return self.error

    def send_directly(self, message: bytes) -> bool:
        """See `proxy.ssh.data_plane.DataPlane`: asyncssh sends everything."""
        del message
        return False

    def lost(self, error: LinkError) -> None:
        """The connection has ended; asyncssh tells its channels itself."""
        self.error = error
        self._requests.lost()

    async def close(self) -> None:
        """Cancel opens that still wait for an answer."""
        await self._tasks.close()

    # ---------------------------------------------------------------------------------------- backpressure

    def written(self, nbytes: int) -> None:
        """A channel has written `nbytes`.

        All clients are paused during a key exchange, because asyncssh then queues without bound, and while a
        jump host does not take its bytes.
        """
        if nbytes >= BULK:
            self.bulk += nbytes
        if not self._is_full and self._is_stuck:
            self._pause()
            self._loop.call_later(POLL_S, self._resume_unless_stuck)

    @property
    def _is_stuck(self) -> bool:
        return internals.is_exchanging_keys(self._conn) or is_behind(self._carrier)

    def _resume_unless_stuck(self) -> None:
        if internals.is_gone(self._conn):
            return
        if self._is_stuck:
            self._loop.call_later(POLL_S, self._resume_unless_stuck)
        elif not self._is_congested:
            self._resume()

    def _congested(self) -> None:
        self._is_congested = True
        self._pause()

    def _drained(self) -> None:
        self._is_congested = False
        self._resume_unless_stuck()

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
        if not self._is_full and not internals.is_gone(self._conn):
            self._resume()
