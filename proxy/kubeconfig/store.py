"""Where export and import meet the disk: read, merge, check, replace.

Both are all or nothing, and write nothing at all if nothing has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from proxy.config import loader, yaml
from proxy.config.credentials import Scrutiny
from proxy.kubeconfig import exporter, file, reading
from proxy.kubeconfig.entries import Kubeconfig
from proxy.kubeconfig.exporter import Target
from proxy.kubeconfig.importer import Imported
from proxy.kubeconfig.merge import Merged, merge

_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def export(output: Path, clusters: Iterable[Target], base: Kubeconfig) -> list[str]:
    """Merge the contexts of `clusters` into the kubeconfig `output`, or make it; mode 0600. Returns lines that say what was done.

    Raises ConfigError, WriteFailed.
    """
    with file.locked(output):
        document = reading.read(output, whole=True) if output.exists() else None
        if document is None or document.root is None:
            data, report = exporter.new(clusters, base)
            if document:  # nothing but comments, which ruamel has no place for
                data = b"".join(line + b"\n" for line in output.read_bytes().splitlines() if line.startswith(b"#")) + data
        else:
            report = exporter.export(document, base, clusters)
            data = yaml.dump(document.root)
        if report.redirected:
            copy = file.backup(output)
            names = ", ".join(report.redirected)
            report.notes.append(f"{output}: led elsewhere before, now through kubemux: {names}; the file as it was: {copy}")
        if report.changed:
            file.replace(output, data, mode=0o600)
    return [*report.notes, f"{output}: {'written' if report.changed else 'up to date'}"]


def preview(config: Path, clusters: Iterable[Imported], *, port_base: int) -> tuple[bytes, list[str]]:
    """The configuration with `clusters` added, and what to say of them; nothing is written, no CA stored. Raises ConfigError."""
    data, merged = _merged(config, config.parent, clusters, port_base)
    return data, merged.notes


def import_(config: Path, output: Path, clusters: Sequence[Imported], *, port_base: int) -> list[str]:
    """Write the configuration with `clusters` added to `output`, and their CAs into `ca/` beside it. Returns what was done.

    The result must load before it replaces anything. Raises ConfigError, WriteFailed.
    """
    with file.locked(output):
        data, merged = _merged(config, output.parent, clusters, port_base)
        added = [path for path in merged.files if not path.exists()]
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
        *merged.notes,
        *(f"{name}: https://{loaded.clusters[name].listen}, {change}" for name, change in merged.changes.items()),
        *(f"{path}: written" for path in added),
        f"{output}: {'written; kubemux reload (or SIGHUP) makes a running daemon take it up' if changed else 'up to date'}",
    ]


def _merged(config: Path, folder: Path, clusters: Iterable[Imported], port_base: int) -> tuple[bytes, Merged]:
    loaded = loader.load(config, Scrutiny.CA)
    data = config.read_bytes()
    document = yaml.parse(data, str(config))
    before = yaml.dump(document.root)
    ports = range(port_base, _ephemeral_start())
    merged = merge(document, loaded, clusters, ca_folder=folder.absolute() / "ca", ports=ports)
    after = yaml.dump(document.root)
    return (data if after == before else after), merged  # not even its spaces change for nothing


def _ephemeral_start() -> int:
    """Where the kernel begins to hand out ports by itself (ip_local_port_range): a listener above may find its port taken."""
    try:
        return int(_PORT_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 32768
