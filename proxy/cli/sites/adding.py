"""Adds a site to the configuration: an item in `sites:`, and a file with its public key.

As with `kubemux kubeconfig import`, comments stay. The new configuration is checked before it replaces the
old one. If a step fails, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ruamel.yaml.comments import CommentedMap

from proxy.config import authorized, key_table, loader, yaml
from proxy.config.key_table import Grant, Who
from proxy.config.model import Config
from proxy.config.private_keys import Content, recognise
from proxy.config.scrutiny import Scrutiny
from proxy.errors import ConfigError, Problem
from proxy.kubeconfig import file
from proxy.kubeconfig.entries import append, fresh
from proxy.kubeconfig.store import WRITTEN
from proxy.openssh import authorized_keys, blobs
from proxy.openssh.authorized_keys import Key

_PUB: Final = "a public key is one line, as in the .pub file of ssh-keygen: ssh-ed25519 BASE64 [COMMENT]"


def public_key(data: bytes) -> Key:
    """The only public key in `data`. Raises ValueError, which names what `data` has instead."""
    if recognise(data) in {Content.KEY, Content.ENCRYPTED}:
        raise ValueError(
            "that is a private key, which never leaves the site: give the .pub file beside it; "
            "if others may have seen the private key, make another: ssh-keygen -t ed25519"
        )
    good, bad = authorized_keys.parse(data)
    if bad:
        raise ValueError(f"it cannot be used: line {bad[0].number} {bad[0].message}; {bad[0].hint}")
    if len(good) != 1:
        raise ValueError(f"there are {len(good)} keys, and one is expected: {_PUB}")
    if good[0].options.is_authority:
        raise ValueError("it is the key of a CA: write it into cert_authority of the site")
    return good[0]


def add(path: Path, name: str, line: bytes, permit: Sequence[str]) -> list[str]:
    """Add the site `name` with the public key in `line` to the configuration at `path`.

    Returns lines that report what was done. Raises ConfigError, WriteFailed, and ValueError for a bad key.
    """
    key = public_key(line)
    with file.locked(path):
        config = loader.load(path, Scrutiny.CA)
        where = _require_free(path, config, name, key)
        if name in config.sites:
            if where is None:
                raise _refused(
                    path,
                    name,
                    "the site is there already, with another key",
                    f"if it has both, add the line to {_file_of(config, name)}; else replace the old line",
                )
            return [f"{path}: up to date", *differing(config, name, permit)]
        own = path.absolute().parent / "sites" / f"{name}.pub"
        document = yaml.parse(path.read_bytes(), str(path))
        assert isinstance(document.root, CommentedMap)  # noqa: S101 - it has been loaded as a configuration
        values = {"authorized_keys": [str(own)], **({"permit": list(permit)} if permit else {})}
        item = CommentedMap({word: fresh(value, flow=True) for word, value in values.items()})
        append(document.root, "sites", item, key=name)
        changed = yaml.dump(document.root)
        loader.parse(changed, str(path), Scrutiny.CA)  # this refuses an invalid name of a site
        data = line.strip() + b"\n"
        is_there = own.exists()
        if is_there and own.read_bytes() != data:
            message = f"{own} is there already, with something else"
            raise _refused(path, name, message, "look at it, and remove it if nobody needs it")
        try:
            if not is_there:
                file.replace(own, data, mode=0o644)
            file.replace(path, changed)
        except BaseException:
            if not is_there:
                own.unlink(missing_ok=True)
            raise
    return [f"{own}: {key.kind} {blobs.fingerprint(key.blob)}", f"{path}: {WRITTEN}"]


def _require_free(path: Path, config: Config, name: str, key: Key) -> Grant | None:
    """The grant of the key if the site has it already. Raises ConfigError if another identity has it."""
    read = [authorized.read(("sites", one), site) for one, site in config.sites.items()]
    read += [authorized.read(("users", one), user) for one, user in config.users.items()]
    table, _ = key_table.table(read)
    grant = table.keys.get(key.blob)
    if grant is not None and grant.who != Who("site", name):
        message = f"{blobs.fingerprint(key.blob)} is the key of {grant} already, and a key is one identity"
        raise _refused(path, name, message, "make another at the site: ssh-keygen -t ed25519")
    return grant


def _file_of(config: Config, name: str) -> str:
    files = config.sites[name].authorized_keys
    return str(files[0]) if files else f"a file in sites.{name}.authorized_keys"


def differing(config: Config, name: str, permit: Sequence[str]) -> list[str]:
    """A line that says that the site's own `permit` stays, if `permit` differs from it."""
    has = [str(match) for match in config.sites[name].permit]
    if not permit or has == list(permit):
        return []
    return [f"sites.{name}.permit stays {', '.join(has) or 'empty'}: change it in the file"]


def _refused(path: Path, name: str, message: str, hint: str) -> ConfigError:
    return ConfigError(str(path), [Problem(0, f"sites.{name}", message, hint)])
