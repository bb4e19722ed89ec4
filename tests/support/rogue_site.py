"""`python -m tests.support.rogue_site KIND HOST PORT NAME KEY KNOWN_HOSTS`: a hostile site, as a process.

It logs in as NAME, and registers NAME:1080. KIND is a kind of flood, or `answers`. A flood is sent COUNT
times. After that, or when the connection has ended, a line is printed. With `answers`, each channel gets the
next of ANSWERS in place of the answer of a SOCKS5 server.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle
from typing import Any, Final, cast

import asyncssh
from asyncssh.listener import SSHTCPClientListener
from asyncssh.packet import Boolean, Byte, String, UInt32
from asyncssh.stream import SSHTCPStreamSession

from proxy.ssh.native.wire import messages
from proxy.ssh.sites.socks5 import UNSUPPORTED_METHOD
from tests.support.hostile import GLOBAL_REQUEST, Flooding

COUNT: Final = 100_000
PORT: Final = 1080
DRIP_S: Final = 0.05
_REACHED: Final = b"\5\0\5\0\0\1" + bytes(6)
ANSWERS: Final = ("nothing", "garbage", "close", "half", "drip", "a megabyte")
"""How it answers the channels, in turn."""

Reader = asyncssh.SSHReader[bytes]
Writer = asyncssh.SSHWriter[bytes]


def floods(name: str) -> dict[str, bytes]:
    """The messages of each kind of flood."""
    forward = String(name) + UInt32(PORT)
    ends = String("prod") + UInt32(22) + String("127.0.0.1") + UInt32(1)
    numbers = UInt32(7) + UInt32(1 << 20) + UInt32(1 << 15)
    return {
        "forwards": Byte(GLOBAL_REQUEST) + String("tcpip-forward") + Boolean(True) + forward,
        "opens": Byte(messages.OPEN) + String("direct-tcpip") + numbers + ends,
    }


def _say(words: str) -> None:
    print(words, flush=True)  # noqa: T201 - for whoever has started this process


async def _answer(ways: Iterator[str], tried: asyncio.Event, reader: Reader, writer: Writer) -> None:
    if await reader.read(1024) == UNSUPPORTED_METHOD:  # kubemux tries a new connection
        writer.write(b"\5\xff")
        writer.close()
        tried.set()
        return
    how = next(ways)
    with suppress(OSError, asyncssh.Error):  # kubemux waits no longer, and has closed the channel
        await _say_anything(how, writer)
    if how != "nothing":
        writer.close()
    else:
        await reader.read()
    _say(how)


async def _say_anything(how: str, writer: Writer) -> None:
    match how:
        case "garbage":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        case "half":
            writer.write(_REACHED[:7])
        case "drip":
            for byte in _REACHED[:-1]:
                writer.write(bytes((byte,)))
                await asyncio.sleep(DRIP_S)
        case "a megabyte":
            writer.write(b"\5\0" + bytes(1 << 20))
            await writer.drain()


async def main(kind: str, host: str, port: str, name: str, key: str, known_hosts: str) -> None:
    """Wait until the connection has ended."""
    conn = await asyncssh.connect(
        host,
        int(port),
        username=name,
        client_keys=[key],
        known_hosts=known_hosts,
        config=None,
        agent_path=None,
    )
    ways, tried = cycle(ANSWERS), asyncio.Event()

    def session(*_: object) -> SSHTCPStreamSession[bytes]:
        return SSHTCPStreamSession(lambda reader, writer: _answer(ways, tried, reader, writer))

    # asyncssh knows a forward only some turns after the server's answer, and kubemux tries it at once.
    inner = cast("Any", conn)
    inner._remote_listeners[(name, PORT)] = SSHTCPClientListener(
        inner, session, name, PORT, None, "strict", 1 << 20, 1 << 15
    )
    await inner._make_global_request(b"tcpip-forward", String(name), UInt32(PORT))
    await tried.wait()
    _say("registered")
    if kind != "answers":
        flooding = Flooding.client(conn, COUNT, on_sent=lambda: _say("sent"))
        flooding.flood(floods(name)[kind])
    await conn.wait_closed()
    _say("ended")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
