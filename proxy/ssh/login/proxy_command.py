"""The ProxyCommand of ssh_config: a command whose standard input and output are the connection to sshd.

The user's shell runs it, as with ssh(1): `$SHELL -c "exec COMMAND"`. Its input and output are one end of a
socket pair. Our end is an ordinary transport, which both data planes can use. The process has a process group
of its own, which is ended together with the link.
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
"""Seconds that the command has to end after its connection is closed and it got SIGHUP, as with ssh(1)."""

EXIT_S: Final = 0.5
"""Seconds to wait for the exit code, which the error names, after the command has closed its output."""

LINES: Final = 50
"""How many lines of its standard error are logged in a minute."""

_MINUTE_S: Final = 60.0
_LINE_BYTES: Final = 1024


class ProxyCommand:
    """The `tunnel` option of asyncssh: runs `command` when asyncssh wants a connection to `server`."""

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
        """The loop's clock when the command was started; 0 before."""

    def __repr__(self) -> str:
        return f"<ProxyCommand {self._server} process={self._process and self._process.pid}>"

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], _host: str, _port: int
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Start the command; asyncssh calls this. Raises ProxyCommandFailed."""
        transport, stdio = await self._stream(asyncio.Protocol)
        with stdio:
            try:
                self._stderr, stderr = await self._stream(lambda: _Lines(self._log_line))
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
        """A transport, and the socket at its other end.

        They are made before the process starts, because the process may end at once. uvloop would then attach
        the socket to a closed transport, and later close its descriptor again, which may belong to another
        file then.
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
        """Start the command, without the loop's own functions.

        uvloop would leave copies of the socket open in the child. If the command leaves programs behind,
        these would keep the connection open.
        """
        shell = os.environ.get("SHELL") or "/bin/sh"
        try:
            return await program.start(
                [shell, "-c", f"exec {self._command}"],
                stdin=stdio.fileno(),
                stdout=stdio.fileno(),
                stderr=stderr.fileno(),
            )
        except (OSError, ValueError) as exc:  # ValueError: the command contains a NUL
            why = exc.strerror if isinstance(exc, OSError) else None
            raise ProxyCommandFailed(
                f"the ProxyCommand for {self._server} cannot be run by {shell}: {why or exc}"
            ) from exc

    def _log_line(self, text: str) -> None:
        self._last_words = text
        if (now := self._loop.time()) >= self._minute_ends:
            self._minute_ends, self._left = now + _MINUTE_S, LINES
        if self._left:
            self._left -= 1
            more = {} if self._left else {"note": "more of it is not logged for a minute"}
            log.info("ProxyCommand says", server=self._server, line=text, **more)

    async def explain(self, failure: LinkError, when: str) -> LinkError:
        """A better error than `failure`, if the connection ended because the command did."""
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
        """End the process and what it has started. Returns when it is reaped.

        The connection must be closed before. Idempotent.
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
            # It takes longer only in a system call that no signal interrupts.
            await asyncio.wait([exited], timeout=PATIENCE_S)


class _Lines(asyncio.Protocol):
    """Splits a stream of text into lines that are safe to log."""

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
