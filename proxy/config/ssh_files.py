"""Checks that no key belongs to two sites or users. It reads their files, which blocks."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.config import authorized, key_table
from proxy.config.findings import Finding
from proxy.config.model import Config


def shared(config: Config) -> Iterator[Finding]:
    """A finding for each key, or principal of a CA, that two identities have."""
    read = [authorized.read(("sites", name), site) for name, site in config.sites.items()]
    read += [authorized.read(("users", name), user) for name, user in config.users.items()]
    _, twice = key_table.table(read)
    for first, second in twice:
        loc = ("sites" if second.who.kind == "site" else "users", second.who.name)
        message = f"{second.path}:{second.line} has the same key as {first}: a key is one identity"
        yield Finding(loc, message, "give each a key of its own, or each CA's certificates other principals")
