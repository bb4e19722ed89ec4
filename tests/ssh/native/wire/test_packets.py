"""Packets against asyncssh's own encryption as the oracle, and against a hostile peer."""

from __future__ import annotations

from contextlib import suppress

import pytest
from asyncssh.encryption import GCMEncryption
from hypothesis import given
from hypothesis import strategies as st

from proxy.ssh.native.wire.errors import ProtocolError
from proxy.ssh.native.wire.packets import HEADER, OVERHEAD, TAG, Opener, Sealer

LARGEST = 40_000

keys = st.sampled_from([16, 32]).flatmap(lambda size: st.binary(min_size=size, max_size=size))
# With the second, the nonce's counter wraps to zero.
nonces = st.binary(min_size=12, max_size=12) | st.just(b"abcd" + b"\xff" * 8)
payloads = st.lists(
    st.binary(min_size=1, max_size=300) | st.integers(1, 32_800).map(bytes), min_size=1, max_size=5
)


def oracle(key: bytes, nonce: bytes) -> GCMEncryption:
    return GCMEncryption.new(f"aes{len(key) * 8}-gcm", key, nonce)


def sealed(sealer: Sealer, payloads: list[bytes]) -> bytes:
    buffer = memoryview(bytearray(sum(len(payload) + OVERHEAD for payload in payloads)))
    end = 0
    for payload in payloads:
        buffer[end + HEADER : end + HEADER + len(payload)] = payload
        end = sealer.seal(buffer, end, len(payload))
    return bytes(buffer[:end])


@given(keys, nonces, payloads)
def test_asyncssh_opens_our_sealed_packets(key: bytes, nonce: bytes, payloads: list[bytes]) -> None:
    peer, wire, at = oracle(key, nonce), sealed(Sealer(key, nonce), payloads), 0
    for payload in payloads:
        length = int.from_bytes(wire[at : at + 4])
        end = at + 4 + length
        body = peer.decrypt_packet(0, wire[at : at + 4], wire[at + 4 : end], 4, wire[end : end + TAG])
        assert body is not None
        assert length % 16 == 0
        assert body[0] >= 4
        assert body[1 : -body[0]] == payload
        at = end + TAG
    assert at == len(wire)


@given(keys, nonces, payloads, st.data())
def test_we_open_asyncssh_packets_in_any_pieces(
    key: bytes, nonce: bytes, payloads: list[bytes], data: st.DataObject
) -> None:
    peer, wire = oracle(key, nonce), b""
    for payload in payloads:
        padding = 4 + -(5 + len(payload)) % 16
        body = bytes((padding,)) + payload + bytes(padding)
        wire += b"".join(peer.encrypt_packet(0, len(body).to_bytes(4), body))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    buffer, start, found = memoryview(bytearray(wire)), 0, []
    opener = Opener(key, nonce, largest=LARGEST)
    for arrived in [*cuts, len(wire)]:
        while opened := opener.open(buffer, start, arrived):
            first, last, start = opened
            found.append(bytes(buffer[first:last]))
    assert found == payloads
    assert start == len(wire)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_error_or_an_incomplete_packet(noise: bytes) -> None:
    opener = Opener(bytes(16), bytes(12), largest=LARGEST)
    with suppress(ProtocolError):
        assert opener.open(memoryview(bytearray(noise)), 0, len(noise)) is None


@given(keys, st.binary(min_size=1, max_size=100), st.data())
def test_one_flipped_bit_is_found(key: bytes, payload: bytes, data: st.DataObject) -> None:
    wire = bytearray(sealed(Sealer(key, bytes(12)), [payload]))
    bit = data.draw(st.integers(0, len(wire) * 8 - 1))
    wire[bit // 8] ^= 1 << bit % 8
    opener = Opener(key, bytes(12), largest=LARGEST)
    with suppress(ProtocolError):
        assert opener.open(memoryview(wire), 0, len(wire)) is None  # a longer length: it waits for the rest


@pytest.mark.parametrize("length", [0, 8, 17, LARGEST + 16 - LARGEST % 16, 0xFFFFFFF0])
def test_an_impossible_length_is_refused_before_anything_is_buffered(length: int) -> None:
    opener = Opener(bytes(16), bytes(12), largest=LARGEST)
    with pytest.raises(ProtocolError, match=f"a packet of {length} bytes"):
        opener.open(memoryview(bytearray(length.to_bytes(4))), 0, 4)


@pytest.mark.parametrize("padding", [0, 3, 15, 255])
def test_padding_that_leaves_no_payload_or_is_too_short_is_refused(padding: int) -> None:
    header, body = (16).to_bytes(4), bytes((padding, *range(15)))
    wire = bytearray(b"".join(oracle(bytes(16), bytes(12)).encrypt_packet(0, header, body)))
    with pytest.raises(ProtocolError, match="padding"):
        Opener(bytes(16), bytes(12), largest=LARGEST).open(memoryview(wire), 0, len(wire))
