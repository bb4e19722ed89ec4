"""Sends requests to the running daemon: through its unix socket if it has one, otherwise over TCP (read
only).

The `admin:` section of a configuration file says where the daemon listens. The answer is accepted only if the
daemon runs with that same file: the files of several daemons may have the same address, and only one of the
daemons can listen there.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from proxy.admin.asking import Unanswered, Where, ask, shown
from proxy.admin.usual import proposed
from proxy.config import loader, yaml
from proxy.config.model import AdminConfig
from proxy.config.reading import Mistakes, read
from proxy.errors import AdminError, ConfigError, UnknownName

ASK_TIMEOUT: Final = 5.0
"""How many seconds the daemon may take to answer a request for `/status`."""


class Unfinished(AdminError):
    """The time is up, and the daemon is still carrying out the order. It does not stop."""

    hint = "its log says how it ends: journalctl -u kubemux"

    def __init__(self, name: str, budget: float, document: object) -> None:
        super().__init__(f"{name}: not done after {budget:g} s; the daemon has the order and goes on")
        self.document = document
        """The document of `/status`, read when the time was up."""


class AnotherDaemon(AdminError):
    """The daemon that answers runs with another configuration file."""

    def __init__(self, where: Where, running: str, path: Path) -> None:
        super().__init__(
            f"{shown(where)}: the kubemux there runs with {running}, not with {path.absolute()}",
            hint=f"--config {shlex.quote(running)} asks that one; if another kubemux runs with your file, "
            "it could not bind this address, and its log says so",
        )


def admin_section(path: Path) -> AdminConfig:
    """The `admin:` section of a file. Mistakes elsewhere in the file do not matter. Raises ConfigError."""
    root = loader.keys(yaml.read(path))
    try:
        return read(AdminConfig, root.get("admin", {}))
    except Mistakes:
        return loader.load(path).admin  # reports all mistakes of the file


async def fetch_status(admin: AdminConfig, path: Path) -> object:
    """The parsed document of `/status` (see `proxy.admin.status`) of the daemon that runs with `path`.

    Raises AdminError.
    """
    failures: list[AdminError] = []
    for where in (admin.socket, admin.listen):
        if where is not None:
            try:
                return await status_at(where, path)
            except AdminError as error:  # a user who may not use the socket may still read over TCP
                failures.append(error)
    best = next((error for error in failures if isinstance(error, AnotherDaemon)), failures[0])
    raise AdminError("; ".join(map(str, failures)), hint=best.hint)


@contextmanager
def explaining_unknown_names(path: Path, names: Iterable[str], *sections: str) -> Iterator[None]:
    """Give an UnknownName that the block raises a better hint, if one of `names` is in the file.

    `sections` are the sections of the file where it would be. Then the file has changed since the daemon read
    it, and a reload helps.
    """
    try:
        yield
    except UnknownName as error:
        written = _in_file(path, sections)
        unknown = next(
            (name for name in names if name in written and str(error).endswith(f" {name!r}")), None
        )
        if unknown is None:
            raise
        hint = f"{path} has it, and has changed since the daemon read it: kubemux reload takes it up"
        raise UnknownName(str(error), hint=hint) from error


def _in_file(path: Path, sections: Iterable[str]) -> set[object]:
    try:
        root = loader.keys(yaml.read(path))
    except ConfigError:
        return set()
    found = {name for key in sections for name in _names(root.get(key))}
    return found | {f"ssh-user:{name}" for name in _names(root.get("users")) if "users" in sections}


def _names(section: object) -> Iterator[object]:
    """The names in a section of the file: `routes` is a list of mappings that have one each."""
    if isinstance(section, dict):
        yield from section
    elif isinstance(section, list):
        yield from (one["name"] for one in section if isinstance(one, dict) and "name" in one)


async def status_at(where: Where, path: Path) -> object:
    """`/status` of the daemon at `where`, parsed, if it runs with `path`. Raises AdminError."""
    document = await ask(where, "GET", "/status", budget=ASK_TIMEOUT)
    match document:
        case {"daemon": {"config_path": str() as running}} if not _same(running, path):
            raise AnotherDaemon(where, running, path)
    return document


def _same(running: str, path: Path) -> bool:
    """Whether both paths are the same file. A relative path, of a daemon before 0.2.0, counts as the same."""
    return not os.path.isabs(running) or os.path.realpath(running) == os.path.realpath(path)  # noqa: PTH117 - no Path is needed


async def command(
    admin: AdminConfig, path: Path, name: str, *, params: Mapping[str, str] | None = None, budget: float
) -> object:
    """POST `/-/NAME` to the daemon that runs with `path`, and return the parsed answer.

    Raises ConfigError if the daemon refused a new configuration, UnknownName, Unfinished if the daemon still
    works on it after `budget` seconds, and AdminError for everything else.
    """
    if not admin.socket:
        without = ", and kill -HUP PID reloads it" if name == "reload" else ""
        raise AdminError(
            f"{path} has no admin.socket; the running daemon may have one",
            hint=f"its log says where (`taking orders`){without}; if it has none, "
            f"add `admin: {{socket: {proposed()}}}` and restart it",
        )
    await status_at(admin.socket, path)
    try:
        return await ask(admin.socket, "POST", f"/-/{name}?{urlencode(params or {})}", budget=budget)
    except Unanswered as error:
        try:
            document = await status_at(admin.socket, path)
        except AdminError:
            raise error from None
        raise Unfinished(name, budget, document) from error
