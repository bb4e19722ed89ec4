"""Ciphers and key exchanges on the native data plane, with a real sshd: after bytes or time, by either side,
under load.

`KUBEMUX_TEST_REKEY_MB=2048 pytest -s -k changes_keys tests/ssh/test_native_keys.py` is the long run: 2 GiB
each way through thousands of key exchanges, and what the longest time without a byte was.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Any, Final, cast

import asyncssh
import pytest

from proxy.runtime.endpoint import Endpoint
from proxy.ssh.native.native_plane import NativePlane
from proxy.ssh.native.wire.keys import Keys
from tests.ssh.carried import Tunnel, closed, download, tunnel, until, upload
from tests.ssh.conftest import Watched, config_for, started
from tests.support.echo import Echo, Sink, Source, exchange, pattern
from tests.support.sshd import Sshd, SshdFactory

pytestmark = pytest.mark.sshd

MiB = 1 << 20
AES, CHACHA = "aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"
CARRIED = (AES, "aes256-gcm@openssh.com", CHACHA)

REKEYED: Final = int(os.environ.get("KUBEMUX_TEST_REKEY_MB", "24")) * MiB
"""Bytes each way; 2048 for a long run."""

PIECE: Final = 8 * MiB
"""Bytes of each transfer; they follow each other on one link."""


@pytest.fixture(autouse=True)
def _native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEMUX_DATA_PLANE", "native")


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the key changes of each direction."""
    counts: Counter[str] = Counter()
    sending, receiving = NativePlane.sending_keys, NativePlane.receiving_keys

    def count_sending(plane: NativePlane, keys: Keys) -> None:
        counts["sending"] += 1
        sending(plane, keys)

    def count_receiving(plane: NativePlane, keys: Keys) -> None:
        counts["receiving"] += 1
        receiving(plane, keys)

    monkeypatch.setattr(NativePlane, "sending_keys", count_sending)
    monkeypatch.setattr(NativePlane, "receiving_keys", count_receiving)
    return counts


class Gaps(Sink):
    """A sink that measures the longest time without a byte, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.longest = 0.0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop, read = asyncio.get_running_loop(), reader.read

        async def timed(n: int = -1) -> bytes:
            began = loop.time()
            data = await read(n)
            self.longest = max(self.longest, loop.time() - began)
            return data

        cast("Any", reader).read = timed
        await super().handle(reader, writer)


async def rekeyed(port: Endpoint, way: str) -> float:
    """Transfer `REKEYED` bytes and check them. Returns the longest time without a byte in a download, in
    seconds.
    """
    longest = 0.0
    for seed in range(max(1, REKEYED // PIECE)):
        if way == "both":
            data = pattern(PIECE, seed % 4)
            assert await exchange(port, data, seconds=300) == data
        elif way == "up":
            await upload(port, PIECE)
        else:
            longest = max(longest, await download(port, PIECE))
    return longest


def connection(gateway: Watched) -> Any:
    """asyncssh's connection under the only link."""
    return gateway._links[0]._conn


@pytest.mark.parametrize(
    ("way", "cipher"), [("up", AES), ("down", AES), ("both", AES), ("up", CHACHA), ("down", CHACHA)]
)
async def test_sshd_changes_keys_every_megabyte(
    sshd_factory: SshdFactory, changes: Counter[str], way: str, cipher: str
) -> None:
    sshd, server = (
        sshd_factory(config={"RekeyLimit": "1M", "Ciphers": cipher}),
        {"up": Gaps, "down": Source, "both": Echo}[way](),
    )
    began = asyncio.get_running_loop().time()
    async with tunnel(sshd, server) as (gateway, port):
        assert gateway.snapshot().links[0].cipher == cipher
        longest = await rekeyed(port, way)
        # The last bytes may have started one more exchange.
        await until(lambda: changes["sending"] == changes["receiving"])
    assert REKEYED // MiB // 4 <= changes["sending"] <= REKEYED // MiB * 10, (
        "the server does not start an exchange for each packet"
    )
    longest = server.longest if isinstance(server, Gaps) else longest
    seconds = asyncio.get_running_loop().time() - began
    said = f"{REKEYED / MiB:.0f} MiB in {seconds:.1f} s, {changes}, longest gap {longest:.3f} s"
    print(f"{way}, {cipher}: {said}")  # noqa: T201


