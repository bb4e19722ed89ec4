"""`kubemux check`: the errors and warnings that the daemon would report of a configuration."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click
import uvloop

from proxy.cli import note, say
from proxy.cli.options import DEFAULT_CONFIG, config_option, file_argument
from proxy.config import credentials, expiry, key_warnings, known_hosts_warnings, loader, service_user
from proxy.config.model import Config
from proxy.errors import CredentialsUnusable
from proxy.ssh.login import nobody
from proxy.ssh.login.prepared import prepare


@click.command()
@file_argument
@config_option
def check(config: Path) -> None:
    """Check a configuration file and the files it names; report every problem with its line and remedy.

    A problem is an error if it keeps the daemon from starting, and a warning if it affects only one gateway.
    Run it as root or as the daemon's user, because other users may not be able to read the keys.
    """
    nobody.answer()
    loaded, doubts = loader.load_with_doubts(config)
    for doubt in doubts:
        note(f"WARNING: {doubt.at(config)}")
    found = [
        *_no_clusters(loaded),
        *credentials.warnings(loaded),
        *known_hosts_warnings.warnings(loaded),
        *expiry.ending_soon(loaded, time.time()),
        *key_warnings.warnings(loaded, time.time()),
        *(service_user.warnings(loaded) if config == DEFAULT_CONFIG else ()),
    ]
    if any(gateway.ssh_config for gateway in loaded.gateways.values()):
        found += uvloop.run(_ssh_configs(loaded))
    for warning, remedy in found:
        note(f"WARNING: {config}: {warning}\n  hint: {remedy}")
    say(f"{config}: ok, {_counted(loaded)}")


def _counted(config: Config) -> str:
    """`1 gateway, 2 clusters`, and the other sections that the file has."""
    kinds = [("gateway", "gateways", len(config.gateways)), ("cluster", "clusters", len(config.clusters))]
    others = [
        ("entry", "entries", len(config.entries)),
        ("route", "routes", len(config.routes)),
        ("site", "sites", len(config.sites)),
        ("user", "users", len(config.users)),
    ]
    kinds += [kind for kind in others if kind[2]]
    return ", ".join(f"{count} {one if count == 1 else many}" for one, many, count in kinds)


def _no_clusters(config: Config) -> Iterator[tuple[str, str]]:
    """A warning if there are no clusters: the file may have been cut off, and still be valid."""
    if not (config.clusters or config.routes or config.sites):
        yield (
            "clusters: there is none; a reload with this file removes every cluster",
            "is the file complete? config/example.yaml shows how clusters are written",
        )


async def _ssh_configs(config: Config) -> list[tuple[str, str]]:
    """A warning for each gateway whose ssh_config kubemux cannot use."""
    found = []
    for name, gateway in config.gateways.items():
        if gateway.ssh_config is not None:
            try:
                await prepare(gateway)
            except CredentialsUnusable as exc:
                found.append((f"gateways.{name}: {exc}", exc.hint))
    return found
