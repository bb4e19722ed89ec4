"""`kubemux` as a process: forked from a process that has already imported it, or executed as a user does.

To start an interpreter and import a command takes 0.3 to 0.6 s of CPU. A fork takes a hundredth of that, but
skips everything before kubemux's first line. So tests of the start execute kubemux, and so do some tests of
each kind.
"""

from __future__ import annotations

import inspect
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, AnyStr, Final

from tests.support import forker
from tests.support.forks import PIPES, Order

ROOT: Final = Path(__file__).parents[2]
PROGRAM: Final = [sys.executable, "-m", "proxy"]

_SETS: Final = (
    ("run",),
    ("check", "status", "reload", "reconnect", "drain", "probe", "route", "ssh-config", "kubeconfig"),
)
"""The commands that each forking process imports. A daemon must not have imported modules of other commands.
"""
_OF_INTERPRETER: Final = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "MALLOC_", "GLIBC_", "OPENSSL_")
"""Variables with these prefixes have an effect only when an interpreter starts, or a library is imported."""


class _Forker:
    """A process that forks some commands. It imports them before its first fork."""

    def __init__(self, commands: Collection[str]) -> None:
        self._socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._environment = _of_interpreter(os.environ)
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forker", str(its.fileno()), *commands],
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                pass_fds=[its.fileno()],
            )

    def close(self) -> None:
        self._socket.close()
        self._process.wait()

    def can_fork(self, order: Order) -> bool:
        """Whether a fork is the same as an executed process with that environment."""
        return bool(forker.SYS_CLONE) and _of_interpreter(order["environment"]) == self._environment

    def fork(self, order: Order, descriptors: Collection[int]) -> int:
        """Fork a child. Returns its process id."""
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(order).encode()], list(descriptors))
            answer = self._socket.recv(64)
        assert answer, "the process that forks kubemux has ended"
        return int(answer)


_forkers: Final[dict[str, _Forker]] = {}
"""The forking process of each command."""


@contextmanager
def forkers() -> Iterator[None]:
    """Run the forking processes until the block ends."""
    started = [(commands, _Forker(commands)) for commands in _SETS]
    for commands, process in started:
        _forkers.update(dict.fromkeys(commands, process))
    try:
        yield
    finally:
        _forkers.clear()
        for _, process in started:
            process.close()


class Forked(subprocess.Popen[AnyStr]):
    """A `Popen` that forks `python -m proxy`, and executes everything else."""

    def _execute_child(self, *given: Any) -> None:
        # Popen has no public hook that replaces only the start of the child.
        execute: Callable[..., None] = super()._execute_child  # type: ignore[misc]
        asked: dict[str, Any] = inspect.signature(execute).bind(*given).arguments
        program, words = list(asked["args"])[: len(PROGRAM)], list(asked["args"])[len(PROGRAM) :]
        order: Order = {
            "words": [os.fsdecode(word) for word in words],
            "environment": dict(os.environ if asked["env"] is None else asked["env"]),
            "folder": os.fspath(asked["cwd"] or Path.cwd()),
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "descriptors": [0, 1, 2, *asked["pass_fds"]],
            "starts_session": asked["start_new_session"],
        }
        process = _forkers.get(order["words"][0]) if program == PROGRAM and words else None
        if process is None or not process.can_fork(order):
            execute(*given)
            return
        streams = (asked["p2cread"], asked["c2pwrite"], asked["errwrite"])
        own: list[int] = [number if stream == -1 else stream for number, stream in enumerate(streams)]
        self.pid = process.fork(order, [*own, *asked["pass_fds"]])
        self._child_created: bool = True
        self._close_pipe_fds(*(asked[name] for name in PIPES))  # type: ignore[attr-defined]


def run(
    *words: str | Path,
    environment: Mapping[str, str] | None = None,
    folder: Path = ROOT,
    executes: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `kubemux WORDS...` until it ends. `environment` is added to our own."""
    popen = subprocess.Popen if executes else Forked
    with popen(
        [*PROGRAM, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | (environment or {}),
    ) as process:
        try:
            said = process.communicate(timeout=_SECONDS)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, *said)


_SECONDS: Final = 180.0


def _of_interpreter(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_OF_INTERPRETER)}
