"""Our numbers for the channels of one link (RFC 4254 5.1)."""

from __future__ import annotations

from collections import deque
from typing import Final

from proxy.ssh.native.native_channel import NativeChannel
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.errors import ProtocolError

REMEMBERED: Final = 1024
"""How many closed channels are remembered. Their numbers are not used for new channels yet.

Until our CLOSE arrives, a peer may still send messages for a channel, most often WINDOW_ADJUST. OpenSSH
ignores such late messages, and so do we. A new channel with the same number would take them for its own.
"""


class Numbers:
    """The channels that have a number."""

    def __init__(self) -> None:
        self.channels: dict[int, NativeChannel] = {}
        self.free: list[int] = []
        self._closed: deque[int] = deque()

    def __repr__(self) -> str:
        return f"<Numbers used={len(self.channels)} free={len(self.free)} closed={len(self._closed)}>"

    def allocate(self, channel: NativeChannel) -> int:
        """A number for a new channel: the oldest closed one if enough are remembered, otherwise a new one."""
        if self.free:
            number = self.free.pop()
        elif len(self._closed) > REMEMBERED:
            number = self._closed.popleft()
        else:
            number = len(self.channels) + len(self._closed)
        self.channels[number] = channel
        return number

    def release(self, number: int) -> None:
        """Free the number of a refused channel at once: no late message can arrive for it."""
        del self.channels[number]
        self.free.append(number)

    def closed(self, number: int) -> None:
        """Remember the number of a closed channel: late messages of the peer may still arrive."""
        del self.channels[number]
        self._closed.append(number)

    def find(self, kind: int, number: int) -> NativeChannel | None:
        """The channel of a message of type `kind`; None if the channel is closed, and the message is late.

        Raises ProtocolError if no such channel is open.
        """
        channel = self.channels.get(number)
        if channel is None:
            if kind > messages.OPEN_FAILURE and number in self._closed:
                return None
            raise ProtocolError(f"a message of type {kind} for channel {number}, which is not open")
        if not channel.is_answered and kind > messages.OPEN_FAILURE:
            raise ProtocolError(f"a message of type {kind} for channel {number}, which is not open yet")
        return channel
