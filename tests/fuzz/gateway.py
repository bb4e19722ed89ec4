"""The peer of a link. Its next message depends on what both sides have sent; sometimes it breaks a rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from proxy.ssh.native.incoming import LARGEST_DATA
from proxy.ssh.native.wire import messages
from tests.fuzz.choices import Choices
from tests.fuzz.ear import Ear, Known

NUMBERS = 6
"""Channel numbers in broken messages: some may be open, some are not."""
GLOBAL_REQUEST = 80
"""Message types of no channel, which asyncssh handles."""
FLOOD = 600
"""Messages; more than one turn of the loop opens."""
KINDS = (
    messages.DATA,
    messages.DATA,
    messages.DATA,
    messages.WINDOW_ADJUST,
    messages.WINDOW_ADJUST,
    messages.EOF,
    messages.CLOSE,
    messages.REQUEST,
)
BROKEN_KINDS = (
    *KINDS,
    messages.OPEN_CONFIRMATION,
    messages.OPEN_FAILURE,
    messages.EXTENDED_DATA,
    messages.FAILURE,
)


class Receiver(Protocol):
    """The client that must receive what the gateway sends on a channel."""

    sent: bytearray


class Gateway:
    """A gateway that follows the fuzzer's decisions. `receivers` are by our channel numbers."""

    def __init__(self, choices: Choices, receivers: Mapping[int, Receiver]) -> None:
        self.ear = Ear()
        self._choices = choices
        self._receivers = receivers
        self._mischief = (0, 0, 3, 40)[choices.below(4)]
        """How many of 256 messages break a rule."""
        self.is_honest = True
        """Whether it has followed the rules so far. After that, what kubemux sends is not checked, either."""
        self._last = 1000
        """The last channel number that it has given."""

    def hear(self, data: bytes | memoryview) -> None:
        """Check bytes that the link has sent."""
        if self.is_honest:
            self.ear.hear(data)

    def deviates(self) -> bool:
        """Whether the next message breaks a rule."""
        if self._choices.below(256) >= self._mischief:
            return False
        self.is_honest = False
        return True

    def message(self) -> bytes:
        """The next message; empty if there is none."""
        return self._broken() if self.deviates() else self._honest()

    # --------------------------------------------------------------------------------------- within the rules

    def _honest(self) -> bytes:
        choices, what = self._choices, self._choices.below(32)
        if what == 0:
            return (
                bytes((messages.NEWKEYS,))
                if choices.flag()
                else bytes((GLOBAL_REQUEST,)) + choices.content(20)
            )
        if what == 2:
            return self._open()
        if self.ear.asked and what < 16:
            return self._answer(*self.ear.asked.popitem())
        late = [
            channel for channel in self.ear.channels.values() if channel.sent_close and not channel.had_close
        ]
        if late and what == 1:
            return self._late(late[choices.below(len(late))])
        known = [channel for channel in self.ear.channels.values() if not channel.sent_close]
        return self._on(known[choices.below(len(known))]) if known else b""

    def _open(self) -> bytes:
        """The peer asks for a channel itself."""
        choices = self._choices
        self._last += 1
        credit, largest = choices.uint32(), 1 + choices.uint32() // 2
        self.ear.wanted[self._last] = credit, largest
        ends = ("x" * choices.below(300), choices.uint32()), ("127.0.0.1", 1)
        kind = messages.DIRECT if choices.below(4) else b"session"
        return messages.open_tcpip(kind, self._last, credit, largest, *ends)

    def _late(self, channel: Known) -> bytes:
        """A message on a channel that the gateway has closed and kubemux has not closed yet."""
        to = channel.number.to_bytes(4)
        if self._choices.flag():
            return bytes((messages.REQUEST,)) + to + bytes(4) + b"\1"
        return bytes((messages.WINDOW_ADJUST,)) + to + (1).to_bytes(4)

    def flood(self) -> tuple[bytes, int]:
        """A small message, and how often it is sent at once."""
        choices = self._choices
        known = [channel for channel in self.ear.channels.values() if not channel.sent_close]
        message = bytes((GLOBAL_REQUEST,)) + bytes(5)
        if known and (what := choices.below(4)):
            channel = known[choices.below(len(known))]
            to = channel.number.to_bytes(4)
            message = (
                bytes((messages.REQUEST,)) + to + bytes(4) + b"\1",
                bytes((messages.WINDOW_ADJUST,)) + to + bytes(4),
                bytes((messages.REQUEST if channel.sent_eof else messages.DATA,))
                + to
                + bytes(4 + channel.sent_eof),
            )[what - 1]
        return message, 1 + choices.size(FLOOD)

    def _answer(self, number: int, window: int) -> bytes:
        choices, to = self._choices, number.to_bytes(4)
        if choices.below(8) == 0:
            return bytes((messages.OPEN_FAILURE,)) + to + choices.below(5).to_bytes(4) + bytes(8)
        self._last += 1
        known = self.ear.channels[self._last] = Known(
            number, window, choices.uint32(), 1 + choices.uint32() // 2
        )
        numbers = (self._last, known.credit, known.largest)
        return bytes((messages.OPEN_CONFIRMATION,)) + to + b"".join(value.to_bytes(4) for value in numbers)

    def _on(self, channel: Known) -> bytes:
        choices = self._choices
        kind, to = KINDS[choices.below(len(KINDS))], channel.number.to_bytes(4)
        if kind == messages.WINDOW_ADJUST:
            more = min(choices.uint32(), messages.BIGGEST_WINDOW - channel.credit)
            channel.credit += more
            return bytes((kind,)) + to + more.to_bytes(4)
        if kind == messages.DATA and not channel.sent_eof:
            data = choices.content(min(channel.window, choices.size(LARGEST_DATA)))
            channel.window -= len(data)
            self._receivers[channel.number].sent += data
            return bytes((kind,)) + to + len(data).to_bytes(4) + data
        if kind == messages.CLOSE or (kind == messages.EOF and not channel.sent_eof):
            channel.sent_eof, channel.sent_close = True, kind == messages.CLOSE
            return bytes((kind,)) + to
        return bytes((messages.REQUEST,)) + to + bytes(4) + bytes((choices.below(2),))

    # -------------------------------------------------------------------------------------- against the rules

    def _broken(self) -> bytes:
        """A message whose type, numbers or lengths may be wrong."""
        choices = self._choices
        kind = BROKEN_KINDS[choices.below(len(BROKEN_KINDS))] if not choices.flag() else choices.below(256)
        recipient = choices.below(NUMBERS) if not choices.flag() else choices.uint32()
        body = bytes((kind,)) + recipient.to_bytes(4)
        if kind == messages.OPEN_CONFIRMATION:
            body += b"".join(choices.uint32().to_bytes(4) for _ in range(3))
        elif kind == messages.OPEN_FAILURE:
            words = choices.content(choices.below(40))
            body += choices.uint32().to_bytes(4) + len(words).to_bytes(4) + words + bytes(4)
        elif kind == messages.WINDOW_ADJUST:
            body += choices.uint32().to_bytes(4)
        elif kind == messages.DATA:
            data = choices.content(choices.size(LARGEST_DATA + 2000))
            body += (len(data) if not choices.flag() else choices.uint32()).to_bytes(4) + data
        elif kind not in (messages.EOF, messages.CLOSE):
            body += choices.content(choices.below(40))
        return body[: 1 + choices.below(256) % len(body)] if choices.flag() else body

    def noise(self) -> bytes:
        """Bytes that are not a valid packet. They end the link."""
        return self._choices.content(1 + self._choices.size(5000)) if self.deviates() else b""
