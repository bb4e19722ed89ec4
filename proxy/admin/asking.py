"""One question to whatever has an address: kubemux's answer, or a sentence on what answers there instead."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import h11

from proxy.admin.http import SERVER
from proxy.errors import AdminError, ConfigError, Problem, UnknownName
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.text import escaped

MAX_ANSWER: Final = 64 << 20
"""Bytes: a hundred times what 1,000 clusters need. A program that sends without end is none of ours."""
_PIECE: Final = 1 << 16
_QUOTED: Final = 60
"""Characters of what a stranger says: enough to know it by."""

Where = Path | Endpoint
"""A unix socket, or an address."""


class NotKubemux(AdminError):
    """Another program has the address."""

    def __init__(self, where: Where, what: str) -> None:
        super().__init__(f"{shown(where)}: that is not kubemux: {what}", hint=_who_has(where))


class Unanswered(AdminError):
    """Time is up. Perhaps the daemon hangs."""

    def __init__(self, where: Where, budget: float) -> None:
        hint = (
            "the daemon hangs or has too much to do (journalctl -u kubemux), or it is another program: "
            f"{_look(where)}"
        )
        super().__init__(f"{shown(where)}: no answer within {budget:g} s", hint=hint)


def shown(where: Where) -> str:
    """As messages name it."""
    return f"http://{where}" if isinstance(where, Endpoint) else str(where)


def _look(where: Where) -> str:
    return (
        f"ss -ltnp 'sport = :{where.port}'"
        if isinstance(where, Endpoint)
        else f"ss -xlp src {shlex.quote(str(where))}"
    )


def _who_has(where: Where) -> str:
    key = "admin.listen" if isinstance(where, Endpoint) else "admin.socket"
    return f"find what it is: {_look(where)}; then stop that, or choose another {key} and restart kubemux"


@dataclass(slots=True)
class _Answer:
    """What came back so far."""

    first: bytes = b""
    """Of everything, before it is known to be HTTP."""
    status: int = 0
    server: str = ""
    body: bytearray = field(default_factory=bytearray)

    @property
    def who(self) -> str:
        """A guess at who says this."""
        said = escaped(
            (self.body or self.first)[: 4 * _QUOTED]
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
        if self.first.startswith((b"\x15\x03", b"\x16\x03")):  # RFC 8446 5.1: an alert, a handshake
            return "a TLS server"
        return f"an SSH server, {said}" if said.startswith("SSH-") else f"it says {said!r}"


async def ask(where: Where, method: str, target: str, *, budget: float) -> object:
    """The parsed answer of the daemon at `where`, within `budget` seconds.

    Raises UnknownName and ConfigError if that is what the daemon says, NotKubemux if it is none, Unanswered,
    and AdminError for everything else.
    """
    answer = _Answer()
    try:
        async with asyncio.timeout(budget):
            reader, writer = await _connect(where)
            try:
                await _exchange(
                    reader,
                    writer,
                    answer,
                    method,
                    target,
                    "localhost" if isinstance(where, Path) else str(where),
                )
            finally:
                writer.transport.abort()
    except TimeoutError as exc:
        raise Unanswered(where, budget) from exc
    except (h11.RemoteProtocolError, OSError) as exc:
        if answer.first and answer.server != SERVER:
            raise NotKubemux(where, answer.who) from exc
        hint = f"is that kubemux? {_look(where)} tells; its log says more: journalctl -u kubemux"
        broke = "in the middle of its answer" if answer.first else "without an answer"
        raise AdminError(f"{shown(where)}: it hung up {broke}", hint=hint) from exc
    if answer.server != SERVER:
        raise NotKubemux(where, answer.who)
    return _read(where, answer)


async def _connect(where: Where) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await (
            asyncio.open_connection(*where)
            if isinstance(where, Endpoint)
            else asyncio.open_unix_connection(where)
        )
    except TimeoutError:
        raise
    except OSError as exc:
        remedy = "use sudo, or become the daemon's user" if isinstance(exc, PermissionError) else None
        number = exc.errno or 0  # negative: getaddrinfo's, whose words are its own
        text = os.strerror(number) if number > 0 else exc.strerror or str(exc)
        raise AdminError(f"{shown(where)}: {text}", hint=remedy) from exc


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    answer: _Answer,
    method: str,
    target: str,
    host: str,
) -> None:
    """One request without a body.

    Raises h11.RemoteProtocolError if what comes back is not HTTP, ends early or never, OSError.
    """
    http = h11.Connection(h11.CLIENT)
    request = h11.Request(method=method, target=target, headers=[("Host", host), ("Connection", "close")])
    writer.write((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
    with suppress(ConnectionError):  # it may have answered and hung up before it read everything
        await writer.drain()
    while not isinstance(event := http.next_event(), h11.EndOfMessage):
        match event:
            case h11.NEED_DATA:
                data = await reader.read(_PIECE)
                if len(answer.first) < _PIECE:
                    answer.first += data
                http.receive_data(data)
            case h11.Response(status_code=status, headers=headers):
                answer.status = status
                answer.server = dict(headers).get(b"server", b"").decode("latin-1")
            case h11.Data(data=data) if len(answer.body) + len(data) <= MAX_ANSWER:
                answer.body += data
            case h11.InformationalResponse():
                pass
            case _:
                raise h11.RemoteProtocolError(
                    "closed without an answer, an upgrade, or an answer without an end"
                )


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
