"""SOCKS5 (RFC 1928) with user and password (RFC 1929). Only CONNECT is supported; SOCKS4 is refused."""

from __future__ import annotations

from enum import Enum, auto
from ipaddress import ip_address
from typing import Final

from proxy.entries.heads.answers import ADDRESS_TYPE_NOT_SUPPORTED, GENERAL_FAILURE, codes
from proxy.entries.heads.head import Asked, Credentials, Head, Login, Rejected, Reply, Step, target
from proxy.errors.reasons import Reason

VERSION: Final = 5
VERSION_4: Final = 4
_SOCKS4_REJECTED: Final = bytes((0, 91, *bytes(6)))
"""SOCKS4's own reply: 91, request rejected."""

_NO_LOGIN, _PASSWORD, _NO_METHOD = 0, 2, 0xFF
_LOGIN_VERSION: Final = 1
_CONNECT: Final = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4


class _Phase(Enum):
    """The message that the client sends next."""

    METHODS = auto()
    LOGIN = auto()
    REQUEST = auto()


class Socks5(Head):
    """The client sends its methods, its password if one is needed, and its request; each gets a reply."""

    def __init__(self, *, needs_user: bool) -> None:
        self._needs_user = needs_user
        self._held = bytearray()
        self._phase = _Phase.METHODS

    def feed(self, data: bytes) -> Step:
        self._held += data
        if self._phase is _Phase.METHODS:
            return self._methods(self._held)
        return self._login(self._held) if self._phase is _Phase.LOGIN else self._request(self._held)

    def login(self, *, is_known: bool) -> Step:
        if not is_known:
            return self._rejected(Reason.AUTH_REQUIRED, "wrong user or password")
        self._phase = _Phase.REQUEST
        return Reply(bytes((_LOGIN_VERSION, 0)))

    def accepted(self) -> bytes:
        return _reply(0)

    def refused(self, reason: Reason, message: str = "", *, subject: str = "") -> bytes:
        """The refusal in reply to the client's next message. SOCKS5 has only a code, and no text."""
        del message, subject
        return self._refusal(codes(reason).reply)

    def _methods(self, held: bytearray) -> Step:
        """RFC 1928 3: version, number of methods, methods."""
        if held[:1] == bytes((VERSION_4,)):
            held.clear()
            return Rejected(Reason.UNSUPPORTED, "SOCKS4: use SOCKS5 or HTTP CONNECT", _SOCKS4_REJECTED)
        if len(held) < 2 or len(held) < 2 + held[1]:
            return None
        offered = self._consume(2 + held[1])[2:]
        method, phase = (_PASSWORD, _Phase.LOGIN) if self._needs_user else (_NO_LOGIN, _Phase.REQUEST)
        if method in offered:
            self._phase = phase
            return Reply(bytes((VERSION, method)))
        if self._needs_user:
            return self._rejected(Reason.AUTH_REQUIRED, "the entry needs a user and a password")
        return self._bad("the client does not offer the method without a login")

    def _login(self, held: bytearray) -> Step:
        """RFC 1929 2: version, length and user, length and password.

        The RFC forbids an empty password, but clients send one. It is checked like any other.
        """
        if held and held[0] != _LOGIN_VERSION:
            return self._bad("a login message of another version than RFC 1929's")
        if len(held) < 2 or len(held) < 3 + held[1] or len(held) < 3 + held[1] + held[2 + held[1]]:
            return None
        size = held[1]
        message = self._consume(3 + size + held[2 + size])
        try:
            credentials = Credentials(message[2 : 2 + size].decode(), message[3 + size :].decode())
        except UnicodeDecodeError:
            return self._rejected(Reason.AUTH_REQUIRED, "a user or a password that is not UTF-8")
        return Login(credentials) if size else self._rejected(Reason.AUTH_REQUIRED, "an empty user")

    def _request(self, held: bytearray) -> Step:
        """RFC 1928 4: version, command, reserved, type of address, address, port."""
        if held and held[0] != VERSION:
            return self._bad("a request of another version than SOCKS5")
        if len(held) < 5:  # the fifth byte is the length of a name
            return None
        _, command, _, kind, size = held[:5]
        if command != _CONNECT:
            return self._rejected(Reason.UNSUPPORTED, "CONNECT is the only command of SOCKS5 here")
        if kind not in (_IPV4, _NAME, _IPV6):
            return self._bad("an address of an unknown type", ADDRESS_TYPE_NOT_SUPPORTED)
        start = 5 if kind == _NAME else 4
        end = start + {_IPV4: 4, _NAME: size, _IPV6: 16}[kind]
        if len(held) < end + 2:
            return None
        message = self._consume(end + 2)
        port = int.from_bytes(message[end:])
        said = message[start:end]
        host = said.decode("latin-1") if kind == _NAME else str(ip_address(said))
        try:
            asked = target(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except ValueError as exc:
            return self._bad(str(exc))
        return Asked(asked, self._consume(len(held)))

    def _consume(self, count: int) -> bytes:
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    def _bad(self, message: str, code: int = GENERAL_FAILURE) -> Rejected:
        self._held.clear()
        return Rejected(Reason.BAD_REQUEST, message, self._refusal(code))

    def _rejected(self, reason: Reason, message: str) -> Rejected:
        self._held.clear()
        return Rejected(reason, message, self.refused(reason))

    def _refusal(self, code: int) -> bytes:
        if self._phase is _Phase.METHODS:
            return bytes((VERSION, _NO_METHOD))
        return bytes((_LOGIN_VERSION, 1)) if self._phase is _Phase.LOGIN else _reply(code)


def _reply(code: int) -> bytes:
    """RFC 1928 6. The bound address is 0.0.0.0:0: it would be the gateway's, which sshd does not tell us."""
    return bytes((VERSION, code, 0, _IPV4, *bytes(6)))
