"""A line with a long round trip: a TCP relay process that delays every byte by half the round trip.

`python -m bench.delay ROUND_TRIP_SECONDS LOCAL:TARGET...`. The relay terminates TCP on both sides. So no
packet is lost, and TCP's windows do not limit the speed. Only the windows of the relayed protocol (SSH) do.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import deque
from typing import cast

import uvloop

HELD_BYTES = 256 << 20
"""How many bytes may be delayed in each direction of a connection: as many as come in 0.1 s at 2.7 GB/s. With
more, the sender is paused.
"""


class End(asyncio.Protocol):
    """One socket. It delays received bytes, and writes them to `peer` when they are due and the peer has
    room.
    """

    def __init__(self, delay: float) -> None:
        self.peer = self
        self.transport: asyncio.Transport
        self.is_blocked = True
        """Whether the peer does not exist yet, or its socket is full."""
        self.is_over = False
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._held.append((self._loop.time() + self._delay, data))
        self._held_bytes += len(data)
        if self._held_bytes > HELD_BYTES:
            self.transport.pause_reading()
        if self._timer is None:
            self._timer = self._loop.call_later(self._delay, self.pass_on)

    def eof_received(self) -> bool:
        self.data_received(b"")
        return True  # the other direction goes on

    def connection_lost(self, _: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        if not (self.is_over and self.peer.is_over):
            # One side is closing, and may still have bytes to send.
            self.peer.transport.abort()

    def pause_writing(self) -> None:
        self.peer.is_blocked = True

    def resume_writing(self) -> None:
        self.peer.is_blocked = False
        self.peer.pass_on()

    def pass_on(self) -> None:
        """Write the bytes that are due until the peer is full. Schedule the others."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while self._held and not self.is_blocked:
            due, data = self._held[0]
            if due > self._loop.time():
                self._timer = self._loop.call_at(due, self.pass_on)
                break
            self._held.popleft()
            self._held_bytes -= len(data)
            if data:
                self.peer.transport.write(data)
            else:
                self._end()
        if self._held_bytes <= HELD_BYTES:
            self.transport.resume_reading()

    def _end(self) -> None:
        self.is_over = True
        if self.peer.is_over:
            self.transport.close()
            self.peer.transport.close()
        else:
            self.peer.transport.write_eof()


async def pair(sock: socket.socket, target: int, delay: float) -> None:
    """Connect to a loopback port and pass bytes between it and an accepted connection."""
    loop = asyncio.get_running_loop()
    near, far = End(delay), End(delay)
    near.peer, far.peer = far, near
    try:
        await loop.create_connection(lambda: far, "127.0.0.1", target)
    except OSError:
        sock.close()  # as if no server were at the other end
        return
    await loop.connect_accepted_socket(lambda: near, sock)
    near.resume_writing()
    far.resume_writing()


async def relay(delay: float, local: int, target: int) -> None:
    """Relay connections from one loopback port to another, without end."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", local), backlog=256) as listener:
        listener.setblocking(False)
        while True:
            sock, _ = await loop.sock_accept(listener)
            await pair(sock, target, delay)


async def main(round_trip: str, *forwards: str) -> None:
    """Run all relays until the process is ended."""
    async with asyncio.TaskGroup() as group:
        for forward in forwards:
            local, target = map(int, forward.split(":"))
            group.create_task(relay(float(round_trip) / 2, local, target), name=f"relay {forward}")


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
