"""Lists the files that the gateways, clusters and entries of a configuration name. Pure: it opens no file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from proxy.config import keys
from proxy.config.findings import Loc
from proxy.config.keys import Kind
from proxy.config.model import ClusterConfig, Config, EntryConfig, GatewayConfig

Section = GatewayConfig | ClusterConfig | EntryConfig


class Reference(NamedTuple):
    """One file that a section names; `loc` is the key inside that section."""

    loc: Loc
    path: Path
    kind: Kind


def references(section: keys.Section) -> Iterator[Reference]:
    """The files that one gateway, cluster or entry names."""
    for name, key in keys.keys(type(section)).items():
        value = getattr(section, name)
        if isinstance(value, keys.Section):
            yield from (Reference((name, *loc), path, kind) for loc, path, kind in references(value))
        elif key.file is not None and isinstance(value, tuple):
            yield from (Reference((name, index), path, key.file) for index, path in enumerate(value))
        elif key.file is not None and value is not None:
            yield Reference((name,), value, key.file)


def paths(section: keys.Section) -> Iterator[Path]:
    """The files that a section uses: those it names, and the certificates beside its keys.

    `KEY-cert.pub` is used without being named, as by ssh(1). Files that an ssh_config names are not included.
    """
    for reference in references(section):
        yield reference.path
        if reference.kind is Kind.PRIVATE_KEY:
            yield Path(f"{reference.path}-cert.pub")


def sections(config: Config) -> dict[Loc, Section]:
    """All gateways, clusters and entries, by their place in the file."""
    gateways: dict[Loc, Section] = {("gateways", name): gateway for name, gateway in config.gateways.items()}
    clusters = {("clusters", name): cluster for name, cluster in config.clusters.items()}
    return gateways | clusters | {("entries", name): entry for name, entry in config.entries.items()}


def files(config: Config) -> tuple[Path, ...]:
    """The `paths` of all sections, each once, in the order of the file."""
    return tuple(dict.fromkeys(path for section in sections(config).values() for path in paths(section)))
