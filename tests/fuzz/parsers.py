"""Every parser of a channel message, on any bytes: it returns a value from within them, or raises
ProtocolError.
"""

from __future__ import annotations

from contextlib import suppress

from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.errors import ProtocolError
from tests.fuzz.choices import Choices


def run(data: bytes) -> None:
    """Run one input. Raises if a rule is broken."""
    choices = Choices(data)
    which = choices.below(9)
    message = memoryview(choices.rest())
    with suppress(ProtocolError):
        if which == 0:
            assert 0 <= messages.recipient(message) <= 0xFFFFFFFF
        elif which == 1:
            messages.parse_bare(message)
            assert len(message) == 5
        elif which == 2:
            confirmation = messages.parse_confirmation(message)
            assert all(0 <= number <= 0xFFFFFFFF for number in confirmation)
            assert confirmation.largest
        elif which == 3:
            number, found = messages.parse_data(message)
            assert number == messages.recipient(message)
            assert found == message[messages.DATA_HEADER :]
        elif which == 4:
            _, words = messages.parse_failure(message)
            assert len(words) <= 200
            assert words.isprintable()
        elif which == 5:
            messages.parse_request(message)
        elif which == 6:
            asked = messages.parse_open(message)
            assert asked.largest
            assert message[-len(asked.rest) :] == asked.rest or not asked.rest
        elif which == 7:
            ends = messages.parse_tcpip(bytes(message))
            assert sum(len(host) + 8 for host, _ in ends) == len(message)
        else:
            assert 0 <= messages.parse_window_adjust(message) <= 0xFFFFFFFF
