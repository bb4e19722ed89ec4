"""Ends open connections that are no longer permitted after a reload, or after a file of keys has changed.

This applies only to channels of the SSH server. The options of a client's key, the `allow` lists and the
site's `permit` must allow a channel as long as it is open. (The SSH server itself ends the logins of keys
that are no longer accepted.) Callers of other entries are checked only once, when they connect: the groups of
a uid need a lookup, and a failed lookup must not cut kubectl.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from proxy.config.allow import ANY, Rule
from proxy.daemon.access import Allow
from proxy.daemon.connections import Connections
from proxy.daemon.routed import Routed
from proxy.daemon.served import ServedCluster
from proxy.daemon.served_site import ServedSite
from proxy.entries.arrival import Arrival
from proxy.errors.reasons import Reason
from proxy.ssh.sites.permit import Permit

_EVERYBODY: Final = (Rule.parse(ANY),)


def recheck(
    clusters: Iterable[ServedCluster],
    routes: Iterable[Routed],
    sites: Mapping[str, ServedSite],
    leaving: Iterable[Connections],
) -> None:
    """End these connections. Connections of `leaving` have no `allow` list: a reload removed their
    destination.
    """

    def permit(way: str) -> Permit | None:
        return sites[way].site.permit if way in sites else None

    for cluster in clusters:
        config = cluster.cluster.config
        _recheck(cluster.connections, config.allow, permit(config.gateway))
    for route in routes:
        _recheck(route.connections, route.config.allow, permit(route.config.gateway))
    for site in sites.values():
        _recheck(site.connections, None, site.site.permit)
    for connections in leaving:
        _recheck(connections, _EVERYBODY, None)


def _recheck(connections: Connections, allow: Allow | None, permit: Permit | None) -> None:
    def why(arrival: Arrival) -> Reason | None:
        if not arrival.is_still_allowed(allow):
            return Reason.DENIED
        if permit is not None and arrival.target is not None and arrival.target not in permit:
            return Reason.CHANNEL_PROHIBITED
        return None

    connections.end_where(why)
