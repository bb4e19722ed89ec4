"""Reads, merges, checks and replaces the files of export and import.

If a step fails, nothing is changed. If there is nothing to change, no file is written.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from proxy.config import loader, yaml
from proxy.config.files import MAX_CREDENTIAL_BYTES, Unusable, read_bytes
from proxy.config.model import ClusterConfig
from proxy.config.scrutiny import Scrutiny
from proxy.errors import ConfigError, Problem
from proxy.kubeconfig import exporter, file, reading
from proxy.kubeconfig.entries import Kubeconfig
from proxy.kubeconfig.importer import Imported
from proxy.kubeconfig.merge import Merged, merge
from proxy.kubeconfig.targets import Target, certificates
from proxy.runtime.endpoint import Endpoint

WRITTEN: Final = "written; kubemux reload (or SIGHUP) makes a running daemon use it"

# ProtectHome= and PrivateTmp= of the shipped unit.
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - they are looked at, not written to
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def export(output: Path, clusters: Iterable[Target], base: Kubeconfig) -> list[str]:
    """Merge the contexts of `clusters` into the kubeconfig `output`, or create it, with mode 0600.

    Returns lines that say what was done. Raises ConfigError, WriteFailed.
    """
    with file.locked(output) as made:
        document = reading.read(output, whole=True) if output.exists() else None
        if document is None or document.root is None:
            data, report = exporter.new(clusters, base)
            if document:  # the file has only comments, which ruamel drops
                data = (
                    b"".join(
                        line + b"\n" for line in output.read_bytes().splitlines() if line.startswith(b"#")
                    )
                    + data
                )
        else:
            report = exporter.export(document, base, clusters)
            data = yaml.dump(document.root)
        if report.redirected:
            copy = file.backup(output)
            names = ", ".join(report.redirected)
            report.notes.append(
                f"{output}: led elsewhere before, now through kubemux: {names}; the file as it was: {copy}"
            )
        if report.changed:
            file.replace(output, data, mode=0o600)
    result = "written" if report.changed else "up to date"
    return [*_made(made), *report.notes, f"{output}: {result}"]


def preview(config: Path, clusters: Sequence[Imported], *, port_base: int) -> tuple[bytes, list[str]]:
    """The configuration with `clusters` added, and lines for the operator. No file is written.

    Raises ConfigError.
    """
    data, merged = _merged(config, config.parent, clusters, port_base)
    return data, merged.notes


def import_(config: Path, output: Path, clusters: Sequence[Imported], *, port_base: int) -> list[str]:
    """Write the configuration with `clusters` added to `output`, and their CAs into `ca/` beside it.

    The new configuration is loaded before it replaces the old one. Returns lines that say what was done.
    Raises ConfigError, WriteFailed.
    """
    yaml.read(config)  # raises if there is no such file, before a folder is made for the lock
    with file.locked(output) as made:
        data, merged = _merged(config, output.parent, clusters, port_base)
        added = [
            path for path, pem in merged.files.items() if not (path.is_file() and path.read_bytes() == pem)
        ]
        try:
            for path in added:
                file.replace(path, merged.files[path], mode=0o644)
            loaded = loader.parse(data, str(output), Scrutiny.CA)
            if changed := not output.exists() or output.read_bytes() != data:
                file.replace(output, data)
        except BaseException:
            for path in added:
                path.unlink(missing_ok=True)
            raise
    return [
        *_made(made),
        *merged.notes,
        *(f"{name}: {_asked(loaded.clusters[name])}, {change}" for name, change in merged.changes.items()),
        *(f"{path}: written" for path in added),
        f"{output}: {WRITTEN if changed else 'up to date'}",
    ]


def _asked(cluster: ClusterConfig) -> str:
    if isinstance(cluster.listen, Endpoint):
        return f"https://{cluster.listen}"
    return str(cluster.listen or "asked for by name")


def _made(folders: Iterable[Path]) -> list[str]:
    return [f"{folder}: folder made" for folder in folders]


def _merged(config: Path, folder: Path, clusters: Sequence[Imported], port_base: int) -> tuple[bytes, Merged]:
    loaded = loader.load(config, Scrutiny.CA)
    data = config.read_bytes()
    document = yaml.parse(data, str(config))
    before = yaml.dump(document.root)
    ports = filter(_is_free, range(port_base, _ephemeral_start()))
    visible = [_visible(cluster, config) for cluster in clusters]
    merged = merge(document, loaded, visible, ca_folder=folder.absolute() / "ca", ports=ports)
    for old, new in zip(clusters, visible, strict=True):
        if new is not old:
            merged.notes.append(
                f"{old.name}: its CA is copied, because the service cannot see the folder of {old.ca!s}"
            )
    after = yaml.dump(document.root)
    return (data if after == before else after), merged  # if nothing changed, its spaces do not change either


def _ephemeral_start() -> int:
    """The first port that the kernel chooses for outgoing connections (ip_local_port_range).

    From there on, an outgoing connection may have the port of a listener.
    """
    try:
        return int(_PORT_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 32768


def _is_free(port: int) -> bool:
    """Whether the port can be bound on 127.0.0.1."""
    with socket.socket() as probe:
        # As the daemon does, so that closed connections (TIME_WAIT) do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            return exc.errno != errno.EADDRINUSE  # EACCES: the daemon may be allowed to bind that port
    return True


def _visible(cluster: Imported, config: Path) -> Imported:
    """The cluster. If the shipped unit hides the file of its CA, the CA is given as bytes, to be stored."""
    # If the configuration is hidden, too, it belongs to a daemon without that unit, which sees both.
    if not isinstance(cluster.ca, Path) or not _is_hidden(cluster.ca) or _is_hidden(config):
        return cluster
    try:
        return replace(cluster, ca=certificates(read_bytes(cluster.ca, limit=MAX_CREDENTIAL_BYTES)[0]))
    except (Unusable, ValueError) as exc:
        message, hint = (
            f"its certificate-authority {cluster.ca} {exc}",
            "the service cannot see that folder: a copy is needed",
        )
        raise ConfigError(str(config), [Problem(0, f"clusters.{cluster.name}", message, hint)]) from exc


def _is_hidden(path: Path) -> bool:
    return any(Path(os.path.realpath(path)).is_relative_to(folder) for folder in _HIDDEN)
