"""The orders that the daemon takes through its unix socket. `proxy/daemon/orders.py` carries them out,
`proxy/admin/endpoints.py` calls them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """What a reload did, each item like `cluster prod-eu`.

    `warnings` are sentences about what was accepted and does not work yet.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DrainResult:
    """What a drain did: how many connections were cut, and what takes none any more (`cluster prod-eu`)."""

    cut: int
    drained: tuple[str, ...]


class Control(Protocol):
    """The orders that a daemon carries out.

    Each has its own deadline and raises ProxyError. If the client closes its connection, the order goes on.
    """

    async def reload(self) -> ReloadResult:
        """Read the configuration again and apply it. If it raises ConfigError, nothing was changed."""

    async def reconnect(self, gateway: str) -> None:
        """Replace the links of `gateway` by new ones. Raises UnknownName."""

    async def probe(self, cluster: str) -> dict[str, object]:
        """Probe `cluster` now, over a new link, and return a `proxy.daemon.doctor.Report` as a document.

        Raises UnknownName.
        """

    async def drain(self, name: str) -> DrainResult:
        """Stop accepting connections for a cluster or route, or for all that leads through a gateway or site,
        and wait until the open ones have ended.

        After `limits.drain_timeout` the others are reset. Raises UnknownName.
        """

    async def end(self, caller: str, of: str | None) -> int:
        """End the connections of one caller, `uid:1002` for example, at once. Returns how many.

        `of` is a cluster or a route; None means all of them. Raises UnknownName.
        """
