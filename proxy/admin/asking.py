"""Sends one request to an address. Returns kubemux's answer, or raises an error that says who answered."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.admin.http import SERVER
from proxy.errors import AdminError, ConfigError, Problem, UnknownName
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.text import escaped

if TYPE_CHECKING:
    import httpx2

MAX_ANSWER: Final = 64 << 20
"""The most bytes of an answer: a hundred times what 1,000 clusters need. Only another program sends more."""
_QUOTED: Final = 60
"""Characters of another program's answer that a message quotes."""

Where = Path | Endpoint
"""A unix socket, or an address."""


class NotKubemux(AdminError):
    """Another program listens at the address."""

    def __init__(self, where: Where, what: str) -> None:
        super().__init__(f"{shown(where)}: that is not kubemux: {what}", hint=_who_has(where))


class Unanswered(AdminError):
    """No answer came in time."""

    def __init__(self, where: Where, budget: float) -> None:
        hint = (
            "the daemon hangs or has too much to do (journalctl -u kubemux), or it is another program: "
            f"{_command(where)}"
        )
        super().__init__(f"{shown(where)}: no answer within {budget:g} s", hint=hint)


def shown(where: Where) -> str:
    """The address as messages name it."""
    return f"http://{where}" if isinstance(where, Endpoint) else str(where)


def _command(where: Where) -> str:
    return (
        f"ss -ltnp 'sport = :{where.port}'"
        if isinstance(where, Endpoint)
        else f"ss -xlp src {shlex.quote(str(where))}"
    )


def _who_has(where: Where) -> str:
    key = "admin.listen" if isinstance(where, Endpoint) else "admin.socket"
    return f"find what it is: {_command(where)}; then stop that, or choose another {key} and restart kubemux"


@dataclass(slots=True)
class _Answer:
    """The part of the answer that has arrived so far."""

    status: int = 0
    server: str = ""
    body: bytearray = field(default_factory=bytearray)
    words: bytes = b""
    """The first bytes of an answer that is not HTTP."""

    @property
    def who(self) -> str:
        """A description of the program that answered, for a message."""
        said = escaped(
            (self.body or self.words)[: 4 * _QUOTED]
            .decode("utf-8", "replace")
            .strip()
            .partition("\n")[0]
            .rstrip()
        )[:_QUOTED]
        if self.status:
            quoted = "" if said[:1] in {"", "<"} else f", which says {said!r}"  # a page in HTML tells nothing
            return (
                f"HTTP {self.status} from "
                f"{escaped(self.server)[:_QUOTED] or 'a server without a name'}{quoted}"
            )
        if self.words.startswith((b"\x15\x03", b"\x16\x03")):  # RFC 8446 5.1: an alert, a handshake
            return "a TLS server"
        return f"an SSH server, {said}" if said.startswith("SSH-") else f"it says {said!r}"


async def ask(where: Where, method: str, target: str, *, budget: float) -> object:
    """Send a request to the daemon at `where` and return its parsed answer.

    Raises UnknownName or ConfigError if the daemon's answer is one, NotKubemux if another program answers,
    Unanswered if no answer came within `budget` seconds, and AdminError for everything else.
    """
    answer = _Answer()
    client = _client(where)  # not in the daemon's time: from a slow disk, the imports may take seconds
    try:
        async with asyncio.timeout(budget):
            is_whole = await _exchange(client, where, method, target, answer)
            if not is_whole and not answer.status:
                answer.words = await _first_words(where)
                if answer.words.partition(b"\nServer: ")[2].startswith(SERVER.encode()):
                    answer.words = (
                        b""  # it is kubemux: it closed the first connection to make room for another
                    )
    except TimeoutError as exc:
        raise Unanswered(where, budget) from exc
    if answer.server != SERVER and (answer.status or answer.words):
        raise NotKubemux(where, answer.who)
    if not is_whole:
        hint = f"is that kubemux? {_command(where)} tells; its log says more: journalctl -u kubemux"
        broke = "in the middle of its answer" if answer.status else "without an answer"
        raise AdminError(f"{shown(where)}: it hung up {broke}", hint=hint)
    return _read(where, answer)


