"""Packets under chacha20-poly1305 against asyncssh's own encryption as the oracle, and against a hostile
peer.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
from asyncssh.encryption import ChachaEncryption
from hypothesis import given
from hypothesis import strategies as st

from proxy.ssh.native.wire.chacha import KEY, ChachaOpener, ChachaSealer
from proxy.ssh.native.wire.errors import ProtocolError
from proxy.ssh.native.wire.packets import HEADER, OVERHEAD, TAG

LARGEST = 40_000

keys = st.binary(min_size=KEY, max_size=KEY)
# From the second, the sequence number wraps to zero.
sequences = st.integers(0, 0xFFFFFFFF) | st.just(0xFFFFFFFE)
payloads = st.lists(
    st.binary(min_size=1, max_size=300) | st.integers(1, 32_800).map(bytes), min_size=1, max_size=5
)


def oracle(key: bytes) -> ChachaEncryption:
    return ChachaEncryption.new("chacha20-poly1305", key, b"")


def nonce(sequence: int) -> bytes:
    return sequence.to_bytes(8)


def following(sequence: int, count: int) -> int:
    return (sequence + count) & 0xFFFFFFFF


def sealed(sealer: ChachaSealer, payloads: list[bytes]) -> bytes:
    buffer = memoryview(bytearray(sum(len(payload) + OVERHEAD for payload in payloads)))
    end = 0
    for payload in payloads:
        buffer[end + HEADER : end + HEADER + len(payload)] = payload
        end = sealer.seal(buffer, end, len(payload))
    return bytes(buffer[:end])


def sealed_by_asyncssh(key: bytes, sequence: int, payloads: list[bytes]) -> bytes:
    peer, wire = oracle(key), b""
    for number, payload in enumerate(payloads):
        padding = 4 + -(5 + len(payload)) % 8
        body = bytes((padding,)) + payload + bytes(padding)
        wire += b"".join(peer.encrypt_packet(following(sequence, number), len(body).to_bytes(4), body))
    return wire


@given(keys, sequences, payloads)
def test_asyncssh_opens_our_sealed_packets(key: bytes, sequence: int, payloads: list[bytes]) -> None:
    sealer = ChachaSealer(key, nonce(sequence))
    peer, wire, at = oracle(key), sealed(sealer, payloads), 0
    for number, payload in enumerate(payloads):
        seq = following(sequence, number)
        first, header = peer.decrypt_header(seq, wire[at : at + 4], 4)
        length = int.from_bytes(header)
        end = at + 4 + length
        body = peer.decrypt_packet(seq, first, wire[at + 4 : end], 4, wire[end : end + TAG])
        assert body is not None
        assert length % 8 == 0
        assert body[0] >= 4
        assert body[1 : -body[0]] == payload
        at = end + TAG
    assert at == len(wire)
    assert sealer.sequence == following(sequence, len(payloads))


@given(keys, sequences, payloads, st.data())
def test_we_open_asyncssh_packets_in_any_pieces(
    key: bytes, sequence: int, payloads: list[bytes], data: st.DataObject
) -> None:
    wire = sealed_by_asyncssh(key, sequence, payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    buffer, start, found = memoryview(bytearray(wire)), 0, []
    opener = ChachaOpener(key, nonce(sequence), largest=LARGEST)
    for arrived in [*cuts, len(wire)]:
        while opened := opener.open(buffer, start, arrived):
            first, last, following_at = opened
            found.append(bytes(buffer[first:last]))
            # asyncssh takes whole packets, with the header in clear.
            assert int.from_bytes(buffer[start : start + 4]) == following_at - TAG - start - 4
            start = following_at
    assert found == payloads
    assert start == len(wire)
    assert opener.sequence == following(sequence, len(payloads))


@given(keys, st.binary(min_size=1, max_size=300))
def test_a_packet_may_be_moved_while_the_rest_of_it_arrives(key: bytes, payload: bytes) -> None:
    wire = sealed_by_asyncssh(key, 0, [payload])
    opener = ChachaOpener(key, nonce(0), largest=LARGEST)
    buffer = memoryview(bytearray(100) + wire)
    assert opener.open(buffer, 100, 100 + len(wire) - 1) is None
    buffer[: len(wire)] = wire
    opened = opener.open(buffer, 0, len(wire))
    assert opened
    first, last, _ = opened
    assert buffer[first:last] == payload


@given(keys, st.binary(max_size=200))
def test_any_bytes_are_an_error_or_an_incomplete_packet(key: bytes, noise: bytes) -> None:
    opener = ChachaOpener(key, nonce(0), largest=LARGEST)
    with suppress(ProtocolError):
        assert opener.open(memoryview(bytearray(noise)), 0, len(noise)) is None


@given(keys, st.binary(min_size=1, max_size=100), st.data())
def test_one_flipped_bit_is_found_and_nothing_is_opened(
    key: bytes, payload: bytes, data: st.DataObject
) -> None:
    wire = bytearray(sealed(ChachaSealer(key, nonce(0)), [payload]))
    bit = data.draw(st.integers(0, len(wire) * 8 - 1))
    wire[bit // 8] ^= 1 << bit % 8
    before = bytes(wire)
    opener = ChachaOpener(key, nonce(0), largest=LARGEST)
    with suppress(ProtocolError):
        # The flipped bit made the length longer: it waits for the rest.
        assert opener.open(memoryview(wire), 0, len(wire)) is None
    assert wire == before


@pytest.mark.parametrize("length", [0, 4, 17, LARGEST + 8, 0xFFFFFFF0])
def test_an_impossible_length_is_refused_before_anything_is_buffered(length: int) -> None:
    key = bytes(range(KEY))
    header, _ = oracle(key).encrypt_packet(0, length.to_bytes(4), b"")
    opener = ChachaOpener(key, nonce(0), largest=LARGEST)
    with pytest.raises(ProtocolError, match=f"a packet of {length} bytes"):
        opener.open(memoryview(bytearray(header)), 0, 4)


@pytest.mark.parametrize("padding", [0, 3, 15, 255])
def test_padding_that_leaves_no_payload_or_is_too_short_is_refused(padding: int) -> None:
    key, header, body = bytes(KEY), (16).to_bytes(4), bytes((padding, *range(15)))
    wire = bytearray(b"".join(oracle(key).encrypt_packet(0, header, body)))
    with pytest.raises(ProtocolError, match="padding"):
        ChachaOpener(key, nonce(0), largest=LARGEST).open(memoryview(wire), 0, len(wire))
