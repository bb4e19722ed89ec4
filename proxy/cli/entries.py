"""Which proxy entry of the configuration a command means."""

from __future__ import annotations

from pathlib import Path

from proxy.config.model import Config
from proxy.errors import ConfigError, Problem, UnknownNames
from proxy.runtime.endpoint import Local, UnixPath
from proxy.runtime.text import suggest


def choose(config: Config, path: Path, name: str | None = None) -> tuple[str, Local]:
    """The name of an entry without TLS, and where it listens: that called `name`, else the first on a unix
    socket, else the first.

    Raises ConfigError, which names the file `path`.
    """
    entries = {each: entry for each, entry in config.entries.items() if entry.tls.cert_file is None}
    if name in config.entries and name not in entries:
        hint = "name one for clients on this machine, on loopback or a unix socket"
        problem = Problem(0, f"entries.{name}", "speaks TLS, which kubemux connect does not", hint)
        raise ConfigError(str(path), [problem])
    if not entries:
        hint = 'add entries: {proxy: {listen: "127.0.0.1:3128"}}'
        raise ConfigError(str(path), [Problem(0, "entries", "there is no entry to connect to", hint)])
    if name is None:
        on_unix = [each for each, entry in entries.items() if isinstance(entry.listen, UnixPath)]
        name = next(iter([*on_unix, *entries]))
    if name not in entries:
        problem = Problem(0, "entries", f"no entry is called {name!r}", suggest(name, entries))
        raise UnknownNames(str(path), [problem])
    return name, entries[name].listen
