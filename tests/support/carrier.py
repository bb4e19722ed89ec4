"""`python carrier.py HOST PORT [WORD…]`: works like `nc`, for a ProxyCommand.

It prints a line when it starts, and exits with 7 when it is terminated.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from contextlib import suppress


def main(host: str, port: str, *words: str) -> None:
    """Copy bytes in both directions until one side ends."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
    # sshd may still send when the link has closed the pipe.
    with socket.create_connection((host, int(port))) as server, suppress(ConnectionError):
        sys.stderr.write(" ".join(["carrying", *words]) + "\n")
        sys.stderr.flush()
        while True:
            for ready in select.select([0, server.fileno()], [], [])[0]:
                data = os.read(0, 65536) if ready == 0 else server.recv(65536)
                if not data:
                    return
                if ready == 0:
                    server.sendall(data)
                else:
                    os.write(1, data)


if __name__ == "__main__":
    main(*sys.argv[1:])
