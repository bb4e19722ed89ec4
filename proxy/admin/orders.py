"""What the daemon can be told through its unix socket; the daemon implements it, `proxy/admin/server.py`
calls it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """What a reload did, each item like `cluster prod-eu`.

    `warnings` are sentences: what was taken but does not work yet.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Control(Protocol):
    """The changing calls.

    Each bounds its own time and raises ProxyError; a client that hangs up does not cancel it.
    """

    async def reload(self) -> ReloadResult:
        """Read the configuration again and take it. Raises ConfigError, and then nothing has changed."""

    async def reconnect(self, gateway: str) -> None:
        """Replace the links of `gateway` by new ones. Raises UnknownName."""

    async def probe(self, cluster: str) -> dict[str, object]:
        """Probe `cluster` now, over a link of its own, and say how it went: `proxy.daemon.doctor.Report`.

        Raises UnknownName.
        """

    async def drain(self, cluster: str) -> int:
        """Take no new connections for `cluster`; returns when those it had have ended or had their time: how
        many were cut.

        Raises UnknownName.
        """
