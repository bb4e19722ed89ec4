"""A small service manager: does what systemd does for a service with a file descriptor store.

See systemd.service(5).
"""

from __future__ import annotations

import array
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 60.0
PACE: Final = 0.01
"""Between two connections of a client."""
_LAST: Final = b"\n"
"""A message of our own, after all messages of a process that has ended."""

# As systemd does between fork and exec: the descriptors become 3, 4, …, and LISTEN_PID is the child's id.
EXEC: Final = """
import fcntl, os, sys
names, count = sys.argv[1], int(sys.argv[2])
fds, command = sys.argv[3 : 3 + count], sys.argv[3 + count :]
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in fds]
for fd, copy in enumerate(high, 3):
    os.dup2(copy, fd)
os.closerange(3 + count, 256)
if count:
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names}
os.execv(sys.executable, [sys.executable, *command])
"""


class Manager:
    """Keeps the descriptors that the service sends, and passes them to the next process of the service.

    When the block ends, the service is stopped, which must exit with 0, and the descriptors are closed.
    """

    def __init__(self, folder: Path, *command: str) -> None:
        """`command` are the arguments of the Python interpreter."""
        self.store: dict[str, int] = {}
        self.said: list[str] = []
        """The assignments that the service has sent, oldest first."""
        self.log = folder / "service.log"
        self._command = command
        self._path = folder / "manager.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._news = threading.Condition()
        self._settled = 0
        """How many `_LAST` messages have been read."""

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        self._reader = threading.Thread(target=self._read, name="service manager")
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._process is not None:
                self.stop()
        finally:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            self._send(b"")
            self._reader.join()
            self._socket.close()
            for fd in self.store.values():
                os.close(fd)

    @property
    def pid(self) -> int:
        """The process id of the service."""
        assert self._process, "the service does not run"
        return self._process.pid

    def start(self) -> None:
        """Start the service with the kept descriptors, and wait for READY=1."""
        count = self.said.count("READY=1")
        names, fds = ":".join(self.store), list(self.store.values())
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", EXEC, names, str(len(fds)), *map(str, fds), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | {"NOTIFY_SOCKET": str(self._path)},
                pass_fds=fds,
            )
        self.wait("READY=1", lambda: self.said.count("READY=1") > count)

    def stop(self) -> None:
        """Stop the service with SIGTERM, and keep its descriptors, as for a restart."""
        assert self._process, "the service does not run"
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(PATIENCE)
        self._process = None
        settled = self._settled
        self._send(_LAST)
        self.wait("the last messages of the service", lambda: self._settled > settled)
        assert code == 0, f"exit code {code}:\n{self.log.read_text()}"

    def restart(self) -> None:
        """Restart the service, as `systemctl restart` does."""
        self.stop()
        self.start()

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is checked after each message of the service.

        Raises AssertionError with `what` if it does not.
        """
        with self._news:
            held = self._news.wait_for(condition, PATIENCE)
        assert held, f"not within {PATIENCE} s: {what}; it said {self.said}\n{self.log.read_text()}"

    def _send(self, data: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(data, str(self._path))

    def _read(self) -> None:
        room = socket.CMSG_SPACE(array.array("i", [0]).itemsize)
        while True:
            data, control, _, _ = self._socket.recvmsg(4096, room, socket.MSG_CMSG_CLOEXEC)
            fds = array.array("i")
            for _, _, rights in control:
                fds.frombytes(rights)
            if not data:
                return
            with self._news:
                if data == _LAST:
                    self._settled += 1
                else:
                    self._handle(data.decode().split("\n"), fds)
                self._news.notify_all()

    def _handle(self, assignments: list[str], fds: array.array[int]) -> None:
        self.said += assignments
        words = dict(assignment.split("=", 1) for assignment in assignments)
        if "FDSTORE" in words:
            fd = fds.pop()
            if any(os.path.sameopenfile(fd, kept) for kept in self.store.values()):
                os.close(fd)  # kept already
            else:
                assert words["FDNAME"] not in self.store, words
                self.store[words["FDNAME"]] = fd
        if "FDSTOREREMOVE" in words and words["FDNAME"] in self.store:
            os.close(self.store.pop(words["FDNAME"]))
        for fd in fds:  # of BARRIER=1: closing it says that all earlier messages have been read
            os.close(fd)


_ACCEPTED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Clients(threading.Thread):
    """One client after another: each connects, sends a few bytes, and expects the same bytes back.

    `asked`: what each asks for first by HTTP CONNECT. `failed` counts failures by kind.
    """

    def __init__(self, address: tuple[str, int] | Path, *, asked: str = "") -> None:
        super().__init__(name=f"clients of {address}")
        self.served = 0
        self.failed: dict[str, int] = {}
        self._address = address
        self._asked = asked
        self._end = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        """Run clients until the block ends."""
        while not self._end.is_set():
            try:
                with self._connect() as client:
                    if self._asked:
                        client.sendall(f"CONNECT {self._asked} HTTP/1.1\r\n\r\n".encode())
                        answer = client.recv(len(_ACCEPTED), socket.MSG_WAITALL)
                        assert answer == _ACCEPTED, answer
                    client.sendall(b"ping")
                    assert client.recv(4, socket.MSG_WAITALL) == b"ping", "cut short"
                self.served += 1
            except (OSError, AssertionError) as exc:
                name = f"{type(exc).__name__} {exc}"
                self.failed[name] = self.failed.get(name, 0) + 1
            self._end.wait(PACE)

    def _connect(self) -> socket.socket:
        if not isinstance(self._address, Path):
            return socket.create_connection(self._address, timeout=PATIENCE)
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        try:
            client.connect(str(self._address))
        except BaseException:
            client.close()
            raise
        return client

    def wait_served(self, more: int) -> None:
        """Wait until `more` further clients have been served. Raises AssertionError."""
        goal, deadline = self.served + more, time.monotonic() + PATIENCE
        while self.served < goal:
            assert time.monotonic() < deadline, f"{self.served} served, {self.failed}"
            time.sleep(0.005)
