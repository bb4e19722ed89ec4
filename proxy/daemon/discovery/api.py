"""One connection to an API server, for one request after another.

The server is verified as by a probe. docs/decisions/pods-by-h11.md says why it uses h11.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import h11

from proxy import __version__
from proxy.config.model import ClusterConfig
from proxy.daemon.discovery.pods import error_message
from proxy.health import chain, chain_rules
from proxy.health.http import MAX_HEADER
from proxy.health.probe import DIAL_GRACE, Dial
from proxy.health.result import Failure, Result
from proxy.health.server_names import in_sni
from proxy.health.stream import TlsStream
from proxy.health.tls import Contexts, classify, distrusted
from proxy.runtime.blocking import Place
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.text import printable

ANSWER_S: Final = 10.0
"""Seconds that an API server may take to begin an answer, or to send a whole list."""
_QUOTED: Final = 2048


class Refused(Exception):
    """The API server has answered with a status other than 200."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}: {printable(error_message(body))}")
        self.status = status


class Api:
    """An open connection. Its methods raise ssl.SSLError, h11.RemoteProtocolError and OSError; `connected`
    turns these into a Failure.
    """

    def __init__(self, stream: TlsStream, server: Endpoint, token: str | None) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER)
        self._headers = [
            ("Host", str(server)),
            ("User-Agent", f"kubemux/{__version__}"),
            ("Accept", "application/json"),
            *([("Authorization", f"Bearer {token}")] if token is not None else []),
        ]
        self._has_ended = False

    @property
    def is_free(self) -> bool:
        """Whether the last answer has ended, and the server keeps the connection for another request."""
        return self._http.our_state is self._http.their_state is h11.DONE

    async def ask(self, target: str) -> None:
        """Send GET for `target`, and read the answer's head. `piece` then reads the body. Raises Refused."""
        if self.is_free:
            self._http.start_next_cycle()
        request = h11.Request(method="GET", target=target, headers=self._headers)
        sent = (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        async with asyncio.timeout(ANSWER_S):
            await self._stream.send(sent)
            while not isinstance(event := await self._next(), h11.Response):
                pass  # a server may send 1xx before the answer: RFC 9110 15.2
            if event.status_code != 200:
                body = b""
                while len(body) < _QUOTED and (piece := await self.piece()):
                    body += piece
                raise Refused(event.status_code, body)

    async def piece(self) -> bytes:
        """The next bytes of the body; empty at its end."""
        event = await self._next()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def _next(self) -> h11.Event:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as exc:
                if self._has_ended:
                    raise ConnectionResetError("it ended in the middle of the answer") from exc
                raise
            if event is h11.NEED_DATA:
                data = await self._stream.receive()
                self._has_ended = not data
                self._http.receive_data(data)
            elif isinstance(event, h11.Event) and not isinstance(event, h11.ConnectionClosed):
                return event
            else:
                raise ConnectionResetError("it ended before the answer")


@asynccontextmanager
async def connected(
    config: ClusterConfig, dial: Dial, contexts: Contexts, place: Place
) -> AsyncIterator[Api]:
    """A connection to an API server, verified as by a probe. It is closed when the block ends.

    Raises ProxyError if the server cannot be reached, and Failure for every other failure, also of the block.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + config.probe.timeout
    try:
        async with asyncio.timeout_at(deadline + DIAL_GRACE):
            sock, server = await dial(deadline)
    except TimeoutError as exc:
        raise Failure(Result.TIMEOUT, f"no connection within {config.probe.timeout:g} s") from exc
    try:
        async with asyncio.timeout_at(deadline):
            identity, token = await contexts.load(config, place)
            name = config.server_name

            def verify(sent: Sequence[bytes]) -> None:
                chain.verify(sent, identity.anchors, name, datetime.now(UTC))

            try:
                stream = TlsStream(sock, identity.context, in_sni(name), verify)
            except ValueError as exc:
                message = f"{name!r} cannot be a server's name: {exc}"
                raise Failure(Result.TLS_NAME_MISMATCH, message) from exc
            await stream.handshake()
        stream.most = None
        yield Api(stream, server, token)
    except chain_rules.Refused as exc:
        raise distrusted(exc, config, server) from exc
    except ssl.SSLError as exc:
        raise classify(exc, config, server) from exc
    except h11.RemoteProtocolError as exc:
        raise Failure(Result.HTTP_FAILED, f"{server} does not speak HTTP: {printable(str(exc))}") from exc
    except TimeoutError as exc:
        raise Failure(Result.TIMEOUT, f"{server} did not answer in time") from exc
    except OSError as exc:
        raise Failure(Result.CLOSED, f"the connection to {server} was lost: {exc.strerror or exc}") from exc
    finally:
        sock.close()
