"""A channel's way to the cluster: a client's bytes are sealed from where they were received.

They may be sent while the peer has granted credit (RFC 4254 5.2) and the link has room
(`proxy.ssh.native.flow`). Otherwise the client's socket is not read. What was read by then is pending, at
most one read.
"""

from __future__ import annotations

from typing import Final

from proxy.relay.interfaces import ChannelUser
from proxy.ssh.native.flow import Flow
from proxy.ssh.native.outgoing import DATA_AT, Outgoing
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.errors import ProtocolError
from proxy.ssh.native.wire.packets import PADDING

LARGEST_SENT: Final = 32 << 10
"""Bytes of data in a packet: what OpenSSH takes, and enough for the cost of a packet not to matter."""

PACKETS: Final = 8
"""So many are read from a client at once: one call into the kernel each way for all of them.

With one packet for each read a GB costs 0.70 s of CPU, with eight 0.53 (`ssh -L`: 0.77). It is a number of
packets and not of bytes because a peer may want small ones: 256 KiB in packets of one byte took 2 s and 9 MB.
"""

BITE: Final = PACKETS * LARGEST_SENT
"""Bytes: the most that is read at once."""

_STRAY: Final = 4 << 10
"""Bytes: the most that is read if they may not be sent now. uvloop asks for a buffer once more after
`pause_reading`.
"""

_read = memoryview(bytearray(DATA_AT + BITE + PADDING))
"""Where every client's bytes are received: they are sealed from there, or kept elsewhere, before anything
else happens.
"""


