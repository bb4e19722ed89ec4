"""A row of the fault matrix as data: the fault, how it is undone, and what each side must see of it."""

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
"""An action on the bed."""

NOTHING: Final[frozenset[Saw]] = frozenset()
RESET: Final = frozenset({Saw.RESET})
CUT: Final = frozenset({Saw.CUT})
TIMEOUT: Final = frozenset({Saw.TIMEOUT})
ANSWER: Final = frozenset({Saw.ANSWER})
REFUSED: Final = frozenset({Saw.REFUSED})

LONG_S: Final = 1.0
"""Seconds of CPU in one turn of the event loop. Answering 100,000 global requests in one turn took over 2."""

LEAVING: Final = frozenset({"client_closed", "client_reset"})
"""Results of connections that the client ends itself, as every load does at its end."""


class Hits(StrEnum):
    """The clusters that a fault affects. Clients of all others must not notice it."""

    GATEWAY = "gateway"
    """Every cluster behind the gateway."""
    CLUSTER = "cluster"
    """One cluster, and not its neighbour behind the same gateway."""
    ALL = "all"
    """The daemon itself."""


class By(StrEnum):
    """How clients connect."""

    PORT = "port"
    """To a port of their cluster."""
    PROXY = "proxy"
    """To a proxy entry, where they ask for their cluster."""
    EGRESS = "egress"
    """As kube-apiserver does: to its own entry, where it asks for nodes."""

    @property
    def counts(self) -> tuple[str, str, str]:
        """The metrics of their ended and of their open connections, and the label with the cluster's name."""
        if self is By.EGRESS:
            return "route_connections_total", "entry_connections_active", "route"
        return "connections_total", "connections_active", "cluster"


async def nothing(_: Bed) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault.

    Whatever the row does not name must not happen: another result, an error of another gateway, a leak.
    """

    name: str
    breaks: Step
    """Makes the fault begin."""
    mends: Step = nothing
    """Makes the fault end, and does what an operator has to do then."""
    hits: Hits = Hits.GATEWAY
    clients: frozenset[Saw] = NOTHING
    """What affected clients see: each client at least one of these, and nothing else."""
    may_see: frozenset[Saw] = NOTHING
    """What those clients may see besides: on a busy machine, the next link may take longer than
    `hold_timeout`, and then clients are refused.
    """
    is_partial: bool = False
    """Only some of the affected clients have to see one of these."""
    gateway: str = ""
    """The gateway's reason in `status` and in the log while the fault lasts."""
    lost: str = ""
    """The reason label of `gateway_reconnects_total` after the fault."""
    results: frozenset[str] = frozenset()
    """The result labels of the affected clusters' `connections_total`, besides `LEAVING`."""
    may: frozenset[str] = frozenset()
    """Results that are also right, because the result depends on timing."""
    probe: str = ""
    """The result label of the affected clusters' `probes_total`."""
    patience: float = 40.0
    """Seconds after which a client gives up a request."""
    within: float = 60.0
    """Seconds from the fault's end within which a request must be served; generous, as the
    backoff is random.
    """
    errors: frozenset[str] = frozenset()
    """Events that the daemon may log at level error."""
    is_through_relay: bool = False
    """Whether the daemon reaches the gateway through `Bed.path`, a relay that can act as a bad network."""
    is_site: bool = False
    """Whether the gateway is a site: `Bed.site`, an OpenSSH client that dials the daemon."""
    by: By = By.PORT
    """How clients connect."""
    has_plain: bool = False
    """Whether there is `Bed.plain`, a cluster whose server is a `Source`."""
    restarts: bool = False
    """Whether the row ends with another daemon than it began with, so that counters start again."""
    edge: Mapping[str, object] = field(default_factory=dict)
    """Keys for the gateway's section of the configuration."""
    probes: Mapping[str, object] = field(default_factory=dict)
    """Keys for the clusters' `probe`."""
    sshd: Mapping[str, str] = field(default_factory=dict)
    """Keywords for the gateway's sshd_config."""
    is_newer: bool = False
    """Whether the gateway is Debian 13's sshd."""
    limits: Mapping[str, object] = field(default_factory=dict)
    """Keys for `limits` in the configuration."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the daemon."""
    has_shim: bool = False
    """Whether the daemon runs with `Bed.shim`, which can break its resolver, clock, loop and disk."""
    has_short_turns: bool = False
    """Whether no turn of the daemon's event loop may take `LONG_S`; only with `has_shim`."""
    log: Path | None = None
    """A file for the daemon's log that the test does not read, such as /dev/full."""

    def __str__(self) -> str:
        return self.name