def _client(where: Where) -> httpx2.AsyncClient:
    import httpx2  # here, because importing it takes 50 ms, and most commands send no request

    transport = httpx2.AsyncHTTPTransport(
        uds=str(where) if isinstance(where, Path) else None,
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # unused: it spares httpx2 reading the system's CAs
    )
    fields = {"Accept-Encoding": "identity", "Connection": "close"}
    # `trust_env`: a proxy from the environment could not reach the loopback of this machine.
    # `timeout`: `ask` has the deadline.
    return httpx2.AsyncClient(transport=transport, trust_env=False, timeout=None, headers=fields)


async def _exchange(
    client: httpx2.AsyncClient, where: Where, method: str, target: str, answer: _Answer
) -> bool:
    """Send the request and fill in `answer`. Returns whether the whole answer has arrived.

    Raises AdminError if nobody listens.
    """
    import httpx2  # `_client` has imported it

    url = f"http://localhost{target}" if isinstance(where, Path) else f"http://{where}{target}"
    try:
        async with client, client.stream(method, url) as got:
            if got.status_code == 101:  # Switching Protocols, though the request did not ask for it
                return False
            answer.status = got.status_code
            answer.server = got.headers.get("Server", "")
            async for piece in got.aiter_raw():
                answer.body += piece
                if len(answer.body) > MAX_ANSWER:
                    return False
    except httpx2.ConnectError as exc:
        failed = _system_error(exc)
        raise _nobody(where, failed) from failed
    except httpx2.TransportError:
        return False
    return True


def _nobody(where: Where, failed: OSError) -> AdminError:
    remedy = "use sudo, or become the daemon's user" if isinstance(failed, PermissionError) else None
    number = failed.errno or 0  # a negative one is getaddrinfo's, which has texts of its own
    text = os.strerror(number) if number > 0 else failed.strerror or str(failed)
    return AdminError(f"{shown(where)}: {text}", hint=remedy)


def _system_error(failed: BaseException) -> OSError:
    """The OSError inside the exceptions of httpx2 and anyio; of a name with several addresses, the first."""
    found, cause = OSError(str(failed)), failed.__cause__ or failed.__context__
    while cause is not None:
        if isinstance(cause, OSError):
            found = cause
        group = cause if isinstance(cause, ExceptionGroup) else None
        cause = group.exceptions[0] if group else cause.__cause__ or cause.__context__
    return found


async def _first_words(where: Where) -> bytes:
    """The first bytes that a program without HTTP answers to a second request, sent without httpx2."""
    connecting = (
        asyncio.open_unix_connection(where) if isinstance(where, Path) else asyncio.open_connection(*where)
    )
    try:
        reader, writer = await connecting
        try:
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            return await reader.read(_QUOTED * 4)
        finally:
            writer.transport.abort()
    except OSError:
        return b""


def _read(where: Where, answer: _Answer) -> object:
    try:
        document: object = json.loads(answer.body)
    except (ValueError, RecursionError) as exc:
        raise AdminError(
            f"{shown(where)}: not understood: {answer.who}", hint="is it of another version? Restart it"
        ) from exc
    match document:
        case {"path": str() as path, "problems": list() as problems}:
            raise ConfigError(path, [_problem(problem) for problem in problems])
        case {"error": str() as sentence, "hint": str() as hint, "reason": UnknownName.reason}:
            raise UnknownName(sentence, hint=hint)
        case {"error": str() as sentence, "hint": str() as hint}:
            raise AdminError(sentence, hint=hint)
    return document


def _problem(document: object) -> Problem:
    match document:
        case {"line": int(line), "key": str(key), "message": str(message), "hint": str(hint)}:
            return Problem(line, key, message, hint)
    return Problem(0, "", str(document))
