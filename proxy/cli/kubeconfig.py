"""`kubemux kubeconfig export` and `import`. They report what they did on standard error."""

from __future__ import annotations

import os
from pathlib import Path

import click

from proxy.cli import Group, note, write_document
from proxy.cli.options import File, config_option
from proxy.config import loader
from proxy.config.scrutiny import Scrutiny
from proxy.config.unknown import no_cluster
from proxy.errors import ConfigError, Problem, UnknownNames
from proxy.kubeconfig import entries, exporter, file, importer, store
from proxy.kubeconfig.targets import SCHEMES, proxy_url, targets


@click.group(cls=Group)
def kubeconfig() -> None:
    """Export a kubeconfig, or import clusters from one."""


@kubeconfig.command()
@config_option
@click.option(
    "--cluster", "names", multiple=True, metavar="NAME", help="Only this cluster (repeatable). Default: all."
)
@click.option(
    "--base",
    type=File(),
    help="The kubeconfig with the users. Default: the files of $KUBECONFIG, else ~/.kube/config.",
)
@click.option(
    "--output",
    type=File(allow_dash=True),
    help="Merge into this file (mode 0600). Default, and with -: print a new kubeconfig.",
)
@click.option(
    "--proxy",
    "entry",
    metavar="ENTRY",
    help="Lead clients to this entry, where they ask for the cluster by name.",
)
@click.option(
    "--proxy-scheme",
    "scheme",
    type=click.Choice(SCHEMES),
    help="How clients ask the entry: http (CONNECT, the default) or socks5.",
)
def export(
    config: Path,
    names: tuple[str, ...],
    base: Path | None,
    output: Path | None,
    entry: str | None,
    scheme: str | None,
) -> None:
    """Write one context for each cluster, which leads through kubemux.

    The context has the cluster's name, and leads to the cluster's own address; with --proxy, to an entry.
    Clients verify the API server's own certificate. The user is that of the base kubeconfig's context of the
    same name.
    """
    if scheme and entry is None:
        raise click.UsageError("--proxy-scheme says how an entry is asked, and needs --proxy ENTRY.")
    loaded = loader.load(config, Scrutiny.CA)
    clusters = loaded.clusters
    if not clusters:
        problem = Problem(
            0, "clusters", "there is no cluster to export", "kubemux kubeconfig import adds them"
        )
        raise ConfigError(str(config), [problem])
    unknown = [no_cluster(loaded, name, "--cluster") for name in names if name not in clusters]
    if unknown:
        raise UnknownNames(str(config), [Problem(0, "clusters", str(each), each.hint) for each in unknown])
    url = proxy_url(loaded, entry, scheme or SCHEMES[0]) if entry is not None else ""
    chosen = targets(loaded, names or clusters, str(config), proxy_url=url)
    users = entries.load([base] if base else entries.default_files(os.environ))
    if output is not None and output != Path("-"):
        notes = store.export(output, chosen, users)
    else:
        data, report = exporter.new(chosen, users)
        notes = report.notes
        write_document(data)
    if entry is not None and loaded.entries[entry].users_file:
        login = url.replace("://", "://USER:PASSWORD@")
        notes.append(
            f"entry {entry} asks for a password: write each proxy-url as {login}; the next export keeps it"
        )
    _print_notes(notes)


@kubeconfig.command("import")
@config_option
@click.option(
    "--kubeconfig",
    "source",
    type=File(),
    help="The kubeconfig. Default: the files of $KUBECONFIG, else ~/.kube/config.",
)
@click.option(
    "--context",
    "names",
    multiple=True,
    metavar="NAME",
    help="A context, exactly as it is named there (repeatable).",
)
@click.option("--gateway", required=True, help="The gateway or site to reach them through, or `direct`.")
@click.option(
    "--output",
    type=File(allow_dash=True),
    help="Write here instead; - prints and stores nothing.",
)
@click.option(
    "--port-base",
    type=click.IntRange(1, 65535),
    default=16443,
    show_default=True,
    help="The lowest port to give out.",
)
def import_(
    config: Path,
    source: Path | None,
    names: tuple[str, ...],
    gateway: str,
    output: Path | None,
    port_base: int,
) -> None:
    """Add contexts of a kubeconfig as clusters.

    Each gets a port of its own, which does not change later. If the kubeconfig has no context `in-cluster`,
    that name stands for the cluster in whose pod this command runs.
    """
    paths = [source] if source else entries.default_files(os.environ)
    chosen = importer.select(
        entries.load(paths),
        names,
        gateway=gateway,
        origin=os.pathsep.join(map(str, paths)) or "kubeconfig",
        in_cluster=importer.in_cluster(os.environ),
        backups=[copy for path in paths for copy in file.backups(path)],
    )
    _print_notes([line for cluster in chosen for line in cluster.notes])
    if output == Path("-"):
        data, notes = store.preview(config, chosen, port_base=port_base)
        _print_notes(notes)
        write_document(data)
    else:
        _print_notes(store.import_(config, output or config, chosen, port_base=port_base))


def _print_notes(notes: list[str]) -> None:
    for line in notes:
        note(line)
