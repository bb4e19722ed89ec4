"""Sealing and opening a packet, under both ciphers."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.parts.peer import timed
from proxy.ssh.native.wire.chacha import ChachaOpener, ChachaSealer
from proxy.ssh.native.wire.packets import OVERHEAD, Opener, Sealer

SIZES = (100, 1024, 32 << 10)
CIPHERS: dict[str, tuple[Any, Any, bytes, bytes]] = {
    "aes128-gcm": (Sealer, Opener, bytes(16), bytes(12)),
    "aes256-gcm": (Sealer, Opener, bytes(32), bytes(12)),
    "chacha20-poly1305": (ChachaSealer, ChachaOpener, bytes(64), bytes(8)),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cipher", CIPHERS)
def test_seal(benchmark: BenchmarkFixture, cipher: str, size: int) -> None:
    make, _, key, nonce = CIPHERS[cipher]
    sealer, buffer = make(key, nonce), memoryview(bytearray(size + OVERHEAD))
    end = benchmark(sealer.seal, buffer, 0, size)
    assert size < end <= size + OVERHEAD


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cipher", CIPHERS)
def test_open(benchmark: BenchmarkFixture, cipher: str, size: int) -> None:
    """Each round opens new packets, because an opened packet is clear text and the nonce has changed."""
    make_sealer, make_opener, key, nonce = CIPHERS[cipher]
    sealer, opener = make_sealer(key, nonce), make_opener(key, nonce, largest=size + OVERHEAD)
    count = 100
    buffer = memoryview(bytearray(count * (size + OVERHEAD)))
    end = 0

    def seal_all() -> None:
        nonlocal end
        end = 0
        for _ in range(count):
            end = sealer.seal(buffer, end, size)

    def open_all() -> int:
        start = 0
        while opened := opener.open(buffer, start, end):
            start = opened[2]
        return start

    opened = timed(benchmark, open_all, items=count, setup=seal_all, rounds=200, warmup_rounds=5)
    assert opened == end
