"""A channel carried by asyncssh's own channel (`link_data_plane{mode="asyncssh"}`).

asyncssh copies the data that it writes (`SSHChannel.write`), so all channels read from their clients into the
same buffer. asyncssh grants credit when it delivers data. While a channel is paused, asyncssh keeps what
arrives, at most the window. The window grows while the client reads fast, and the daemon's budget limits it:
that bounds the memory of a stalled client.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import asyncssh

from proxy.errors import LinkError, ProxyError
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import ChannelUser
from proxy.ssh import internals
from proxy.ssh.pace import BULK

BIGGEST_WINDOW: Final = 2 << 20
"""Bytes, as in OpenSSH. On loopback, asyncssh does not deliver enough to fill a larger window."""

_READ: Final = 64 << 10
_SMALL_READ: Final = 4 << 10
_shared = memoryview(bytearray(_READ))


class Owner(Protocol):
    """What a channel needs of its plane."""

    bulk: int
    """Bytes in full packets so far, in both directions."""

    def written(self, nbytes: int) -> None:
        """The channel has written `nbytes`."""

    def forget(self, channel: AsyncsshChannel) -> None:
        """The channel has ended."""

    def why_ended(self, exc: Exception | None) -> LinkError | None:
        """Why a channel has ended: the link's own end, or None if only the channel was closed."""


class AsyncsshChannel(asyncssh.SSHTCPSession[bytes]):
    """Both an asyncssh session and a `proxy.relay.interfaces.Channel`."""

    counts_unsent: Final = False
    """asyncssh grants new credit as soon as it has delivered data to us."""

    def __init__(self, plane: Owner, budget: MemoryBudget, window: int) -> None:
        self._plane = plane
        self._budget = budget
        self._window = window
        self._acquired = window
        self._delivered = 0
        self._charged = 0
        self._user: ChannelUser | None = None
        self._channel: asyncssh.SSHTCPChannel[bytes] | None = None
        self._is_blocked = False
        self._is_link_full = False
        self._is_paused = False
        self._had_eof = self._owes_eof = False
        self._wants_eof = False
        self._unread = b""
        self._lost: tuple[ProxyError | None] | None = None
        self.is_aborted = False
        """Whether the client has gone, even if the channel is not open yet."""

    # --------------------------------------------------------------------------------------- for the relay

    def attach(self, user: ChannelUser) -> None:
        """Start to deliver. If the channel has ended already, `channel_lost` is called in the next turn."""
        self._user = user
        self._is_paused = False
        if self._unread:
            unread, self._unread = self._unread, b""
            user.channel_data([unread], len(unread))
        if self._had_eof:
            user.channel_eof()
        if self._lost is not None:
            asyncio.get_running_loop().call_soon(user.channel_lost, self._lost[0])
            return
        self._update_user()
        if self._channel is not None and not self._is_paused:
            self._channel.resume_reading()

    def detach(self, unread: bytes = b"") -> None:
        """See `proxy.relay.interfaces.Channel`."""
        self._user = None
        self._unread = unread + self._unread
        self.pause_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        """The shared buffer; a small slice of it while memory is tight."""
        del sizehint
        return _shared[:_SMALL_READ] if self._budget.is_tight else _shared

    def buffer_updated(self, nbytes: int) -> None:
        """Send `nbytes` of the buffer. asyncssh copies them, so the buffer can be used again."""
        if self._channel is None or self._channel.is_closing():
            return
        self._channel.write(_shared[:nbytes])
        self._plane.written(nbytes)

    def write_eof(self) -> None:
        """Send CHANNEL_EOF after queued data (RFC 4254 5.3), or as soon as the channel is open."""
        self._wants_eof = True
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write_eof()

    def pause_reading(self) -> None:
        """Deliver nothing, and grant no credit. The count for the growth of the window begins again."""
        self._delivered = 0
        self._is_paused = True
        if self._channel is not None:
            self._channel.pause_reading()

    def resume_reading(self) -> None:
        """Deliver data again, beginning with what has arrived since the pause."""
        self._is_paused = False
        if self._channel is not None:
            self._channel.resume_reading()

    def close(self) -> None:
        """Send queued data, then CHANNEL_CLOSE."""
        if self._channel is not None:
            self._channel.close()

    def abort(self) -> None:
        """Send CHANNEL_CLOSE now, or as soon as the channel is open.

        asyncssh drops data that still arrives, so the window is released now.
        """
        self.is_aborted = True
        if self._channel is not None:
            self._channel.abort()
            self._uncharge()
            self.release_window()

    # ---------------------------------------------------------------------------------------- for asyncssh

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        """The channel is open: deliver nothing until `attach`."""
        self._channel = chan
        chan.set_write_buffer_limits(high=0)
        internals.on_close(chan)
        chan.pause_reading()
        if self._wants_eof:
            chan.write_eof()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Pass data on. The window grows when a whole window was delivered without a pause."""
        del datatype
        if len(data) >= BULK:
            self._plane.bulk += len(data)
        self._delivered += len(data)
        if self._delivered >= self._window:
            self._delivered = 0
            self._grow()
        if self._user is not None:
            self._user.channel_data([data], len(data))

    def eof_received(self) -> bool:
        """The cluster sends no more. Returns True, so that asyncssh keeps our direction open."""
        self._had_eof = True
        if self._user is not None:
            self._user.channel_eof()
        return True

    def close_received(self, *, has_eof: bool) -> None:
        """See `proxy.ssh.internals.on_close`."""
        self._owes_eof = has_eof

    def pause_writing(self) -> None:
        """The peer's window is full; asyncssh keeps the rest of the last read."""
        self._is_blocked = True
        if self._channel is not None:
            self._charged = internals.unsent(self._channel)
            self._budget.charge(self._charged)
        self._update_user()

    def resume_writing(self) -> None:
        """Asyncssh has sent the rest."""
        self._is_blocked = False
        self._uncharge()
        self._update_user()

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel has ended: closed by one side (`exc` is None), or with its link."""
        self._channel = None
        self._uncharge()
        self.release_window()
        self._plane.forget(self)
        error = self._plane.why_ended(exc)
        if self._owes_eof and error is None:  # with its link, the data before the EOF has been lost, too
            self.eof_received()
        self._lost = (error,)
        if self._user is not None:
            self._user.channel_lost(error)

    # -------------------------------------------------------------------------------------- for the link

    def release_window(self) -> None:
        """Release what was acquired for the receive window. Idempotent."""
        self._budget.release(self._acquired)
        self._acquired = 0

    def link_full(self) -> None:
        """The link takes no more."""
        self._is_link_full = True
        self._update_user()

    def link_writable(self) -> None:
        """The link has room again."""
        self._is_link_full = False
        self._update_user()

    # ------------------------------------------------------------------------------------------------------

    def _update_user(self) -> None:
        if self._user is not None and self._lost is None:
            if self._is_blocked or self._is_link_full:
                self._user.channel_full()
            else:
                self._user.channel_writable()

    def _grow(self) -> None:
        if (
            self._channel is not None
            and not self._is_paused
            and (growth := self._budget.acquire_growth(self._window, BIGGEST_WINDOW))
        ):
            self._window += growth
            self._acquired += growth
            internals.grow_window(self._channel, growth)

    def _uncharge(self) -> None:
        self._budget.release(self._charged)
        self._charged = 0
