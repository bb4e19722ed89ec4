"""A host and a port, written as `10.0.0.10:6443` or `[::1]:6443`."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple, Self

from proxy.runtime.text import shown

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")


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
        return cls(host, int(port))
