"""Chooses the proxy entry of the configuration that a command uses."""

from __future__ import annotations

from pathlib import Path

from proxy.config.model import Config, EntryConfig
from proxy.errors import ConfigError, Problem, UnknownNames
from proxy.runtime.endpoint import Local, UnixPath
from proxy.runtime.text import suggest


def choose(config: Config, path: Path, name: str | None = None) -> tuple[str, Local]:
    """The name and address of an entry that `kubemux connect` can use: the entry `name`. Without a name: the
    first entry on a unix socket, otherwise the first entry.

    Raises ConfigError, which names the file `path`.
    """
    if name is not None and name not in config.entries:
        problem = Problem(0, "entries", f"no entry is called {name!r}", suggest(name, config.entries))
        raise UnknownNames(str(path), [problem])
    if name is not None and (why := _unusable(config.entries[name])):
        hint = "name an entry that has neither `tls` nor `users_file`"
        raise ConfigError(str(path), [Problem(0, f"entries.{name}", why, hint)])
    usable = {each: entry for each, entry in config.entries.items() if not _unusable(entry)}
    if not usable:
        hint = 'add entries: {proxy: {listen: "127.0.0.1:3128"}}'
        raise ConfigError(str(path), [Problem(0, "entries", "there is no entry to connect to", hint)])
    if name is None:
        on_unix = [each for each, entry in usable.items() if isinstance(entry.listen, UnixPath)]
        name = next(iter([*on_unix, *usable]))
    return name, usable[name].listen


def _unusable(entry: EntryConfig) -> str:
    """Why `kubemux connect` cannot use this entry; empty if it can."""
    if entry.tls.cert_file is not None:
        return "speaks TLS, which kubemux connect does not"
    return "asks for a password, which kubemux connect does not send" if entry.users_file else ""
