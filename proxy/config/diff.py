"""What a reload has to do: the difference between two configurations. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from proxy.config.credentials import references
from proxy.config.model import ClusterConfig, Config, GatewayConfig


@dataclass(frozen=True, slots=True)
class Change:
    """Names by what happens to them, each tuple in the order of its configuration (`removed`: of the old one)."""

    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """From one configuration to the next. A cluster that is kept may be behind a gateway that changed."""

    gateways: Change
    clusters: Change
    limits: bool
    """Whether `limits:` differs; likewise `admin` and `log`."""
    admin: bool
    log: bool

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        parts = (self.gateways, self.clusters)
        return not (self.limits or self.admin or self.log or any(part.removed or part.changed or part.added for part in parts))


def changed(old: Mapping[Path, bytes], new: Mapping[Path, bytes]) -> frozenset[Path]:
    """The files whose contents differ between two fingerprints (`proxy.config.credentials.fingerprint`)."""
    return frozenset(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))


def plan(old: Config, new: Config, changed_files: frozenset[Path] = frozenset()) -> Plan:
    """What leads from `old` to `new`, given the files that changed in between.

    A gateway changes with its own settings, with a file that it names, and with any gateway that it jumps through.
    """
    dirty = _unlike(old.gateways, new.gateways, changed_files)
    spread = {name for name in new.gateways if _hops(new, name) & dirty}
    return Plan(
        gateways=_change(old.gateways, new.gateways, dirty | spread),
        clusters=_change(old.clusters, new.clusters, _unlike(old.clusters, new.clusters, changed_files)),
        limits=old.limits != new.limits,
        admin=old.admin != new.admin,
        log=old.log != new.log,
    )


_Sections = Mapping[str, GatewayConfig] | Mapping[str, ClusterConfig]


def _unlike(old: _Sections, new: _Sections, changed_files: frozenset[Path]) -> set[str]:
    def is_like(name: str) -> bool:
        return old.get(name) == new[name] and not any(ref.path in changed_files for ref in references(new[name]))

    return {name for name in new if not is_like(name)}


def _hops(config: Config, name: str) -> set[str]:
    """Every gateway on the way to `name`, through the jumps of its jumps too."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for hop in config.gateways[waiting.pop()].jump:
            if hop not in found:
                found.add(hop)
                waiting.append(hop)
    return found


def _change(old: Iterable[str], new: Iterable[str], dirty: set[str]) -> Change:
    before, after = list(old), list(new)
    return Change(
        removed=tuple(name for name in before if name not in after),
        changed=tuple(name for name in after if name in before and name in dirty),
        added=tuple(name for name in after if name not in before),
        kept=tuple(name for name in after if name in before and name not in dirty),
    )
