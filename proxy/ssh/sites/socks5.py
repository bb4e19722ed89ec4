"""The request to the SOCKS5 server in a site's ssh client, and the reply (RFC 1928).

With `ssh -R NAME:PORT` and no target, the ssh client is a SOCKS5 server (ssh(1), OpenSSH 7.6 and later). That
server accepts the methods and the request in one packet, which saves a round trip. The libraries socksio and
python-socks send the request only after the method reply. They also expect each reply in a read of its own:
if bytes of the target follow a reply in the same read, they are lost.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from proxy.errors import ChannelError, ChannelRefused
from proxy.runtime.endpoint import Endpoint

_VERSION: Final = 5
_METHODS: Final = bytes((_VERSION, 1, 0))
"""One method: no authentication. The channel is inside a connection that is authenticated."""
_CONNECT: Final = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_MOST_NAME: Final = 255

_CONNECTED: Final = bytes((_VERSION, 0)) + bytes((_VERSION, 0, 0, _IPV4)) + bytes(4 + 2)
"""What OpenSSH sends if it has connected to the target: always these bytes, in one packet."""

_REPLIES: Final = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}
"""RFC 1928 6. OpenSSH sends only 0: if it cannot connect, it closes the channel instead."""


@lru_cache(maxsize=1024)
def connect_request(target: Endpoint) -> bytes:
    """The methods and the CONNECT request for `target`. Raises ChannelError if its name is too long."""
    return _METHODS + bytes((_VERSION, _CONNECT, 0)) + _address(target.host) + target.port.to_bytes(2)


def _address(host: str) -> bytes:
    try:
        address = ip_address(host)
    except ValueError:
        name = host.encode()
        if len(name) > _MOST_NAME:
            raise ChannelError(f"a name of {len(name)} bytes is too long for SOCKS5") from None
        return bytes((_NAME, len(name))) + name
    return bytes((_IPV4 if address.version == 4 else _IPV6,)) + address.packed


UNSUPPORTED_METHOD: Final = bytes((_VERSION, 1, 0xFE))
"""Offers only the private method 0xFE, which no server supports. A server answers "no acceptable methods"
(RFC 1928 3) or nothing, and closes the channel.
"""
_NO_METHOD: Final = bytes((_VERSION, 0xFF))


class MethodReply:
    """Parses the server's answer to `UNSUPPORTED_METHOD`."""

    def __init__(self, server: str) -> None:
        """`server` is for messages."""
        self._server = server
        self._held = b""

    def feed(self, data: bytes) -> bytes | None:
        """Like `ConnectReply.feed`. Raises ChannelError if this is no SOCKS5 server."""
        self._held += data
        if not _NO_METHOD.startswith(self._held[:2]):
            raise ChannelError(f"{self._server} gave an answer that is not SOCKS5: {self._held[:2].hex(' ')}")
        return None if len(self._held) < len(_NO_METHOD) else b""

    def closed(self) -> None:
        """No error: OpenSSH closes the channel without an answer."""


class ConnectReply:
    """Parses the server's reply to `connect_request`, which may arrive in pieces."""

    def __init__(self, server: str, target: Endpoint) -> None:
        """`server` and `target` are for messages."""
        self._server = server
        self._target = target
        self._held = bytearray()

    def feed(self, data: bytes) -> bytes | None:
        """Returns None until the reply is complete. Then the site is connected to the target, and the
        returned bytes are the first bytes of the target.

        Raises ChannelRefused if the site cannot connect to the target, ChannelError if this is no SOCKS5
        reply.
        """
        if data == _CONNECTED and not self._held:
            return b""
        self._held += data
        held = bytes(self._held)
        if held[:1] not in (b"", bytes((_VERSION,))) or held[1:2] not in (b"", b"\0"):
            raise self._error(f"not SOCKS5: {held[:2].hex(' ')}")
        reply = held[2:]
        if reply[:1] not in (b"", bytes((_VERSION,))):
            raise self._error(f"not SOCKS5: {reply[:1].hex()}")
        if len(reply) > 1 and reply[1]:
            why = _REPLIES.get(reply[1], f"reply {reply[1]}")
            raise ChannelRefused(f"{self._server} could not connect to {self._target}: {why}")
        if len(reply) < 5:
            return None
        if (size := self._size(reply)) > len(reply):
            return None
        return reply[size:]

    def closed(self) -> ChannelRefused:
        """The error if the channel is closed before the reply is complete. OpenSSH does not send why."""
        return ChannelRefused(
            f"{self._server} could not connect to {self._target}, or its PermitRemoteOpen does not allow it"
        )

    def _size(self, reply: bytes) -> int:
        kind = reply[3]
        if kind == _IPV4:
            return 4 + 4 + 2
        if kind == _IPV6:
            return 4 + 16 + 2
        if kind == _NAME:
            return 4 + 1 + reply[4] + 2
        raise self._error(f"address type {kind}")

    def _error(self, said: str) -> ChannelError:
        return ChannelError(f"{self._server} gave an answer that is {said}")
