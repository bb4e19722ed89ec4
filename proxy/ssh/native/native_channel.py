"""A channel of the native data plane (`link_data_plane{mode="native"}`): its life cycle, and the direction
from the cluster. The direction to the cluster is its `Sending`.

The client's transport gets data as memoryviews of the buffer in which it was opened. The cluster gets credit
for the bytes that the client's socket has taken.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from proxy.errors import ProxyError
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import ChannelUser, Pieces
from proxy.ssh.data_plane import OnAnswer, Refusal
from proxy.ssh.native.buffers import RECEIVED
from proxy.ssh.native.flow import Flow
from proxy.ssh.native.outgoing import Outgoing
from proxy.ssh.native.sending import Sending
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.errors import ProtocolError
from proxy.ssh.native.wire.window import ReceiveWindow


class Owner(Protocol):
    """What a channel needs of its plane."""

    @property
    def round_trip(self) -> float:
        """Seconds of a round trip without load."""

    @property
    def received(self) -> int:
        """Bytes that have arrived on the link so far."""

    def add(self, channel: NativeChannel) -> int:
        """Add a new channel. Returns our number for it."""

    def release(self, number: int) -> None:
        """The channel was refused, so its number is free at once."""

    def closed(self, number: int) -> None:
        """Both sides have closed the channel of that number."""

    def ended(self, channel: NativeChannel) -> None:
        """The channel has ended."""


class NativeChannel:
    """A `proxy.relay.interfaces.Channel`.

    Half-close takes two flags for each direction: EOF and CLOSE, sent and received.
    """

    counts_unsent: Final = True
    """The budget counts the whole window, and the cluster gets credit only for what the client has read."""

    __slots__ = (
        "_budget",
        "_ended",
        "_had_close",
        "_had_eof",
        "_is_discarding",
        "_is_paused",
        "_loop",
        "_on_answer",
        "_owner",
        "_pieces",
        "_sending",
        "_told_eof",
        "_undelivered",
        "_untaken",
        "_user",
        "_window",
        "buffer_updated",
        "get_buffer",
        "is_answered",
        "number",
    )

    def __init__(
        self,
        owner: Owner,
        out: Outgoing,
        flow: Flow,
        budget: MemoryBudget,
        window: int,
        on_answer: OnAnswer,
    ) -> None:
        self._owner = owner
        self._budget = budget
        self._loop = asyncio.get_running_loop()
        self._on_answer = on_answer
        self._window = ReceiveWindow(window, now=self._loop.time())
        self._user: ChannelUser | None = None
        self._ended: tuple[ProxyError | None] | None = None
        self._pieces: Pieces = []  # of this read, not passed on yet
        self._undelivered = bytearray()  # arrived while the user was paused, or before it was attached
        self._untaken = 0  # passed on, but the client's socket has not taken it: no credit yet
        self._is_paused = True
        self._is_discarding = False
        self._had_eof = self._told_eof = False
        self._had_close = False
        self.is_answered = False
        """Whether the peer has opened or refused the channel."""
        self.number = owner.add(self)
        """Our number for the channel, which the peer's messages contain."""
        self._sending = sending = Sending(out, flow, self.number)
        # Without methods in between: these are called for each read from a client's socket.
        self.get_buffer, self.buffer_updated = sending.get_buffer, sending.buffer_updated

    def __repr__(self) -> str:
        had = (
            f"had eof={self._had_eof} close={self._had_close} "
            f"window={self._window.credit}/{self._window.size}"
        )
        return f"<NativeChannel {self.number} {self._sending} {had} paused={self._is_paused}>"

    # ------------------------------------------------------------------------------------ from the cluster

    def data(self, data: memoryview) -> bool:
        """Pass `data` to the user; True if the user may have kept the memoryview. Raises ProtocolError."""
        return self._arrived(data) and self._pass_to_user([data], len(data))

    def keep(self, data: memoryview) -> None:
        """Keep `data`, until `pass_on` passes it on together with the data after it. Raises ProtocolError."""
        if self._arrived(data):
            self._pieces.append(data)

    def pass_on(self) -> bool:
        """Pass what was kept to the user in one write; True if the user may have kept memoryviews of it."""
        pieces, self._pieces = self._pieces, []
        return bool(pieces) and self._pass_to_user(pieces, sum(map(len, pieces)))

    def _arrived(self, data: memoryview) -> bool:
        """Whether `data` may be passed on now; otherwise it is kept for later, or dropped."""
        self._window.received(len(data))
        if self._had_eof or self._had_close:
            raise ProtocolError(f"data on channel {self.number} after its end")
        if self._is_discarding:
            return False
        if self._is_paused or self._user is None:
            self._undelivered += data
            return False
        return True

    def _pass_to_user(self, pieces: Pieces, nbytes: int) -> bool:
        if self._user is None:
            return False
        # A client that stalls keeps the whole buffer. If the window is smaller than that, the client gets a
        # copy.
        is_copied = self._window.size < RECEIVED.size
        self._user.channel_data([bytes(piece) for piece in pieces] if is_copied else pieces, nbytes)
        if self._is_paused:  # `channel_data` has paused it
            self._untaken += nbytes
            return not is_copied and self._user is not None  # `detach` keeps a copy
        self._grant_if_due(nbytes)
        return False

    def _grant_if_due(self, nbytes: int) -> None:
        """The client's socket has taken `nbytes`: grant the cluster credit if that is enough for a grant."""
        window = self._window
        if not window.consumed(nbytes) or self._had_eof or self._sending.has_closed:
            return
        if window.is_due:
            self._review(window)
        if credit := window.grant():
            self._sending.grant(credit)

    def _review(self, window: ReceiveWindow) -> None:
        budget, now, owner = self._budget, self._loop.time(), self._owner
        ceiling = window.ceiling(owner.round_trip, owner.received)
        if window.is_small(now, owner.round_trip):
            window.grow(budget.acquire_growth(window.size, ceiling))
        budget.release(window.shrink(now, ceiling, tight=budget.is_tight))
        window.reviewed(now, owner.received)

    def _deliver(self) -> None:
        """Pass on what arrived while the user was paused, and then EOF if it came."""
        if self._user is None:
            return
        if self._undelivered and not self._is_paused:
            data, self._undelivered = self._undelivered, bytearray()
            self._pass_to_user([data], len(data))
        if self._undelivered or self._user is None:  # `channel_data` has ended the channel
            return
        if self._had_eof and not self._told_eof:
            self._told_eof = True
            self._user.channel_eof()
        if self._had_close and self._sending.has_closed:
            self._end(None)

    def pause_reading(self) -> None:
        """The client is slow: pass on no more data, and grant no credit."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """The client has read everything."""
        self._is_paused = False
        untaken, self._untaken = self._untaken, 0
        if untaken:
            self._grant_if_due(untaken)
        self._deliver()

    # --------------------------------------------------------------------------------------- from the peer

    def confirmed(self, answer: messages.Confirmation) -> None:
        """The peer has opened the channel."""
        if self.is_answered:
            raise ProtocolError(f"channel {self.number} was opened twice")
        self._sending.opened(answer)
        self._answered(None)

    def refused(self, refusal: Refusal) -> None:
        """The peer has refused to open the channel."""
        if self.is_answered:
            raise ProtocolError(f"channel {self.number} was refused after it was opened")
        self._answered(refusal)
        self._owner.release(self.number)
        self._end(None)

    def _answered(self, refusal: Refusal | None) -> None:
        self.is_answered = True
        self._on_answer(refusal)

    def adjusted(self, credit: int) -> None:
        """The peer has granted `credit` bytes more. Raises ProtocolError."""
        self._sending.adjusted(credit)

    def eof_received(self) -> None:
        """The cluster sends no more."""
        self._had_eof = True
        self._deliver()

    def close_received(self) -> None:
        """The peer has closed the channel and reads nothing more from it."""
        if self._had_close:
            raise ProtocolError(f"channel {self.number} was closed twice")
        self._had_close = True
        self._sending.drop_pending()
        self._sending.close_now()
        self._owner.closed(self.number)
        if self._is_discarding or not self._undelivered:
            self._deliver()
            self._end(None)

    def request(self, *, wants_reply: bool) -> None:
        """Refuse a request on this channel (OpenSSH sends `keepalive@openssh.com`)."""
        if wants_reply:
            self._sending.refuse_request()

    # ------------------------------------------------------------------------------------------- life cycle

    def attach(self, user: ChannelUser) -> None:
        """Start to deliver. If the channel has ended already, `channel_lost` is called in the next turn."""
        if self._ended is not None and not self._undelivered:
            if self._had_eof:
                self._loop.call_soon(user.channel_eof)
            self._loop.call_soon(user.channel_lost, self._ended[0])  # the user's last call
            return
        self._user = user
        self.resume_reading()
        if self._ended is None and self._user is not None:
            self._sending.attach(user)

    def detach(self, unread: bytes = b"") -> None:
        """See `proxy.relay.interfaces.Channel`. The cluster gets no credit for `unread` until it is read."""
        self._user = None
        self._is_paused = True
        self._told_eof = False
        self._sending.detach()
        if self._ended is None or self._ended[0] is None:
            self._undelivered[:0] = unread
            self._untaken -= len(unread)

    def write_eof(self) -> None:
        """Send CHANNEL_EOF after pending data."""
        self._sending.write_eof()

    def close(self) -> None:
        """Send CHANNEL_CLOSE after pending data; drop data that still arrives."""
        self._discard()
        self._sending.close()

    def abort(self) -> None:
        """Drop pending data, and send CHANNEL_CLOSE now."""
        self._sending.drop_pending()
        self.close()

    def lost(self, error: ProxyError) -> None:
        """The link has ended. A channel that the peer had closed before counts as closed in order."""
        if not self.is_answered:
            self._answered((messages.CONNECT_FAILED, str(error)))
        if not self._had_close:
            self._undelivered.clear()
            self._end(error)

    def _discard(self) -> None:
        """Drop data that still arrives.

        That needs no memory, so the window is released now. sshd's CLOSE may come much later: sshd sends it
        when the API server has read everything that sshd still holds for it.
        """
        if not self._is_discarding and self._ended is None:
            self._budget.release(self._window.size)
        self._is_discarding = True
        self._undelivered.clear()
        if self._had_close:
            self._end(None)

    def _end(self, error: ProxyError | None) -> None:
        if self._ended is None:
            self._ended = (error,)
            self._sending.end()
            if not self._is_discarding:
                self._budget.release(self._window.size)
            self._owner.ended(self)
        # Otherwise channel and relay would keep each other alive until the garbage collector runs.
        user, self._user = self._user, None
        if user is not None:
            user.channel_lost(self._ended[0])
