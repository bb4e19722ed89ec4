"""Which proxy entry of the configuration a command means."""

from __future__ import annotations

from pathlib import Path

from proxy.config.model import Config
from proxy.connect.asking import UNIX
from proxy.errors import ConfigError, Problem, UnknownNames
from proxy.runtime.text import suggest


def choose(config: Config, path: Path, name: str | None = None) -> tuple[str, str]:
    """The name of an entry, and where it listens: that called `name`, else the first on a unix socket, else
    the first.

    Raises ConfigError, which names the file `path`.
    """
    listens = {each: str(entry.listen) for each, entry in config.entries.items()}
    if not listens:
        hint = 'add entries: {proxy: {listen: "127.0.0.1:3128"}}'
        raise ConfigError(str(path), [Problem(0, "entries", "there is no entry to connect to", hint)])
    if name is None:
        name = next(
            (each for each, listen in listens.items() if listen.startswith(UNIX)), next(iter(listens))
        )
    if name not in listens:
        raise UnknownNames(
            str(path), [Problem(0, "entries", f"no entry is called {name!r}", suggest(name, listens))]
        )
    return name, listens[name]
