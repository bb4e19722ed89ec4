"""Run the node: a kubelet on port 10250, a pod's web server on 8080, a Service on 443, all addresses.

Prints `ready` when it listens, and runs until it is killed.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tests.support.kubelet.serving import Node

_Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _closing(serve: _Serve) -> _Serve:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):  # a client may disconnect at any time
            await serve(reader, writer)
            await writer.drain()
        writer.close()

    return handle


async def _run(cert: str, key: str, ca: str) -> None:
    node = Node()
    service = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    service.load_cert_chain(cert, key)
    kubelet = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    kubelet.load_cert_chain(cert, key)
    # Like a real kubelet, it verifies the API server's client certificate.
    kubelet.verify_mode = ssl.CERT_REQUIRED
    await asyncio.start_server(_closing(node.kubelet), "0.0.0.0", 10250, ssl=kubelet)  # noqa: S104
    await asyncio.start_server(_closing(node.web), "0.0.0.0", 8080)  # noqa: S104
    await asyncio.start_server(_closing(node.service), "0.0.0.0", 443, ssl=service)  # noqa: S104
    print("ready", flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run(*sys.argv[1:]))
