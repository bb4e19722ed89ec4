"""Checks that each unix socket has its own path, and that `mode` and `group` are only used with one. Pure: it
opens no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from proxy.config.findings import Finding, Loc, dotted
from proxy.config.model import ClusterConfig, Config, EntryConfig
from proxy.runtime.endpoint import UnixPath


def listening(config: Config) -> Iterator[tuple[Loc, ClusterConfig | EntryConfig]]:
    """The clusters and entries that listen on a unix socket, with their places in the file."""
    yield from (one for one in _sections(config) if isinstance(one[1].listen, UnixPath))


def _sections(config: Config) -> Iterator[tuple[Loc, ClusterConfig | EntryConfig]]:
    yield from ((("clusters", name), cluster) for name, cluster in config.clusters.items())
    yield from ((("entries", name), entry) for name, entry in config.entries.items())


def check(config: Config) -> Iterator[Finding]:
    """What is wrong with the unix sockets of `config`."""
    owners: dict[Path, str] = {}
    if config.admin.socket is not None:
        owners[config.admin.socket] = "admin.socket"
    for loc, section in _sections(config):
        if not isinstance(section.listen, UnixPath):
            for key in ("mode", "group"):
                if getattr(section, key) is not None:
                    message = f"{key} is about the file of a unix socket, and `listen` is none"
                    hint = f'listen: "unix:/run/kubemux-entries/{loc[-1]}.sock", or remove {key}'
                    yield Finding((*loc, key), message, hint)
            continue
        here = (*loc, "listen")
        owner = owners.setdefault(Path(section.listen.path), dotted(here))
        if owner != dotted(here):
            hint = "give each a path of its own (in paths, case counts)"
            yield Finding(here, f"{section.listen} is already taken by {owner}", hint)
