"""The ProxyCommand of ssh_config: a command whose standard input and output are the connection to sshd.

The user's shell runs it, as ssh(1) has it: `$SHELL -c "exec COMMAND"`. Both streams are one end of a socket
pair, so that ours is a transport like any other, for both data planes. The process leads a group of its own,
which ends with the link.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from proxy.errors import LinkError, ProxyCommandFailed
from proxy.runtime import program
from proxy.runtime.text import printable

log = structlog.get_logger("kubemux.link")

PATIENCE_S: Final = 1.0
"""How long the command may take to end once its connection is closed and it has got SIGHUP, as from ssh(1).
"""

EXIT_S: Final = 0.5
"""How long after the end of its output the command's exit code is waited for, to name it."""

LINES: Final = 50
"""Lines of its standard error that are logged in a minute."""

_MINUTE_S: Final = 60.0
_LINE_BYTES: Final = 1024


class ProxyCommand:
    """A `tunnel` for asyncssh: runs `command` when it is asked for a connection to `server`, once."""

    def __init__(self, command: str, server: str) -> None:
        self._command = command
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._process: program.Process | None = None
        self._stderr: asyncio.BaseTransport | None = None
        self._is_closed = False
        self._minute_ends = 0.0
        self._left = 0
        self._last_words = ""
        self.connected_at = 0.0
        """Loop time when the command was started; 0 until then."""

    def __repr__(self) -> str:
        return f"<ProxyCommand {self._server} process={self._process and self._process.pid}>"

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], _host: str, _port: int
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Asyncssh's call. Raises ProxyCommandFailed."""
        transport, stdio = await self._stream(asyncio.Protocol)
        with stdio:
            try:
                self._stderr, stderr = await self._stream(lambda: _Lines(self._say))
                with stderr:
                    self._process = await self._run(stdio, stderr)
            except BaseException:
                transport.abort()
                raise
        self.connected_at = self._loop.time()
        protocol = factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return transport, protocol

    async def _stream(
        self, factory: Callable[[], asyncio.Protocol]
    ) -> tuple[asyncio.Transport, socket.socket]:
        """A transport, and the socket that is its other end.

        Made before there is a process that could end: uvloop ties a socket to a transport that is closed by
        then all the same, and closes its descriptor again, whoever has it.
        """
        ours, theirs = socket.socketpair()
        try:
            transport, _ = await self._loop.create_unix_connection(factory, sock=ours)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return transport, theirs

    async def _run(self, stdio: socket.socket, stderr: socket.socket) -> program.Process:
        """Not by the loop's own means: uvloop leaves copies of such a socket open in the child.

        What the command starts, and leaves behind, would keep the connection open with them.
        """
        shell = os.environ.get("SHELL") or "/bin/sh"
        try:
            return await program.start(
                [shell, "-c", f"exec {self._command}"],
                stdin=stdio.fileno(),
                stdout=stdio.fileno(),
                stderr=stderr.fileno(),
            )
        except (OSError, ValueError) as exc:  # ValueError: a NUL in it
            why = exc.strerror if isinstance(exc, OSError) else None
            raise ProxyCommandFailed(
                f"the ProxyCommand for {self._server} cannot be run by {shell}: {why or exc}"
            ) from exc

    def _say(self, text: str) -> None:
        self._last_words = text
        if (now := self._loop.time()) >= self._minute_ends:
            self._minute_ends, self._left = now + _MINUTE_S, LINES
        if self._left:
            self._left -= 1
            more = {} if self._left else {"note": "more of it is not logged for a minute"}
            log.info("ProxyCommand says", server=self._server, line=text, **more)

    async def explain(self, failure: LinkError, when: str) -> LinkError:
        """A better reason than `failure`, which is that the connection has ended, if that is because the
        command has.
        """
        if self._process is None:
            return failure
        exited = self._process.exited
        await asyncio.wait([exited], timeout=EXIT_S)
        if not exited.done():
            return failure
        said = f"; its last words: {self._last_words}" if self._last_words else ""
        return ProxyCommandFailed(
            f"the ProxyCommand for {self._server} ended with {_status(exited.result())} {when}{said}"
        )

    # ------------------------------------------------------------------------------------------------ its end

    async def close(self) -> None:
        """End the process and what it has started; returns when it is reaped.

        The connection is closed before. Idempotent.
        """
        if self._stderr is not None:
            self._stderr.close()
        if self._process is None or self._is_closed:
            return
        self._is_closed = True
        exited = self._process.exited
        try:
            self._process.signal(signal.SIGHUP)
            await asyncio.wait([exited], timeout=PATIENCE_S)
        finally:
            self._process.signal(signal.SIGKILL)
            await asyncio.wait([exited], timeout=PATIENCE_S)  # longer only in a call that nothing interrupts


class _Lines(asyncio.Protocol):
    """A stream of text, in lines that are fit for the log."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:_LINE_BYTES]
        for line in lines:
            self._line(line)

    def eof_received(self) -> None:
        self._line(self._rest)

    def _line(self, line: bytes) -> None:
        if text := printable(line.decode(errors="replace")):
            self._on_line(text)


def _status(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
