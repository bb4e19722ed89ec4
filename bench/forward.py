"""asyncssh's own port forwarding on uvloop, without kubemux.

`python -m bench.forward HOST PORT USER IDENTITY KNOWN_HOSTS LOCAL:TARGET...`
"""

from __future__ import annotations

import sys

import asyncssh
import uvloop


async def main(host: str, port: str, user: str, identity: str, known_hosts: str, *forwards: str) -> None:
    """Forward until the connection ends."""
    async with asyncssh.connect(
        host,
        int(port),
        username=user,
        client_keys=[identity],
        known_hosts=known_hosts,
        config=None,
        agent_path=None,
    ) as connection:
        for forward in forwards:
            local, target = map(int, forward.split(":"))
            await connection.forward_local_port("127.0.0.1", local, "127.0.0.1", target)
        await connection.wait_closed()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
