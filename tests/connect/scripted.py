"""A proxy entry that the test scripts, and `kubemux connect` as a process that uses it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.daemon import ROOT

ACCEPTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
SECONDS = 60.0
Process = subprocess.Popen[bytes]


class Entry:
    """An entry on a unix socket in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.listen = f"unix:{folder / 'entry.sock'}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(SECONDS)
        self._listener.bind(str(folder / "entry.sock"))
        self._listener.listen()

    def close(self) -> None:
        self._listener.close()

    def accept(self) -> tuple[socket.socket, bytes]:
        """Accept a client. Returns its connection and its request."""
        sock, _ = self._listener.accept()
        sock.settimeout(SECONDS)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = sock.recv(1)
            assert data, head
            head += data
        return sock, head

    def serve(self, answer: bytes = ACCEPTED) -> socket.socket:
        """Accept a client and send `answer`. Returns the connection."""
        sock, _ = self.accept()
        sock.sendall(answer)
        return sock


@contextmanager
def kubemux(*words: str, stdout: int = subprocess.PIPE, **environment: str) -> Iterator[Process]:
    """Run `kubemux connect` with these arguments. If it still runs when the block ends, it is killed."""
    with subprocess.Popen(
        [sys.executable, "-m", "proxy", "connect", *words],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: Process) -> tuple[int, bytes, bytes]:
    """Close the process' standard input, and wait. Returns its exit code and the rest of its output."""
    if process.stdin:
        process.stdin.close()
    out, err = (stream.read() if stream else b"" for stream in (process.stdout, process.stderr))
    return process.wait(SECONDS), out, err
