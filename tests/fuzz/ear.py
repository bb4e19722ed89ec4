"""Checks the link's packets, as a gateway receives them: each can be decrypted, and follows the protocol."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.packets import Opener
from tests.fuzz.border import KEYS

LARGEST_PACKET = 40_000
"""The longest packet: OpenSSH accepts 256 KiB; we send at most 32 KiB of data."""


@dataclass(slots=True)
class Known:
    """A channel as the gateway knows it: our `number`, how many bytes the gateway may send, and how many we
    may send in all and in one packet.
    """

    number: int
    window: int
    credit: int
    largest: int
    had_eof: bool = False
    had_close: bool = False
    sent_eof: bool = False
    sent_close: bool = False


class Ear:
    """Checks the bytes that the link writes. `channels` are by the gateway's own numbers."""

    def __init__(self) -> None:
        self.asked: dict[int, int] = {}
        """Our window, by our channel number, for each OPEN of ours without an answer."""
        self.wanted: dict[int, tuple[int, int]] = {}
        """Credit and largest packet, by the peer's channel number, for each OPEN of the peer without an
        answer.
        """
        self.channels: dict[int, Known] = {}
        self.is_exchanging = False
        """Whether our KEXINIT has come and our NEWKEYS has not: no channel message may come (RFC
        4253 7.1).
        """
        self._opener = Opener(*KEYS, largest=LARGEST_PACKET)
        self._unread = b""

    def hear(self, data: bytes | memoryview) -> None:
        """Check bytes that were written to the link."""
        view, start = memoryview(bytearray(self._unread + data)), 0
        while opened := self._opener.open(view, start, len(view)):
            first, last, start = opened
            self._message(bytes(view[first:last]))
        self._unread = bytes(view[start:])

    def _message(self, message: bytes) -> None:
        kind = message[0]
        if kind in (messages.KEXINIT, messages.NEWKEYS):
            assert self.is_exchanging == (kind == messages.NEWKEYS)
            self.is_exchanging = kind == messages.KEXINIT
            if kind == messages.NEWKEYS:
                self._opener = Opener(*KEYS, largest=LARGEST_PACKET)
            return
        assert not self.is_exchanging, f"a message of type {kind} while keys are exchanged"
        if kind == messages.OPEN:
            asked = messages.parse_open(memoryview(message))
            assert asked.sender not in self.asked
            self.asked[asked.sender] = asked.window
            return
        if kind in (messages.OPEN_CONFIRMATION, messages.OPEN_FAILURE):
            number = messages.recipient(memoryview(message))
            wanted = self.wanted.pop(number)
            if kind == messages.OPEN_CONFIRMATION:
                said = messages.parse_confirmation(memoryview(message))
                self.channels[number] = Known(said.sender, said.window, *wanted)
            return
        channel = self.channels[int.from_bytes(message[1:5])]
        assert not channel.had_close, f"a message of type {kind} after CLOSE"
        if kind == messages.DATA:
            size = len(messages.parse_data(memoryview(message))[1])
            assert not channel.had_eof, "data after EOF"
            assert 0 < size <= min(channel.credit, channel.largest), f"{size} bytes of data to {channel}"
            channel.credit -= size
        elif kind == messages.EOF:
            assert not channel.had_eof
            channel.had_eof = True
        elif kind == messages.CLOSE:
            channel.had_close = True
        elif kind == messages.WINDOW_ADJUST:
            channel.window += messages.parse_window_adjust(memoryview(message))
        else:
            assert kind == messages.FAILURE, f"a message of type {kind}"
