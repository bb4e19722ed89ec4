"""SSH servers other than OpenSSH: bulk in both directions, half-close, many channels, refusals, and key
exchanges that either side starts.

On the native data plane, asyncssh's and paramiko's servers use AES-GCM. dropbear lacks that and uses
chacha20-poly1305.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.config.model import GatewayConfig
from proxy.errors import ChannelRefused
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.planes import DATA_PLANE
from tests.ssh.carried import SECONDS, Tunnel, closed
from tests.ssh.conftest import ORIGIN, Watched, started
from tests.support.echo import Echo, Sink, Source, exchange, pattern
from tests.support.other_servers import asyncssh_server, dropbear_server, paramiko_server
from tests.support.ports import free_port

MiB = 1 << 20
SERVERS = ("asyncssh", "paramiko", "dropbear")
NEVER = 1 << 40
OFTEN = 300_000
"""Bytes after which a side starts a key exchange."""


@pytest.fixture
async def stack(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncExitStack]:
    monkeypatch.setenv(DATA_PLANE, "native")
    async with AsyncExitStack() as stack:
        yield stack


async def start(stack: AsyncExitStack, server: str, folder: Path, *, rekey_bytes: int = NEVER) -> Watched:
    """A gateway whose link to `server` is up."""
    config: GatewayConfig
    if server == "asyncssh":
        config = await stack.enter_async_context(asyncssh_server(folder, rekey_bytes=rekey_bytes))
    elif server == "paramiko":
        config = stack.enter_context(paramiko_server(folder, rekey_bytes=rekey_bytes))
    else:
        config = await stack.enter_async_context(dropbear_server(folder))
    gateway = await stack.enter_async_context(started(config))
    await gateway.until(lambda: gateway.links == 1)
    assert gateway.snapshot().links[0].data_plane == "native"
    assert gateway.metric("link_data_plane", mode="native") == 1
    return gateway


async def transfers(stack: AsyncExitStack, gateway: Watched, size: int) -> None:
    """Send `size` bytes and receive their digest after EOF; receive `size` bytes; do both at once."""
    sink, source, echo = [await stack.enter_async_context(server()) for server in (Sink, Source, Echo)]
    up, down, both = [
        (await stack.enter_async_context(Tunnel(gateway, server.endpoint, gateway))).endpoint
        for server in (sink, source, echo)
    ]
    data = pattern(size)
    answers = await asyncio.gather(exchange(up, data), exchange(down, b"%d\n" % size), exchange(both, data))
    assert list(answers) == [hashlib.sha256(data).hexdigest().encode(), data, data]
    await closed(gateway)


@pytest.mark.parametrize("server", SERVERS)
async def test_bytes_arrive_unchanged_in_both_directions(
    stack: AsyncExitStack, tmp_path: Path, server: str
) -> None:
    gateway = await start(stack, server, tmp_path)
    await transfers(stack, gateway, 2 * MiB)


@pytest.mark.parametrize("server", SERVERS)
async def test_a_download_counts_as_bulk(stack: AsyncExitStack, tmp_path: Path, server: str) -> None:
    """dropbear's full packets are smaller than OpenSSH's, and must still count as a bulk transfer."""
    gateway = await start(stack, server, tmp_path)
    source = await stack.enter_async_context(Source())
    port = (await stack.enter_async_context(Tunnel(gateway, source.endpoint, gateway))).endpoint
    assert len(await exchange(port, b"%d\n" % (4 * MiB))) == 4 * MiB
    assert gateway._links[0]._plane.bulk > MiB


@pytest.mark.parametrize("server", SERVERS)
async def test_many_channels_work_and_one_is_refused(
    stack: AsyncExitStack, tmp_path: Path, server: str
) -> None:
    gateway = await start(stack, server, tmp_path)
    echo = await stack.enter_async_context(Echo())
    port = (await stack.enter_async_context(Tunnel(gateway, echo.endpoint, gateway))).endpoint
    said = [pattern(5000, seed) for seed in range(20)]
    for _ in range(3):
        asked = asyncio.gather(*(exchange(port, data) for data in said))
        with pytest.raises(ChannelRefused):
            await gateway._links[0].open_channel(
                Endpoint("127.0.0.1", free_port()), origin=ORIGIN, timeout=SECONDS
            )
        assert list(await asked) == said
    await closed(gateway)


@pytest.mark.parametrize("server", SERVERS)
async def test_kubemux_starts_key_exchanges(stack: AsyncExitStack, tmp_path: Path, server: str) -> None:
    gateway = await start(stack, server, tmp_path)
    conn = cast("Any", gateway._links[0]._conn)
    conn._rekey_bytes = OFTEN  # asyncssh's own limit, which both planes keep
    first = conn._session_id, conn.get_extra_info("send_cipher")
    changes = count_newkeys(conn)
    await transfers(stack, gateway, 2 * MiB)
    assert len(changes) >= 2  # a fast link carries a lot before the exchange starts
    assert (
        conn._session_id,
        conn.get_extra_info("send_cipher"),
    ) == first  # RFC 4253 7.2: the session id stays that of the first exchange


# Dropbear starts one only after 1 GiB or eight hours.
@pytest.mark.parametrize("server", ["asyncssh", "paramiko"])
async def test_the_server_starts_key_exchanges(stack: AsyncExitStack, tmp_path: Path, server: str) -> None:
    gateway = await start(stack, server, tmp_path, rekey_bytes=OFTEN)
    conn = cast("Any", gateway._links[0]._conn)
    changes = count_newkeys(conn)
    await transfers(stack, gateway, 2 * MiB)
    assert len(changes) >= 2  # a fast link carries a lot before the exchange starts


def count_newkeys(conn: Any) -> list[None]:
    """A list that gets an entry for each NEWKEYS that our client sends from now on."""
    original, changes = conn.send_newkeys, list[None]()

    def send_newkeys(*args: object) -> None:
        changes.append(None)
        original(*args)

    conn.send_newkeys = send_newkeys
    return changes
