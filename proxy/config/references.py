"""Lists the files that the sections of a configuration name. Pure: it opens no file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from proxy.config import keys
from proxy.config.findings import Loc
from proxy.config.keys import Kind
from proxy.config.model import (
    ClusterConfig,
    Config,
    EntryConfig,
    GatewayConfig,
    SiteConfig,
    SshServerConfig,
    UserConfig,
)

Section = GatewayConfig | ClusterConfig | EntryConfig | SshServerConfig | SiteConfig | UserConfig
SSH_SERVER: Final = ("ssh_server",)
"""The place of `ssh_server`, a section without a name."""


class Reference(NamedTuple):
    """One file that a section names; `loc` is the key inside that section."""

    loc: Loc
    path: Path
    kind: Kind


def references(section: keys.Section) -> Iterator[Reference]:
    """The files that one section names."""
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
    """All sections that may name files, by their place in the file."""
    named: dict[str, Mapping[str, Section]] = {
        "gateways": config.gateways,
        "clusters": config.clusters,
        "entries": config.entries,
        "sites": config.sites,
        "users": config.users,
    }
    found: dict[Loc, Section] = {
        (kind, name): section for kind, those in named.items() for name, section in those.items()
    }
    return found if config.ssh_server is None else {**found, SSH_SERVER: config.ssh_server}


def files(config: Config) -> tuple[Path, ...]:
    """The `paths` of all sections, each once, in the order of the file."""
    return tuple(dict.fromkeys(path for section in sections(config).values() for path in paths(section)))
