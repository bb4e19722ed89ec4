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


class Control(Protocol):
    """The orders.

    Each has a deadline of its own and raises ProxyError. It goes on when its client hangs up.
    """

    async def reload(self) -> ReloadResult:
        """Read the configuration again and apply it. Raises ConfigError, and then nothing has changed."""

    async def reconnect(self, gateway: str) -> None:
        """Replace the links of `gateway` by new ones. Raises UnknownName."""

    async def probe(self, cluster: str) -> dict[str, object]:
        """Probe `cluster` now, over a link of its own, and say how it went: `proxy.daemon.doctor.Report`.

        Raises UnknownName.
        """

    async def drain(self, cluster: str) -> int:
        """Stop accepting connections for `cluster`, and wait until the open ones have ended, or for
        `limits.drain_timeout`. Returns how many were cut.

        Raises UnknownName.
        """