@pytest.mark.parametrize(("way", "cipher"), [("up", AES), ("both", AES), ("both", CHACHA)])
async def test_we_change_keys_every_megabyte(
    sshd_factory: SshdFactory, changes: Counter[str], way: str, cipher: str
) -> None:
    async with tunnel(sshd_factory(config={"Ciphers": cipher}), Sink() if way == "up" else Echo()) as (
        gateway,
        port,
    ):
        connection(gateway)._rekey_bytes = MiB  # asyncssh's own limit
        await rekeyed(port, way)
    assert changes["sending"] >= REKEYED // MiB // 4


@pytest.mark.parametrize("cipher", [AES, CHACHA])
async def test_we_change_keys_when_they_are_old(
    sshd_factory: SshdFactory, changes: Counter[str], cipher: str
) -> None:
    async with tunnel(sshd_factory(config={"Ciphers": cipher}), Echo()) as (gateway, port):
        data = pattern(MiB)
        connection(gateway)._rekey_seconds = 0.01
        connection(gateway)._rekey_time = 0.0
        while changes["receiving"] < 10:
            assert await exchange(port, data) == data
        connection(gateway)._rekey_seconds = 0  # never again
        await closed(gateway)
        ended = changes["sending"]
        assert await exchange(port, data) == data
    assert changes["sending"] <= ended + 1


@pytest.mark.parametrize("cipher", CARRIED)
async def test_every_cipher_of_the_native_plane_carries_bytes(sshd_factory: SshdFactory, cipher: str) -> None:
    async with tunnel(sshd_factory(config={"Ciphers": cipher}), Echo()) as (gateway, port):
        assert gateway.snapshot().links[0].cipher == cipher
        data = [pattern(MiB, seed) for seed in range(3)]
        assert await asyncio.gather(*(exchange(port, part) for part in data)) == data


async def test_aes_is_preferred(sshd: Sshd) -> None:
    async with tunnel(sshd, Echo()) as (gateway, port):
        assert gateway.snapshot().links[0].cipher == AES
        assert await exchange(port, b"hello") == b"hello"


async def test_another_cipher_leaves_the_link_to_asyncssh(sshd_factory: SshdFactory) -> None:
    async with started(config_for(sshd_factory(config={"Ciphers": "aes256-ctr"}))) as gateway, Echo() as echo:
        await gateway.until(lambda: gateway.links == 1)
        assert gateway.snapshot().links[0].data_plane == "asyncssh"
        async with Tunnel(gateway, echo.endpoint, gateway) as port:
            data = pattern(MiB)
            assert await exchange(port.endpoint, data) == data


@pytest.mark.parametrize("is_strict", [True, False])
async def test_ciphers_may_change_with_the_keys(
    sshd: Sshd, changes: Counter[str], monkeypatch: pytest.MonkeyPatch, is_strict: bool
) -> None:
    """Under chacha20 the sequence number is the nonce. With strict key exchange it starts again at each
    exchange.
    """
    if not is_strict:
        monkeypatch.setattr(asyncssh.SSHClientConnection, "_get_extra_kex_algs", lambda _: [b"ext-info-c"])
        # asyncssh uses strict key exchange whenever the server offers it.
        never = property(lambda _: False, lambda *_: None)
        monkeypatch.setattr(asyncssh.SSHClientConnection, "_strict_kex", never, raising=False)
    async with tunnel(sshd, Echo()) as (gateway, port):
        conn, data = connection(gateway), pattern(MiB)
        assert conn._strict_kex == is_strict
        # A change to a cipher that we cannot handle is not possible.
        assert all(name.decode() in CARRIED for name in conn._enc_algs)
        for cipher in (CHACHA, AES, CHACHA, CHACHA, AES):
            seen = changes["receiving"]
            conn._enc_algs = [cipher.encode()]
            conn._rekey_bytes = MiB // 2
            assert await exchange(port, data) == data
            conn._rekey_bytes = 1 << 40
            assert await exchange(port, data) == data
            assert changes["receiving"] > seen
            assert conn.get_extra_info("send_cipher") == cipher
