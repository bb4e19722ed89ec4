"""One site with its links, and the connections of clients that have asked for `NAME.SITE`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import structlog

from proxy.config.model import SiteConfig
from proxy.daemon.connections import Connections, Shared
from proxy.entries.arrival import Arrival
from proxy.errors.reasons import Reason
from proxy.metrics.records import SiteRecord
from proxy.relay.failover import Failover
from proxy.relay.interfaces import Channel
from proxy.runtime.endpoint import Endpoint
from proxy.snapshots import SiteSnapshot
from proxy.ssh.sites.site import Site

log = structlog.get_logger("kubemux.daemon")


class ServedSite:
    """A destination that needs no route: the site's `permit` lists the targets that clients may ask for."""

    def __init__(self, site: Site, record: SiteRecord, shared: Shared) -> None:
        self.site = site
        self.is_drained = False
        self.connections = Connections("site", site.name, record, shared)
        self._record = record
        self._shared = shared

    def __repr__(self) -> str:
        return f"<ServedSite {self.site}>"

    def accept(self, arrival: Arrival, target: Endpoint) -> None:
        """Serve a client, or refuse it."""
        if self.is_drained:
            self.connections.refuse(arrival, Reason.DRAINED, f"site {self.site.name} is drained")
            return
        self.connections.accept(arrival, partial(self._open, target), limit=None, allow=None)

    async def _open(self, target: Endpoint, arrival: Arrival, hold_until: float) -> tuple[Channel, Endpoint]:
        one = Failover((target,), self._shared.budget, self._shared.waiting)
        return await one.open_channel(
            self.site,
            origin=arrival.caller.origin,
            hold_until=hold_until,
            answer_by=hold_until + self.site.connect_timeout,
        )

    def beat(self) -> None:
        """Sample the links, and end the connections of clients that are gone. The heartbeat calls this about
        twice a second.
        """
        self.site.sample()
        self.note()
        self.connections.drop_reset_clients()

    def note(self) -> None:
        """Update the metrics after a link came up or ended."""
        self._record.is_connected = self.site.is_connected

    def reconfigure(self, config: SiteConfig) -> None:
        """Use other settings, also if it was drained. Links and connections stay."""
        self.is_drained = False
        self.site.reconfigure(config)

    async def drain(self, timeout: float) -> int:  # noqa: ASYNC109 - a budget, not a failure
        """Take no more clients, and wait up to `timeout` seconds for open connections to end. The links of
        the site stay up.

        Returns how many connections it cut.
        """
        self.is_drained = True
        log.info("draining", site=self.site.name, connections=self.connections.active)
        cut = await self.connections.leave(timeout, waiting=True)  # a reload may let clients in meanwhile
        log.info("drained", site=self.site.name, cut=cut)
        return cut

    def snapshot(self) -> SiteSnapshot:
        """For the status."""
        return replace(
            self.site.snapshot(),
            connections=self.connections.active,
            connections_total=self.connections.connections_total,
            bytes_to_site=self._record.to_cluster,
            bytes_from_site=self._record.from_cluster,
            drained=self.is_drained,
        )

    async def retire(self, timeout: float) -> None:  # noqa: ASYNC109 - a budget, not a failure
        """Wait up to `timeout` seconds until the connections have ended, then close every link."""
        await self.connections.drain(timeout)
        await self.site.drain(timeout)
