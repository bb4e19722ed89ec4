"""Warnings of keys of sites and users with which nobody can log in: they are revoked, or have expired.

The functions read the files as they are now, and block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from proxy.config import authorized
from proxy.config.expiry import date
from proxy.config.files import Unusable
from proxy.config.findings import dotted
from proxy.config.model import Config, SiteConfig, UserConfig
from proxy.config.references import sections


def warnings(config: Config, now: float) -> Iterator[tuple[str, str]]:
    """A warning and a remedy for each line of a site or user whose key or CA is in `revoked_keys`, or whose
    `expiry-time` is over. `now` is Unix time.
    """
    revoked = _revoked(config)
    for loc, section in sections(config).items():
        if not isinstance(section, SiteConfig | UserConfig):
            continue
        lines = authorized.read(loc, section)
        found = [("key", *one) for one in lines.keys]
        found += [("CA", blob, grant) for blob, _, grant in lines.authorities]
        for kind, blob, grant in dict.fromkeys(found):
            line = f"{dotted(loc)}: {grant.path}:{grant.line} lets nobody in"
            if path := revoked.get(blob):
                yield (
                    f"{line}: {path} has this {kind}",
                    f"take the line out; it was revoked on purpose, so its owner needs another {kind}",
                )
            elif (end := grant.options.expires) is not None and end <= now:
                yield (
                    f"{line}: its expiry-time was {date(end)}",
                    "take the line out, or give it a later expiry-time",
                )


def _revoked(config: Config) -> dict[bytes, Path]:
    """The file that has each revoked key."""
    server, found = config.ssh_server, dict[bytes, Path]()
    for path in () if server is None else server.revoked_keys:
        with suppress(Unusable):  # `credentials` reports it
            found |= dict.fromkeys(authorized.read_revoked([path]), path)
    return found
