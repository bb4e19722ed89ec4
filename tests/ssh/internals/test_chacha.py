"""Packets under chacha20-poly1305 are the same as asyncssh's own."""

from __future__ import annotations

from asyncssh.crypto.chacha import ChachaCipher
from hypothesis import given
from hypothesis import strategies as st

from proxy.ssh.internals.chacha import KeptChacha

_KEYS = st.binary(min_size=64, max_size=64)
_PACKETS = st.lists(st.tuples(st.binary(min_size=4, max_size=4), st.binary(max_size=200)), max_size=5)


@given(_KEYS, _PACKETS, st.integers(0, 2**32 - 6))
def test_each_opens_what_the_other_seals(key: bytes, packets: list[tuple[bytes, bytes]], first: int) -> None:
    sealing, opening, theirs = KeptChacha(key), KeptChacha(key), ChachaCipher(key)
    for sequence, (header, data) in enumerate(packets, first):
        nonce = sequence.to_bytes(8)
        sealed, tag = sealing.encrypt_and_sign(header, data, nonce)
        assert (sealed, tag) == theirs.encrypt_and_sign(header, data, nonce)
        assert opening.decrypt_header(sealed[:4], nonce) == header
        assert opening.verify_and_decrypt(sealed[:4], sealed[4:], nonce, tag) == data


@given(_KEYS, st.binary(min_size=1, max_size=100), st.integers(0), st.integers(1, 255))
def test_an_altered_packet_is_not_opened(key: bytes, data: bytes, at: int, change: int) -> None:
    nonce = bytes(8)
    sealed, tag = KeptChacha(key).encrypt_and_sign(bytes(4), data, nonce)
    altered = bytearray(sealed + tag)
    altered[at % len(altered)] ^= change
    body, tag = bytes(altered[: len(sealed)]), bytes(altered[len(sealed) :])
    assert KeptChacha(key).verify_and_decrypt(body[:4], body[4:], nonce, tag) is None
