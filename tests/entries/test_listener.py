"""A listener: it refuses clients while they cannot be served, and no error ends the accepting."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from proxy.entries import listener as module
from proxy.entries.arrival import Caller
from proxy.entries.listener import Listener
from proxy.runtime.endpoint import Endpoint
from tests.support.ports import free_port

LOOPBACK = "127.0.0.1"


class Clients:
    """Counts clients."""

    def __init__(self) -> None:
        self.fails = 0
        self.arrived: asyncio.Queue[Endpoint] = asyncio.Queue()

    def __call__(self, sock: socket.socket, caller: Caller) -> None:
        if self.fails:
            self.fails -= 1
            raise KeyError("a bug")
        sock.close()
        self.arrived.put_nowait(caller.origin)


@asynccontextmanager
async def listening(clients: Clients, sock: socket.socket | None = None) -> AsyncIterator[Listener]:
    address = Endpoint(*sock.getsockname()) if sock else Endpoint(LOOPBACK, free_port())
    listener = Listener(address, clients, inherited=sock)
    await listener.start()
    try:
        yield listener
    finally:
        listener.close()


async def connect(listener: Listener) -> None:
    """Raises OSError."""
    async with asyncio.timeout(30):
        _, writer = await asyncio.open_connection(*listener.address)
        writer.close()


async def test_clients_are_refused_and_served_again_at_an_address_that_stays_ours() -> None:
    clients = Clients()
    async with listening(clients) as listener:
        await connect(listener)
        await clients.arrived.get()
        for _ in range(2):
            listener.refuse()
            listener.refuse()
            assert listener.is_refusing
            assert listener.is_bound
            with pytest.raises(ConnectionRefusedError):
                await connect(listener)
            with socket.socket() as thief:
                thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="in use"):
                    thief.bind(listener.address)
            listener.admit()
            listener.admit()
            await connect(listener)
            await clients.arrived.get()
        listener.refuse()
    assert not listener.is_refusing
    with socket.socket() as heir:
        heir.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        heir.bind(listener.address)


@pytest.mark.parametrize("refuses", [False, True])
async def test_a_released_address_is_free_even_if_a_descriptor_is_open(refuses: bool) -> None:
    """A service manager that does not read its messages keeps a descriptor. Once, clients then waited in the
    backlog for ever.
    """
    clients = Clients()
    async with listening(clients) as listener:
        assert listener.sock
        with listener.sock.dup():
            if refuses:
                listener.refuse()
            listener.release()
            listener.release()
            with pytest.raises(ConnectionRefusedError):
                await connect(listener)
            await listener.start()
            await connect(listener)
            await clients.arrived.get()


async def test_a_listener_that_refuses_goes_on_refusing_when_it_is_handed_on() -> None:
    clients = Clients()
    async with listening(clients) as listener:
        listener.refuse()
        await listener.start()  # a reload passes the listener to another cluster
        with pytest.raises(ConnectionRefusedError):
            await connect(listener)
        listener.admit()
        await connect(listener)
        await clients.arrived.get()


async def test_a_client_that_cannot_be_served_does_not_affect_others() -> None:
    clients = Clients()
    clients.fails = 2
    async with listening(clients) as listener:
        for _ in range(2):
            with suppress(ConnectionResetError):  # so that it does not take this for an orderly end
                await connect(listener)
        await connect(listener)
        async with asyncio.timeout(30):
            await clients.arrived.get()
        assert clients.arrived.empty()


class Sick(socket.socket):
    """A socket on which accept(2) fails, as with seccomp or when the network is gone."""

    failures = 2

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EPERM, "Operation not permitted")
        return super().accept()


async def test_after_any_error_accept_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FULL_PAUSE_S", 0.01)
    sock = Sick()
    sock.setblocking(False)
    sock.bind((LOOPBACK, 0))
    sock.listen()
    clients = Clients()
    async with listening(clients, sock) as listener:
        await connect(listener)
        async with asyncio.timeout(30):
            await clients.arrived.get()
        assert sock.failures == 0
