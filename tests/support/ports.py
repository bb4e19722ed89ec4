"""Ports for servers that cannot be handed a bound socket (sshd, etcd, kube-apiserver)."""

from __future__ import annotations

import os
import random
import socket
from collections import deque

# Below ip_local_port_range (32768-60999 on Linux): an outgoing connection never takes a port while its server
# restarts.
_LOWEST, _HIGHEST = 20000, 32767
# pytest-randomly seeds the global generator alike in every run, so two suites side by side would draw the
# same ports.
_draw = random.SystemRandom()
# pytest-xdist's workers draw from shares of their own, and none draws a port again that may not be bound yet.
_SHARES = 8
_share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SHARES
_given: deque[int] = deque(maxlen=500)


def free_port() -> int:
    """A loopback TCP port that nobody listens on.

    The caller tries again with another if the server loses the race for it.
    """
    while True:
        port = _draw.randrange(_LOWEST + _share, _HIGHEST, _SHARES)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.append(port)
            return port
