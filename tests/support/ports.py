"""Ports for servers that do not accept a bound socket (sshd, etcd, kube-apiserver), and for servers that stop
and then listen on the same port again.

They are below ip_local_port_range (32768-60999 on Linux), so that no outgoing connection uses the port while
its server is stopped. Each process has its own block of ports on the machine: another worker or another run
of the suite may have configured a port that it binds a minute later, which no check can see.
"""

from __future__ import annotations

import random
import socket
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from itertools import cycle, islice

_LOWEST, _HIGHEST, _BLOCK = 20_000, 32_767, 256
# Not the global generator: pytest-randomly gives it the same seed in every worker.
_draw = random.SystemRandom()


@cache
def claim() -> cycle[int]:
    """This process's block as an endless cycle: a port comes again after 254 others.

    The block's first port stays bound until the process ends, which keeps other processes out of the block.
    Call this before a test compares open descriptors. Raises RuntimeError if there is no block left.
    """
    firsts = range(_LOWEST, _HIGHEST - _BLOCK + 2, _BLOCK)
    for first in _draw.sample(firsts, len(firsts)):
        with socket.socket() as mark:
            try:  # without SO_REUSEADDR, with which two processes could bind the port if neither listens
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


def free_net() -> IPv4Network:
    """A network of two hosts that no other test is given: each port of the blocks has one."""
    # 198.18.0.0/15 is reserved for benchmarks (RFC 2544), so this machine has no other route to it.
    first = IPv4Address("198.18.0.0") + 4 * (free_port() - _LOWEST)
    return IPv4Network((first, 30))
