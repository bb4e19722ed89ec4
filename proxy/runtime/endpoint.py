"""A host and a port, written as `10.0.0.10:6443` or `[::1]:6443`; a unix socket, as `unix:/run/some.sock`."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple, Self

from proxy.runtime.text import shown

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_DIGITS = re.compile(r"[0-9.]+")
_IPV4 = re.compile(r"[0-9]+(\.[0-9]+){0,2}|(0*(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(\.(?!$)|$)){4}")
"""What resolvers read as an IPv4 address; `127.1` is one, too (inet_aton(3))."""


def check_host(host: str) -> None:
    """Raise ValueError if `host` is a mistyped IPv4 address, such as `10.0.0.256` and `10.0.0.0.1`."""
    if _DIGITS.fullmatch(host) and not _IPV4.fullmatch(host):
        raise ValueError(f"{shown(host)} is not an IPv4 address")


class Endpoint(NamedTuple):
    """A host (name or IP address, without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_address(self) -> bool:
        """Whether the host is an address, so that no name must be resolved."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it (127.0.0.0/8, ::1, `localhost`)."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `HOST:PORT` or `[IPV6]:PORT`. Raises ValueError, which says what is expected."""
        scheme, is_url, _ = text.partition("://")
        if is_url and scheme.lower() in {"http", "https"}:
            raise ValueError(f"expected HOST:PORT or [IPV6]:PORT, without {scheme}://, got {shown(text)}")
        host, _, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if not host or not port.isascii() or not port.isdecimal() or (":" in host) != bracketed:
            raise ValueError(f"expected HOST:PORT or [IPV6]:PORT, got {shown(text)}")
        if len(port) > 5 or not 1 <= int(port) <= 65535:
            raise ValueError(f"port {port[:9]} is out of range 1-65535")
        if bracketed:
            try:
                ipaddress.IPv6Address(host)
            except ValueError as exc:
                raise ValueError(f"[{host}] is not an IPv6 address") from exc
        elif not _HOST.fullmatch(host):
            raise ValueError(f"{shown(host)} is neither a host name nor an IP address")
        else:
            check_host(host)
        return cls(host, int(port))


class UnixPath(NamedTuple):
    """The file of a unix socket. An abstract one, which has none, begins with `@`."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Local = Endpoint | UnixPath
"""The address of a listener on this machine."""
