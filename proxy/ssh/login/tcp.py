"""The TCP connection that carries an SSH connection, if no jump host and no ProxyCommand does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from proxy.config.model import KeepaliveConfig
from proxy.errors import Unresolvable
from proxy.runtime.blocking import Hangs, Place
from proxy.runtime.names import connect, resolve
from proxy.ssh.errors import describe_connect


def unanswered(keepalive: KeepaliveConfig) -> float:
    """Seconds after which the kernel ends a connection whose peer acknowledges nothing (TCP_USER_TIMEOUT, RFC
    5482).

    It is half of what the keepalive allows, because the keepalive needs an answer of sshd, which may be busy.
    If a kernel has acknowledged none of six retransmissions, it or the network has failed. It is at
    least one second, because one lost retransmission takes 600 ms.
    """
    return max(1.0, keepalive.interval * keepalive.max_missed / 2)


def set_user_timeout(sock: socket.socket | None, unanswered: float) -> None:
    """Let the kernel end a connection if the peer acknowledges nothing for `unanswered` seconds.

    Raises OSError.
    """
    if sock is not None:  # None after a reset
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(unanswered * 1000))


class Tcp:
    """Connects by TCP to the first address that answers. It is the `tunnel` option of asyncssh.

    `asyncssh.connect(sock=)` is not safe: if the connection is reset at once, uvloop closes the descriptor.
    Later the socket object closes the same number again, which may belong to another file by then.
    """

    def __init__(
        self, server: str, seconds: float, unanswered: float, names: Place, bind_address: str | None = None
    ) -> None:
        self.addresses: list[str] = []
        self.connected_at = 0.0
        """The loop's clock when the connection came up; 0 before."""
        self._server = server
        self._seconds = seconds
        self._unanswered = unanswered
        self._names = names
        self._bind_address = bind_address
        self._source: tuple[str, int] | None = None

    async def resolve(self, host: str, port: int, family: int) -> None:
        """Resolve the server's name, and the BindAddress if there is one. Raises Unresolvable."""
        self.addresses = await self._look_up(self._server, host, port, family)
        if self._bind_address:
            ours = await self._look_up(f"BindAddress {self._bind_address}", self._bind_address, 0, family)
            self._source = ours[0], 0

    async def _look_up(self, what: str, host: str, port: int, family: int) -> list[str]:
        try:
            found = await resolve(host, port, self._names, family=family, timeout=self._seconds)
            return list(dict.fromkeys(address.host for address in found))
        except Hangs as exc:
            hint = (
                f"the bastion's resolver does not answer: getent hosts {host}; /etc/resolv.conf names "
                "its servers"
            )
            raise Unresolvable(
                f"{what} does not resolve: no answer within {self._seconds:g} s", hint=hint
            ) from exc
        except (OSError, UnicodeError) as exc:  # UnicodeError: it cannot be a host name (RFC 5890)
            raise describe_connect(what, exc) from exc

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], _host: str, port: int
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Connect to the first address that answers. Each address gets an equal share of the time.

        asyncssh calls this. Raises LinkError.
        """
        failure = OSError("no address")
        for address in self.addresses:
            try:
                async with asyncio.timeout(self._seconds / len(self.addresses)):
                    connection = await connect(factory, address, port, local_addr=self._source)
                set_user_timeout(connection[0].get_extra_info("socket"), self._unanswered)
            except OSError as exc:
                failure = exc
            else:
                self.connected_at = asyncio.get_running_loop().time()
                return connection
        raise describe_connect(self._server, failure) from failure
