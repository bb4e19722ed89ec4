"""Networks of addresses, as in `10.20.0.0/16`; one address is the smallest."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from proxy.config.written import Written
from proxy.runtime.text import shown

AnyNetwork = IPv4Network | IPv6Network


def parse_network(value: object) -> AnyNetwork:
    """`10.20.0.0/16`, `fd00::/8` or an address. Raises ValueError."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        raise ValueError(f'expected a network in quotes, like "10.20.0.0/16", got {shown(value)}')  # noqa: TRY004 - a mistake in a file is a ValueError
    try:
        return ip_network(value)
    except ValueError:
        pass
    try:
        wide = ip_network(value, strict=False)
    except ValueError as exc:
        raise ValueError(f"expected a network like 10.20.0.0/16 or fd00::/8, got {shown(value)}") from exc
    raise ValueError(f"{shown(value)} is an address within a network: write {wide}")


def format_network(network: object) -> str:
    return str(network)


Network = Annotated[AnyNetwork, Written(parse_network, r"^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$", format_network)]
"""Addresses of clients."""
