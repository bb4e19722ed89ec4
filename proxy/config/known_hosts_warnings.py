"""The warnings of `kubemux check` about the known_hosts files of gateways."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from proxy.config.files import MAX_KNOWN_HOSTS_BYTES, Unusable, read_bytes
from proxy.config.model import Config, GatewayConfig
from proxy.openssh.known_hosts import REVOKED, find, is_line, names

_PORT = 22


def scan(gateway: GatewayConfig) -> str:
    """The command that prints known_hosts lines for `gateway`."""
    return f"ssh-keyscan -p {gateway.port or _PORT} {_named(gateway)}"


def _named(gateway: GatewayConfig) -> str:
    """Its host, quoted for a shell; for a pattern `HOST`, which the user must replace."""
    return "HOST" if gateway.is_pattern else shlex.quote(gateway.host)


def missing(gateway: GatewayConfig, path: Path) -> str:
    """The remedy if the known_hosts file of `gateway` does not exist."""
    return (
        f"{scan(gateway)} > {shlex.quote(str(path))} makes one; compare its fingerprints with a trusted "
        "source: "
        f"ssh-keygen -lf {shlex.quote(str(path))}"
    )


def warnings(config: Config) -> Iterator[tuple[str, str]]:
    """Each warning with its remedy. A file that cannot be read causes none here: `credentials` reports it."""
    yield from _unreadable(config)
    yield from _unlisted(config)


def _unreadable(config: Config) -> Iterator[tuple[str, str]]:
    """Warnings of lines that are not known_hosts lines. ssh(1) skips them, and so does the daemon."""
    for path in dict.fromkeys(path for gateway in config.gateways.values() for path in gateway.known_hosts):
        bad = [number for number, line in enumerate(_contents(path).split(b"\n"), 1) if not is_line(line)]
        if bad:
            more = f" (lines like it: {len(bad)})" if bad[1:] else ""
            hint = (
                "a line reads: HOST[,HOST...] KEYTYPE BASE64; remove it, or take it anew: ssh-keyscan "
                "-p PORT HOST"
            )
            yield f"{path}:{bad[0]} is not a known_hosts line, and is skipped{more}", hint


def _unlisted(config: Config) -> Iterator[tuple[str, str]]:
    """Warnings of gateways without a line in their known_hosts. A dial to one fails with `host_key_unknown`.

    Gateways with an `ssh_config` are left out, because HostKeyAlias there may give the host another name.
    """
    for name, gateway in config.gateways.items():
        if gateway.ssh_config is None and not gateway.is_pattern and not _is_listed(gateway):
            port = gateway.port or _PORT
            files = ", ".join(map(str, gateway.known_hosts))
            yield (
                f"gateways.{name}.known_hosts: no line for {gateway.host} port {port} in {files}",
                f"{scan(gateway)} prints some; compare the fingerprint before you add one",
            )


def _is_listed(gateway: GatewayConfig) -> bool:
    """Whether known_hosts has a line that a dial would use (`proxy.ssh.login.trust`)."""
    return any(
        entry.marker != REVOKED
        for path in gateway.known_hosts
        for name in names(gateway.host, gateway.port or _PORT)
        for entry in find(_contents(path), name).entries
    )


def _contents(path: Path) -> bytes:
    try:
        return read_bytes(path, limit=MAX_KNOWN_HOSTS_BYTES)[0]
    except Unusable:
        return b""
