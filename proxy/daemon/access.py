"""Access control: identifies callers, and checks them against the `allow` lists of clusters, routes and
entries.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from proxy.config.allow import Rule
from proxy.config.model import Config
from proxy.entries.arrival import Caller
from proxy.entries.callers import hidden, uid_of
from proxy.entries.identities import Identities
from proxy.errors import ConfigError, Denied, Problem
from proxy.metrics import Metrics
from proxy.routing.allow import is_allowed
from proxy.runtime.endpoint import Endpoint

Allow = tuple[Rule, ...]


class Access:
    """Identifies callers, as far as some `allow` list needs that."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._identities = Identities()
        self._asks_for_uids = False

    def __repr__(self) -> str:
        return f"<Access {self._identities}>"

    def reconfigure(self, config: Config) -> None:
        """Use the lists of another configuration from now on."""
        self._asks_for_uids = any(_asks_for_uids(allow) for _, allow in _lists(config))

    def identified(self, sock: socket.socket, caller: Caller) -> Caller:
        """The caller with its uid, if the kernel knows it.

        Call it as soon as `sock` is accepted: the kernel no longer knows a client that has closed its socket.
        """
        if sock.family == socket.AF_UNIX or self._asks_for_uids:
            return caller._replace(uid=uid_of(sock))
        return caller

    async def require(self, allow: Allow, caller: Caller, *, entry: str, of: str = "") -> None:
        """Raise Denied if no rule of `allow` names the caller, which came in by `entry`.

        `of` says whose list it is, for the message, if that is not clear to the caller.
        """
        known = caller.proved | await self._identities.of(caller.uid)
        if not is_allowed(allow, known):
            self._metrics.denied(entry, Denied.reason)
            raise Denied(f"{_named(caller, allow)} is not in allow{of}")

    async def close(self) -> None:
        """Cancel the lookups of identities."""
        await self._identities.close()


def check(config: Config, path: Path) -> None:
    """Raise ConfigError if a list in the file `path` has uid or gid rules, and this system does not show who
    a client is: such rules would match no client.
    """
    places = [place for place, allow in _lists(config) if _asks_for_uids(allow)]
    if places and (found := hidden(tcp=_has_tcp(config))):
        message = f"uid and gid rules cannot be checked: {found.why}"
        raise ConfigError(str(path), [Problem(0, f"{one}.allow", message, found.remedy) for one in places])


def _named(caller: Caller, allow: Allow) -> str:
    """The caller as messages name it."""
    if caller.uid is not None:
        return caller.identity.replace(":", " ", 1)
    if not caller.proved and _asks_for_uids(allow):
        return f"{caller}, whose user is not known,"
    return caller.identity


def _lists(config: Config) -> Iterator[tuple[str, Allow]]:
    for name, cluster in config.clusters.items():
        if cluster.allow is not None:
            yield f"clusters.{name}", cluster.allow
    for index, route in enumerate(config.routes):
        if route.allow is not None:
            yield f"routes[{index}]", route.allow
    for name, entry in config.entries.items():
        if entry.allow is not None:
            yield f"entries.{name}", entry.allow


def _asks_for_uids(allow: Iterable[Rule]) -> bool:
    return any(rule.kind in {"uid", "gid"} for rule in allow)


def _has_tcp(config: Config) -> bool:
    addresses = [one.listen for one in config.entries.values()]
    addresses += [one.listen for one in config.clusters.values() if one.listen and one.allow]
    return any(isinstance(address, Endpoint) for address in addresses)
