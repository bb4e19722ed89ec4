"""A row of the fault matrix as data: what breaks, how it is undone, and what
everybody is meant to see of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.faults.client import Saw

if TYPE_CHECKING:
    from tests.faults.bed import Bed

Step = Callable[["Bed"], Awaitable[None]]
"""Something done to the bed."""

NOTHING: Final[frozenset[Saw]] = frozenset()
RESET: Final = frozenset({Saw.RESET})
CUT: Final = frozenset({Saw.CUT})
TIMEOUT: Final = frozenset({Saw.TIMEOUT})
ANSWER: Final = frozenset({Saw.ANSWER})
REFUSED: Final = frozenset({Saw.REFUSED})

LEAVING: Final = frozenset({"client_closed", "client_reset"})
"""Results of clients that leave by themselves, as every load does at its end."""


class Hits(StrEnum):
    """Whom a fault affects. All others must see nothing of it."""

    GATEWAY = "gateway"
    """Every cluster behind the gateway."""
    CLUSTER = "cluster"
    """One cluster; its neighbour behind the same gateway is not affected."""
    ALL = "all"
    """The daemon itself."""


async def nothing(_: Bed) -> None:
    """No step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault.

    What is not named is meant not to happen: another result, another gateway's error, a leak.
    """

    name: str
    breaks: Step
    """Makes the fault begin."""
    mends: Step = nothing
    """Makes the fault end, and does what an operator has to do about it."""
    hits: Hits = Hits.GATEWAY
    clients: frozenset[Saw] = NOTHING
    """What each affected client may see: nothing else, and each client at least one of these."""
    may_see: frozenset[Saw] = NOTHING
    """What is right for those clients, too: where a sshd stops or restarts, a busy machine may take longer
    than `hold_timeout` to have it back, and clients are refused then.
    """
    is_partial: bool = False
    """Some of the affected clients see these, and some do not."""
    gateway: str = ""
    """The reason beside the gateway in `status` while the fault lasts, and in the log."""
    lost: str = ""
    """The reason label of `gateway_reconnects_total` after the fault."""
    results: frozenset[str] = frozenset()
    """The result labels of `connections_total` of those that are hit, beside those of clients that leave by
    themselves.
    """
    on_native: Mapping[str, str] = field(default_factory=dict)
    """Reasons that have another, more exact name on the native data plane."""
    may: frozenset[str] = frozenset()
    """Results that are right, too: which of them a client gets depends on timing."""
    probe: str = ""
    """The result label of `probes_total` of those that are hit."""
    patience: float = 20.0
    """Seconds after which a client gives up a request."""
    within: float = 20.0
    """Seconds from the fault's end to the first request served; generous: the backoff is random."""
    errors: frozenset[str] = frozenset()
    """Events that the daemon's log may have at level error."""
    is_through_relay: bool = False
    """Whether the gateway is reached through `Bed.path`, which can be a bad network."""
    is_by_name: bool = False
    """Whether clients ask the proxy entry for their clusters by name."""
    has_plain: bool = False
    """Whether there is `Bed.plain`, a cluster whose server is a `Source`."""
    restarts: bool = False
    """Whether another daemon is there in the end, with counters of its own."""
    edge: Mapping[str, object] = field(default_factory=dict)
    """Keys of the gateway's section."""
    sshd: Mapping[str, str] = field(default_factory=dict)
    """Keywords of the gateway's sshd_config."""
    is_newer: bool = False
    """Whether the gateway's sshd is that of Debian 13."""
    limits: Mapping[str, object] = field(default_factory=dict)
    """Keys of `limits`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the daemon."""
    has_shim: bool = False
    """Whether the daemon's resolver, clock and event loop can be spoilt: `Bed.shim`."""
    log: Path | None = None
    """Where the daemon writes its log, if the test does not read it."""

    def __str__(self) -> str:
        return self.name
