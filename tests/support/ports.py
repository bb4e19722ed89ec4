"""Ports for servers that cannot be handed a bound socket (sshd, etcd, kube-apiserver)."""

from __future__ import annotations

import random
import socket

# Below ip_local_port_range (32768-60999 on Linux): an outgoing connection never takes a port while its server restarts.
_LOWEST, _HIGHEST = 20000, 32767
# pytest-randomly seeds the global generator alike in every run, so two suites side by side would draw the same ports.
_draw = random.SystemRandom()


def free_port() -> int:
    """A loopback TCP port that nobody listens on. The caller tries again with another if the server loses the race for it."""
    while True:
        port = _draw.randint(_LOWEST, _HIGHEST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
