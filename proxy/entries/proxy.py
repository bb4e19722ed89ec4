"""The proxy entry: HTTP CONNECT and SOCKS5 on one address. It reads each client's request, and passes the
client to its destination.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from proxy.entries.arrival import Arrival, Caller, SocketArrival
from proxy.entries.client import SpeakingClient
from proxy.entries.handshakes import why
from proxy.entries.heads import Asked, Credentials, Head, Login, Rejected, Reply, begin
from proxy.entries.tls_transport import NotTls
from proxy.entries.users import Busy
from proxy.errors import ProxyError
from proxy.errors.reasons import Reason
from proxy.metrics import EntryRecord
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks

log = structlog.get_logger("kubemux.connection")

HEAD_S: Final = 10.0
"""Seconds from a client's connection to the end of its request, TLS and the check of its password included.
"""

MOST_HEADS: Final = 1000
"""The maximum number of clients without a complete request. For a further one, the oldest is disconnected."""

NEEDS_TLS: Final = "this entry speaks TLS: a proxy's URL begins with https://"

_ENDS: Final = "kubemux stops, or the entry has new settings, or many clients wait"

OnArrival = Callable[[Arrival], None]
CheckLogin = Callable[[Credentials], Awaitable[bool]]
CheckCaller = Callable[[Caller], Awaitable[None]]
"""Raises ProxyError if this caller may not use the entry."""


class ProxyEntry:
    """The clients of one proxy entry, until each has sent its request. `on_arrival` is called with each
    client that has sent a valid request.
    """

    def __init__(
        self,
        name: str,
        record: EntryRecord,
        on_arrival: OnArrival,
        *,
        check_login: CheckLogin | None = None,
        check_caller: CheckCaller | None = None,
    ) -> None:
        """Without `check_login`, the entry requires no password."""
        self.name = name
        self.record = record
        self._on_arrival = on_arrival
        self.check_login = check_login
        self._check_caller = check_caller
        self.tls: ssl.SSLContext | None = None
        """If it is set, the entry uses TLS for new clients."""
        self.closed_because = ""
        """If it is set, every client is refused with this error."""
        self._tasks = Tasks(f"entry {name}")
        self._reading: dict[asyncio.Task[None], None] = {}
        self._clients: set[SpeakingClient] = set()
        self._new: dict[socket.socket, Caller] = {}
        """Clients whose task has not begun."""

    def __repr__(self) -> str:
        return f"<ProxyEntry {self.name} requests={len(self._reading)} clients={len(self._clients)}>"

    def accept(self, sock: socket.socket, caller: Caller) -> None:
        """Start to read a client's request (`proxy.entries.listener.OnClient`)."""
        self.record.opened += 1
        if self.closed_because:
            self._ended(caller, Reason.INTERNAL, self.closed_because)
            sock.close()
            return
        if len(self._reading) >= MOST_HEADS:
            oldest = next(iter(self._reading))
            # Its task ends in a later turn of the loop, so the next client must not choose it again.
            del self._reading[oldest]
            oldest.cancel()
        self._new[sock] = caller
        task = self._tasks.spawn(
            self._serve(sock, caller),
            name=f"request of {caller}",
            on_end=lambda task: self._has_read(task, sock),
        )
        self._reading[task] = None

    def _has_read(self, task: asyncio.Task[None], sock: socket.socket) -> None:
        self._reading.pop(task, None)
        if caller := self._new.pop(sock, None):  # its task was cancelled before it began
            self._ended(caller, Reason.SHUTDOWN, _ENDS)
            sock.close()

    def end_requests(self) -> None:
        """Disconnect every client that has not sent its request yet."""
        for task in self._reading:
            task.cancel()

    async def finish_requests(self, timeout: float) -> None:  # noqa: ASYNC109 - a budget, not a failure
        """Wait up to `timeout` seconds until each client has sent its request and has a destination. Then
        disconnect those that have not. Close the listener first.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._tasks.wait()
        self.end_requests()
        await self._tasks.wait()

    async def close(self) -> None:
        """Disconnect every client that has no relay yet."""
        await self._tasks.close()
        for client in tuple(self._clients):
            client.abort()

    async def _serve(self, sock: socket.socket, caller: Caller) -> None:
        del self._new[sock]
        client = SpeakingClient(self._clients.discard)
        self._clients.add(client)
        head: Head | None = None
        asked: Endpoint | None = None
        proved: frozenset[str] = frozenset()
        try:
            async with asyncio.timeout(HEAD_S):
                proved = await client.connect(sock, self.tls)
                data = await client.more()
                head = begin(data[0], needs_user=self.check_login is not None)
                step = head.feed(data)
                while not isinstance(step, Asked | Rejected):
                    if isinstance(step, Reply):
                        client.send(step.data)
                        step = head.feed(b"")
                    elif isinstance(step, Login):
                        is_known = await self._is_known(step.credentials)
                        if is_known:
                            proved |= {f"proxy-user:{step.credentials.user}"}
                        step = head.login(is_known=is_known)
                    else:
                        step = head.feed(await client.more())
                if proved:
                    caller = caller._replace(proved=caller.proved | proved)
                if isinstance(step, Asked) and self._check_caller is not None:
                    asked = step.target
                    await self._check_caller(caller)
        except NotTls as exc:
            head = begin(exc.first, needs_user=False)
            self._refuse(client, caller, Reason.BAD_REQUEST, NEEDS_TLS, head)
        except ssl.SSLError as exc:
            self._ended(caller, Reason.TLS_HANDSHAKE, why(exc))
        except Busy as exc:
            self._refuse(client, caller, Reason.LIMIT, str(exc), head)
        except ProxyError as exc:
            self._refuse(client, caller, exc.reason, str(exc), head, asked)
        except TimeoutError:
            self._refuse(client, caller, Reason.HEAD_TIMEOUT, f"no request within {HEAD_S:g} s", head)
        except EOFError:
            if head is None:
                self._ended(caller, Reason.CLIENT_RESET, "the client has closed before its request")
                client.abort()
            else:
                self._refuse(client, caller, Reason.BAD_REQUEST, "the request is not complete", head)
        except OSError as exc:
            self._ended(caller, Reason.CLIENT_RESET, exc.strerror or str(exc))
            client.abort()
        except asyncio.CancelledError:
            self._refuse(client, caller, Reason.SHUTDOWN, _ENDS, head)
            raise
        except Exception:  # `Tasks` logs it; kube-apiserver waits for its answer for ever
            self._refuse(client, caller, Reason.INTERNAL, "", head, asked)
            raise
        else:
            if isinstance(step, Asked):
                self._on_arrival(_Request(client, head, self, caller, step))
            else:
                self._ended(caller, step.reason, step.message)
                client.send(step.answer)
                client.close()

    async def _is_known(self, credentials: Credentials) -> bool:
        return self.check_login is not None and await self.check_login(credentials)

    def _refuse(
        self,
        client: SpeakingClient,
        caller: Caller,
        reason: Reason,
        message: str,
        head: Head | None,
        asked: Endpoint | None = None,
    ) -> None:
        self._ended(caller, reason, message, asked)
        if head is not None:
            client.send(head.refused(reason, message))
        client.close()

    def _ended(self, caller: Caller, reason: Reason, message: str, asked: Endpoint | None = None) -> None:
        self.record.ended(reason)
        fields = {"asked": str(asked)} if asked is not None else {}
        log.warning(
            "connection refused",
            entry=self.name,
            client=str(caller),
            caller=caller.identity,
            reason=reason,
            message=message,
            **fields,
        )


class _Request(SocketArrival):
    """A client that has sent its request, and waits for the answer."""

    __slots__ = ("_client", "_head", "_record")

    is_answered = True

    def __init__(
        self, client: SpeakingClient, head: Head, entry: ProxyEntry, caller: Caller, asked: Asked
    ) -> None:
        super().__init__(caller, asked.early, entry=entry.name, asked=asked.target)
        self._client = client
        self._head = head
        self._record = entry.record

    async def start(self, relay: asyncio.BufferedProtocol) -> None:
        self._client.check()
        self._client.send(self._head.accepted())
        self._client.hand_over(relay)

    def refuse(self, reason: Reason, message: str = "") -> None:
        subject = self.asked.host if self.asked else ""
        self._client.send(self._head.refused(reason, message, subject=subject))
        self._client.close()

    def ended(self, reason: Reason) -> None:
        self._record.ended(reason)
