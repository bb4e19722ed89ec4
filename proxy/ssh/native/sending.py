"""The direction of a channel to the cluster: a client's bytes are sealed from the buffer that they were read
into.

They may be sent if the peer has granted credit (RFC 4254 5.2) and the link has room
(`proxy.ssh.native.flow`). If not, the client's socket is not read. Bytes that were read before that, at most
one read, are pending.
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
"""Bytes of data in a packet. OpenSSH accepts so many; larger packets would cost hardly less per byte."""

PACKETS: Final = 8
"""How many packets one read from a client fills: that takes one system call to read them, and one to write
them.

With one packet for each read, a GB costs 0.70 s of CPU; with eight, 0.53 s (`ssh -L`: 0.77). The limit counts
packets, not bytes, because a peer may ask for small ones: 256 KiB in packets of one byte took 2 s and 9 MB.
"""

LARGEST_READ: Final = PACKETS * LARGEST_SENT
"""Bytes of the largest read."""

_SMALL_READ: Final = 4 << 10
"""Bytes of the largest read while nothing may be sent: uvloop reads once more after `pause_reading`."""

_read = memoryview(bytearray(DATA_AT + LARGEST_READ + PADDING))
"""The buffer for the bytes of all clients: before another client is read, they are sealed or copied to
`_pending`.
"""


class Sending:
    """What one channel sends. It is a `proxy.ssh.native.flow.Sender`.

    EOF and CLOSE have two flags each, one for wanted and one for sent, because pending data goes first.
    """

    __slots__ = (
        "_credit",
        "_flow",
        "_is_blocked",
        "_is_full",
        "_is_held",
        "_is_open",
        "_largest",
        "_number",
        "_out",
        "_peer_window",
        "_pending",
        "_recipient",
        "_reserve",
        "_sent_eof",
        "_smallest_grant",
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
        self._recipient = 0
        self._credit = 0
        self._reserve = 0
        self._peer_window = 0
        self._smallest_grant = messages.BIGGEST_WINDOW
        self._largest = 0
        self._pending = bytearray()
        self._is_blocked = False
        self._is_held = False
        self._is_full = False
        # Before the peer has opened the channel we do not know its number for it, so nothing can be sent.
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
        """Room for as many bytes as may be sent now; a little room if none may."""
        del sizehint
        self._is_blocked = (
            not self._credit or self._flow.is_shut or self._is_held or self.has_closed or bool(self._pending)
        )
        most = (
            _SMALL_READ
            if self._is_blocked
            else self._largest
            if self._flow.is_congested
            else PACKETS * self._largest
        )
        return _read[DATA_AT : DATA_AT + min(self._credit or most, most)]

    def buffer_updated(self, nbytes: int) -> None:
        """Seal `nbytes` from the buffer, or keep them if they may not be sent.

        It seals all of them, even if the link becomes full before the last: they are one read at most.
        """
        if self._is_blocked:
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
        self._out.put_data(self._recipient, _read, at, nbytes)
        self._credit -= nbytes
        self._flow.spend(self, nbytes)

    # ------------------------------------------------------------------------------------------ backpressure

    def _keep(self, nbytes: int) -> None:
        if self.has_closed or self._wants_close:
            return
        self._pending += _read[DATA_AT : DATA_AT + nbytes]
        if self._flow.is_shut:
            self._flow.wait(self)
        self._update_user()

    def _send_pending(self) -> None:
        """Send pending bytes; then EOF and CLOSE, if they are wanted."""
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
                self._out.send(messages.eof(self._recipient))
            if self._wants_close:
                self.close_now()
        self._update_user()

    def _update_user(self) -> None:
        """Tell the user to stop or to go on reading from the client, if that has changed."""
        is_full = bool(self._is_held or self._pending or not self._credit)
        if self._user is not None and is_full != self._is_full:
            self._is_full = is_full
            if is_full:
                self._user.channel_full()
            else:
                self._user.channel_writable()

    def hold(self) -> None:
        """Stop reading from the client: the link has no room (`proxy.ssh.native.flow`)."""
        self._is_held = True
        self._update_user()

    def resume(self) -> None:
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
        self._peer_window = max(self._peer_window, spare)
        self._smallest_grant = min(self._smallest_grant, credit)
        self._credit = self._flow.usable(self, spare, self._peer_window - spare, self._smallest_grant)
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

    def opened(self, answer: messages.Confirmation) -> None:
        """The peer has opened the channel. If the client has gone, end the channel at once."""
        self._is_open = True
        self._recipient, self._largest = answer.sender, min(answer.largest, LARGEST_SENT)
        self._credit = self._peer_window = answer.window
        if self._wants_eof or self._wants_close:
            self._send_pending()

    def attach(self, user: ChannelUser) -> None:
        """From now on, tell `user` when to stop and to go on reading from the client."""
        self._user = user
        self._update_user()

    def detach(self) -> None:
        """Stop calling the user."""
        self._user = None
        self._is_full = False

    def grant(self, credit: int) -> None:
        """Grant the peer `credit` bytes."""
        self._out.send(messages.window_adjust(self._recipient, credit))

    def refuse_request(self) -> None:
        """Refuse a request of the peer."""
        if not self.has_closed:
            self._out.send(messages.failure(self._recipient))

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
            self._out.send(messages.close(self._recipient))

    def end(self) -> None:
        """Leave the flow, and never call the user again: the channel has ended."""
        self._flow.forget(self)
        self._user = None
