from __future__ import annotations

import asyncio
import socket

from proxy.runtime.plain_socket import PlainSocket


async def test_a_client_of_a_plain_socket_is_plain_and_works_with_the_loop() -> None:
    with PlainSocket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        with socket.create_connection(listening.getsockname()) as client:
            sock, address = listening.accept()
            sock.setblocking(False)
            assert address == client.getsockname()
            assert isinstance(sock, PlainSocket)
            assert (type(sock.family), type(sock.type)) == (int, int)
            assert (sock.family, sock.type) == (client.family, client.type)
            loop = asyncio.get_running_loop()
            transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, sock)
            transport.write(b"welcome")
            assert await loop.run_in_executor(None, client.recv, 7) == b"welcome"
            transport.close()
            assert await loop.run_in_executor(None, client.recv, 1) == b""
        assert sock.fileno() == -1
