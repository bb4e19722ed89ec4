"""The listen addresses of a configuration, and the listeners that change their owner at a reload."""

from __future__ import annotations

from proxy.config.diff import Plan
from proxy.config.model import Config
from proxy.entries.keeping import KeptListener
from proxy.entries.listener import Listener
from proxy.runtime.endpoint import Local


def addresses(config: Config) -> list[Local]:
    """The listen addresses of the clusters, entries and SSH server, whether they are bound or not."""
    clusters, entries = config.clusters.values(), config.entries.values()
    return [
        *(one.listen for one in clusters if one.listen is not None),
        *(entry.listen for entry in entries),
        *([config.ssh_server.listen] if config.ssh_server is not None else ()),
    ]


class ReusableListeners(dict[Local, Listener]):
    """Bound listeners by address, for their next owners in the new configuration."""

    def __init__(self, config: Config, plan: Plan) -> None:
        super().__init__()
        clusters, entries = plan.clusters, plan.entries
        self._wanted = {
            *(config.clusters[name].listen for name in (*clusters.changed, *clusters.added)),
            *(config.entries[name].listen for name in (*entries.changed, *entries.added)),
            *([config.ssh_server.listen] if config.ssh_server is not None else ()),
        }

    def keep_or_release(self, kept: KeptListener | None) -> None:
        """Keep the listener of a removed owner if a new owner has the same address. Otherwise close it, which
        frees the address.
        """
        if kept is not None and kept.is_bound and kept.address in self._wanted:
            self[kept.address] = kept.detach()
        elif kept is not None:
            kept.release()
