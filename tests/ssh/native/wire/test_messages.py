"""Messages against asyncssh's parser as the oracle, and against any bytes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from asyncssh.packet import SSHPacket, String, UInt32
from hypothesis import given
from hypothesis import strategies as st

from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.errors import ProtocolError

numbers = st.integers(0, 0xFFFFFFFF)
ports = st.integers(1, 65535)


def read(message: bytes) -> SSHPacket:
    packet = SSHPacket(message)
    assert packet.get_byte() == message[0]
    return packet


@given(numbers, numbers)
def test_channel_messages_are_encoded_as_in_rfc_4254(channel: int, number: int) -> None:
    packet = read(messages.window_adjust(channel, number))
    assert (packet.get_uint32(), packet.get_uint32()) == (channel, number)
    packet.check_end()
    for kind, message in (
        (messages.EOF, messages.eof(channel)),
        (messages.CLOSE, messages.close(channel)),
        (messages.FAILURE, messages.failure(channel)),
    ):
        packet = read(message)
        assert message[0] == kind
        assert packet.get_uint32() == channel
        packet.check_end()


@given(numbers, numbers, st.text(), ports, st.text(), ports)
def test_an_open_request_is_encoded_as_asyncssh_reads_it(
    sender: int, window: int, host: str, port: int, origin: str, origin_port: int
) -> None:
    packet = read(
        messages.open_tcpip(messages.DIRECT, sender, window, 32768, (host, port), (origin, origin_port))
    )
    assert packet.get_string() == b"direct-tcpip"
    assert [packet.get_uint32() for _ in range(3)] == [sender, window, 32768]
    assert (packet.get_string(), packet.get_uint32()) == (host.encode(), port)
    assert (packet.get_string(), packet.get_uint32()) == (origin.encode(), origin_port)
    packet.check_end()


@given(numbers, st.binary(max_size=100))
def test_data_is_encoded_and_parsed(channel: int, data: bytes) -> None:
    buffer = memoryview(bytearray(messages.DATA_HEADER) + data)
    messages.put_data_header(buffer, 0, channel, len(data))
    packet = read(bytes(buffer))
    assert (packet.get_uint32(), packet.get_string()) == (channel, data)
    packet.check_end()
    assert messages.recipient(buffer) == channel
    number, found = messages.parse_data(buffer)
    assert (number, bytes(found)) == (channel, data)


@given(numbers, numbers, numbers, st.integers(1, 0xFFFFFFFF))
def test_a_confirmation_is_parsed(ours: int, theirs: int, window: int, largest: int) -> None:
    message = memoryview(
        bytes((messages.OPEN_CONFIRMATION,)) + b"".join(map(UInt32, (ours, theirs, window, largest)))
    )
    assert messages.recipient(message) == ours
    assert messages.parse_confirmation(message) == (theirs, window, largest)


@given(numbers, st.text(max_size=300))
def test_a_refusal_is_printable_and_short(code: int, words: str) -> None:
    message = bytes((messages.OPEN_FAILURE,)) + UInt32(1) + UInt32(code) + String(words) + String("en")
    found, said = messages.parse_failure(memoryview(message))
    assert found == code
    assert len(said) <= 200
    assert all(letter.isprintable() for letter in said)


@pytest.mark.parametrize("wants_reply", [True, False])
def test_a_channel_request_says_whether_it_wants_a_reply(wants_reply: bool) -> None:
    message = bytes((messages.REQUEST,)) + UInt32(1) + String("keepalive@openssh.com") + bytes((wants_reply,))
    assert messages.parse_request(memoryview(message)) is wants_reply


PARSERS: list[Callable[[memoryview], object]] = [
    messages.recipient,
    messages.parse_bare,
    messages.parse_confirmation,
    messages.parse_data,
    messages.parse_failure,
    messages.parse_request,
    messages.parse_window_adjust,
]


@given(st.sampled_from(PARSERS), st.binary(max_size=64))
def test_any_bytes_are_a_message_or_a_protocol_error(
    parse: Callable[[memoryview], object], noise: bytes
) -> None:
    with suppress(ProtocolError):
        parse(memoryview(noise))


def test_a_channel_for_empty_packets_is_refused() -> None:
    message = bytes((messages.OPEN_CONFIRMATION,)) + b"".join(map(UInt32, (1, 2, 3, 0)))
    with pytest.raises(ProtocolError, match="0 bytes"):
        messages.parse_confirmation(memoryview(message))
