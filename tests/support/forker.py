"""Forks kubemux: `python -m tests.support.forker SOCKET COMMAND...` imports these commands at the first order
that comes over the socket, and each fork of it is then what `python -m proxy` is.

A fork is a process of its own, with its own descriptors, environment, folder, session and limits; the 0.4 s
of CPU that imports take are spent once. It is a child of whoever gives the orders (CLONE_PARENT of clone(2)),
who waits for it as for any other.
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
"""The number of clone(2); 0 where we do not know it."""
MOST_BYTES: Final = 64 << 10
"""Of an order: the kernel takes no packet of more than some 200 KiB."""
_MOST_DESCRIPTORS: Final = 64
_CLONE_PARENT: Final = 0x8000


def main() -> None:
    """Serve until the other end is closed. Returns in each fork."""
    orders = socket.socket(fileno=int(sys.argv[1]))
    missing = sys.argv[2:]
    # A terminal interrupts its whole foreground group.
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
    """What each command imports before it does anything, in the way it does."""
    cli = import_module("proxy.cli")
    for command in commands:
        cli.main.get_command(None, command)
    if "run" in commands:
        forked_reader.prepare()
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all of its pages


def _clone() -> int:
    """fork(2), but the child is a child of our parent."""
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
