"""Forks kubemux: `python -m tests.support.forker SOCKET COMMAND...`.

It imports these commands when the first order arrives on the socket. After that it forks once for each order.
Each fork then does the same as `python -m proxy`.

A fork has its own descriptors, environment, folder, session and limits, but the 0.4 s of CPU for imports are
spent only once. It is a child of the process that sends the orders (CLONE_PARENT of clone(2)). That process
waits for it as for any other child.

The forks give the daemon a minute to answer, and not the 5 s that are right for a user: a busy machine may
stop either of the two for longer.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import runpy
import signal
import socket
import sys
from importlib import import_module
from typing import Final

from tests.support import forked_reader
from tests.support.forks import become

SYS_CLONE: Final = {"x86_64": 56, "aarch64": 220}.get(platform.machine(), 0)
"""The system call number of clone(2); 0 if it is not known for this machine."""
MOST_BYTES: Final = 64 << 10
"""The maximum size of an order. The kernel's limit for a packet is about 200 KiB."""
_MOST_DESCRIPTORS: Final = 64
_CLONE_PARENT: Final = 0x8000
_ANSWER_S: Final = 60.0


def main() -> None:
    """Fork for each order until the socket is closed. Returns only in the forks."""
    orders = socket.socket(fileno=int(sys.argv[1]))
    missing = sys.argv[2:]
    # A terminal sends SIGINT to its whole foreground group, but this process must survive it.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        data, descriptors, _, _ = socket.recv_fds(orders, MOST_BYTES, _MOST_DESCRIPTORS)
        if not data:
            sys.exit()
        if missing:
            _import(missing)
            missing.clear()
        if not (pid := _clone()):
            orders.close()
            signal.signal(signal.SIGINT, interrupt)
            become(json.loads(data), descriptors)
            if sys.argv[1:2] == ["run"]:
                forked_reader.install()
            return
        for descriptor in descriptors:
            os.close(descriptor)
        orders.send(str(pid).encode())


def _import(commands: list[str]) -> None:
    """Import the modules of each command, in the same way as the command line does."""
    cli = import_module("proxy.cli")
    for command in commands:
        cli.main.get_command(None, command)
    if "run" in commands:
        forked_reader.prepare()
    else:
        vars(import_module("proxy.admin.client"))["ASK_TIMEOUT"] = _ANSWER_S
    gc.collect()
    gc.freeze()  # otherwise a garbage collection in a fork would copy all memory pages


def _clone() -> int:
    """Like fork(2), but the new process is a child of our parent."""
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    pid = int(ctypes.PyDLL(None).syscall(SYS_CLONE, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0))
    if pid:
        python.PyOS_AfterFork_Parent()
    else:
        python.PyOS_AfterFork_Child()
    return pid


if __name__ == "__main__":
    main()
    runpy.run_module("proxy", run_name="__main__", alter_sys=True)
