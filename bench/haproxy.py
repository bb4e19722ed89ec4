"""HAProxy in plain TCP mode, as a lower bound for CPU: a fast program that relays bytes without encryption.

Like the other forwarders it has one thread. It runs with `nosplice`: with splice(2) the kernel alone would
move the bytes. A program that encrypts them cannot do that.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.columns import Ports, Route, distinct_ports, verify
from bench.result import HAPROXY
from bench.waiting import ended, wait_listening
from tests.support.parts import find

_GLOBAL = """
global
    nbthread 1
    nosplice
    maxconn 4096
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
"""
_FORWARD = """
listen {name}
    bind 127.0.0.1:{local}
    server target 127.0.0.1:{target}
"""


@contextmanager
def haproxy(folder: Path, targets: Ports) -> Iterator[Route]:
    """HAProxy directly in front of the targets, without SSH. It is verified like the other columns."""
    ports = Ports(*distinct_ports(len(targets)))
    forwards = (
        _FORWARD.format(name=name, local=local, target=target)
        for name, local, target in zip(Ports._fields, ports, targets, strict=True)
    )
    folder.mkdir()
    config = folder / "haproxy.cfg"
    config.write_text(_GLOBAL + "".join(forwards))
    with ended(
        subprocess.Popen([find("haproxy") or "haproxy", "-db", "-f", config], stdin=subprocess.DEVNULL)
    ) as process:
        wait_listening(ports, [process])
        route = Route(HAPROXY, ports, process.pid)
        verify(route)
        yield route
