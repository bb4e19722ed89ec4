"""The limits for clients of all destinations: `limits` of the configuration, and what the system allows."""

from __future__ import annotations

import structlog

from proxy.config.model import Config
from proxy.daemon.connections import Shared
from proxy.runtime import descriptors

log = structlog.get_logger("kubemux.daemon")


def apply(config: Config, shared: Shared) -> None:
    """Apply the limits to new connections."""
    limits = config.limits
    fit = descriptors.for_clients(descriptors.raise_limit(), _sockets(config))
    if fit < limits.max_connections:
        log.warning(
            "fewer connections than configured",
            max_connections=limits.max_connections,
            allowed=fit,
            hint="raise LimitNOFILE= of the unit (ulimit -n), or lower limits.max_connections",
        )
    shared.admission.limit = min(fit, limits.max_connections)
    shared.budget.resize(limits.memory, limits.max_connections)
    shared.hold_timeout = limits.hold_timeout


def _sockets(config: Config) -> int:
    """How many sockets the daemon may need for listeners, links and logins, without those of clients."""
    gateways = sum(
        gateway.connections * (gateway.max_hosts if gateway.is_pattern else 1)
        for gateway in config.gateways.values()
    )
    sites = sum(site.connections for site in config.sites.values())
    logins = 0 if config.ssh_server is None else config.ssh_server.max_startups
    return len(config.clusters) + gateways + sites + logins