class Sending:
    """What one channel sends; a `proxy.ssh.native.flow.Sender`.

    EOF and CLOSE each have two flags, for wanted and for sent, because they are sent after pending data.
    """

    __slots__ = (
        "_credit",
        "_flow",
        "_grant",
        "_granted",
        "_is_full",
        "_is_held",
        "_is_open",
        "_is_stray",
        "_largest",
        "_number",
        "_out",
        "_peer",
        "_pending",
        "_reserve",
        "_sent_eof",
        "_user",
        "_wants_close",
        "_wants_eof",
        "has_closed",
        "period",
        "spent",
    )

    def __init__(self, out: Outgoing, flow: Flow, number: int) -> None:
        """`number` is our number of the channel, for error messages."""
        self._out = out
        self._flow = flow
        self._number = number
        self._user: ChannelUser | None = None
        self._peer = 0
        self._credit = 0
        self._reserve = 0
        self._granted = 0
        self._grant = messages.BIGGEST_WINDOW
        self._largest = 0
        self._pending = bytearray()
        self._is_stray = False
        self._is_held = False
        self._is_full = False
        # The peer has no channel for an open that it refused: a message would reach another channel.
        self._is_open = False
        self._wants_eof = self._sent_eof = False
        self._wants_close = False
        self.has_closed = False
        """CLOSE is sent: nothing may follow it."""
        self.period = 0
        self.spent = 0

    def __repr__(self) -> str:
        return (
            f"<Sending eof={self._sent_eof} close={self.has_closed} credit={self._credit} "
            f"pending={len(self._pending)}>"
        )

    # ----------------------------------------------------------------------------------------- the hot path

    def get_buffer(self, sizehint: int) -> memoryview:
        """Room for as much as may be sent now; a little room if nothing may."""
        del sizehint
        self._is_stray = (
            not self._credit or self._flow.is_shut or self._is_held or self.has_closed or bool(self._pending)
        )
        most = (
            _STRAY
            if self._is_stray
            else self._largest
            if self._flow.is_congested
            else PACKETS * self._largest
        )
        return _read[DATA_AT : DATA_AT + min(self._credit or most, most)]

    def buffer_updated(self, nbytes: int) -> None:
        """Seal `nbytes` from where they were received.

        All of them, although the link may become full meanwhile: they are one read at most.
        """
        if self._is_stray:
            self._keep(nbytes)
            return
        at, last = DATA_AT, DATA_AT + nbytes
        while last - at > self._largest:
            end = at + self._largest
            behind = bytes(_read[end : end + PADDING])
            self._send(at, self._largest)
            _read[end : end + PADDING] = behind
            at = end
        self._send(at, last - at)
        if not self._credit:
            self._update_user()

    def _send(self, at: int, nbytes: int) -> None:
        self._out.put_data(self._peer, _read, at, nbytes)
        self._credit -= nbytes
        self._flow.spend(self, nbytes)

    # ------------------------------------------------------------------------------------ when a side is slow

    def _keep(self, nbytes: int) -> None:
        if self.has_closed or self._wants_close:
            return
        self._pending += _read[DATA_AT : DATA_AT + nbytes]
        if self._flow.is_shut:
            self._flow.wait(self)
        self._update_user()

    def _send_pending(self) -> None:
        """Send what could not be sent when it was read; then EOF and CLOSE, if they are wanted."""
        while (
            self._pending
            and not self.has_closed
            and (size := min(len(self._pending), self._credit, self._largest))
        ):
            if self._flow.is_shut:
                self._flow.wait(self)
                return
            _read[DATA_AT : DATA_AT + size] = self._pending[:size]
            del self._pending[:size]
            self._send(DATA_AT, size)
        if not self._pending and not self.has_closed and self._is_open:
            if self._wants_eof and not self._sent_eof:
                self._sent_eof = True
                self._out.say(messages.eof(self._peer))
            if self._wants_close:
                self.close_now()
        self._update_user()

    def _update_user(self) -> None:
        """Read the client's socket if, and only if, what it sends can be passed on."""
        is_full = bool(self._is_held or self._pending or not self._credit)
        if self._user is not None and is_full != self._is_full:
            self._is_full = is_full
            if is_full:
                self._user.channel_full()
            else:
                self._user.channel_writable()

    def hold(self) -> None:
        """The link has no room (`proxy.ssh.native.flow`)."""
        self._is_held = True
        self._update_user()

    def go_on(self) -> None:
        """The link has room again: send pending data."""
        self._is_held = False
        self._send_pending()

    def adjusted(self, credit: int) -> None:
        """The peer has granted `credit` bytes more. Raises ProtocolError."""
        spare = self._credit + self._reserve + credit
        if spare > messages.BIGGEST_WINDOW:
            raise ProtocolError(
                f"a window of more than {messages.BIGGEST_WINDOW} bytes on channel {self._number}"
            )
        was_out = not self._credit
        self._granted = max(self._granted, spare)
        self._grant = min(self._grant, credit)
        self._credit = self._flow.usable(self, spare, self._granted - spare, self._grant)
        self._reserve = spare - self._credit
        if was_out:
            self._send_pending()

    def use_reserve(self) -> None:
        """Use the credit that was kept back: the peer grants no more, and may wait for these bytes."""
        was_out = not self._credit
        self._credit, self._reserve = self._credit + self._reserve, 0
        if was_out:
            self._send_pending()

    # ------------------------------------------------------------------------------------------- life cycle

    def opened(self, said: messages.Confirmation) -> None:
        """The peer has opened the channel. If the client is gone, close it at once."""
        self._is_open = True
        self._peer, self._largest = said.sender, min(said.largest, LARGEST_SENT)
        self._credit = self._granted = said.window
        if self._wants_close:
            self.close_now()

    def attach(self, user: ChannelUser) -> None:
        """Tell `user` from now on whether there is room."""
        self._user = user
        self._update_user()

    def grant(self, credit: int) -> None:
        """Let the peer send `credit` bytes more."""
        self._out.say(messages.window_adjust(self._peer, credit))

    def refuse_request(self) -> None:
        """Refuse a request of the peer."""
        if not self.has_closed:
            self._out.say(messages.failure(self._peer))

    def write_eof(self) -> None:
        """Send CHANNEL_EOF after pending data."""
        self._wants_eof = True
        self._send_pending()

    def close(self) -> None:
        """Send CHANNEL_CLOSE after pending data."""
        self._wants_close = True
        self._send_pending()

    def drop_pending(self) -> None:
        """Drop pending data: the peer reads nothing more, or the client is gone."""
        self._pending.clear()

    def close_now(self) -> None:
        """Send CHANNEL_CLOSE now; pending data must not follow it."""
        if self._is_open and not self.has_closed:
            self.has_closed = True
            self._out.say(messages.close(self._peer))

    def end(self) -> None:
        """The channel is gone: tell nobody, and wait for nothing."""
        self._flow.forget(self)
        self._user = None
