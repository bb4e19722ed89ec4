"""Ports for servers that cannot be handed a bound socket (sshd, etcd, kube-apiserver), and for those that
listen again where they have listened before.

They are below ip_local_port_range (32768-60999 on Linux): no outgoing connection takes one while its server
is away. Each process has a block of its own, on the whole machine: another suite, or another worker of this
one, may have a port in its configuration that it binds a minute later, and nothing else would show it.
"""

from __future__ import annotations

import random
import socket
from functools import cache
from itertools import cycle, islice

_LOWEST, _HIGHEST, _BLOCK = 20_000, 32_767, 256
# pytest-randomly seeds the global generator alike in every run.
_draw = random.SystemRandom()


@cache
def claim() -> cycle[int]:
    """This process's block, in turn: a port is drawn again when 254 others have been.

    Its first port shows whose it is: it stays bound until the process ends. To be called before a test looks
    for what it has left open. Raises RuntimeError if there is no block left.
    """
    firsts = range(_LOWEST, _HIGHEST - _BLOCK + 2, _BLOCK)
    for first in _draw.sample(firsts, len(firsts)):
        with socket.socket() as mark:
            try:  # without SO_REUSEADDR: two that do not listen could have the port then
                mark.bind(("127.0.0.1", first))
            except OSError:
                continue
            mark.detach()
            return cycle(range(first + 1, first + _BLOCK))
    raise RuntimeError(f"{len(firsts)} processes that run tests have all ports from {_LOWEST} on")


def free_port() -> int:
    """A loopback TCP port that nobody listens on, and that no other test is given.

    Raises RuntimeError if there is none.
    """
    for port in islice(claim(), _BLOCK - 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("every port of this process's block is in use")
