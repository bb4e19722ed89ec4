"""Where the running daemon is: at the addresses of a configuration file, or, where that does not tell, at
those that most daemons have.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from proxy.admin import client
from proxy.admin.asking import Where, shown
from proxy.admin.unix_listener import OF_SERVICE
from proxy.config.model import AdminConfig
from proxy.config.values import has_home
from proxy.errors import AdminError, ConfigError, Problem
from proxy.runtime.endpoint import Endpoint


def usual() -> list[Where]:
    """The sockets that the docs and hints propose, and the default of `admin.listen`."""
    sockets = [
        Path(OF_SERVICE),
        _own_folder("XDG_RUNTIME_DIR") / "admin.sock",
        _own_folder("XDG_STATE_HOME", "~/.local/state") / "admin.sock",
        _own_folder("XDG_CONFIG_HOME", "~/.config") / "admin.sock",
    ]
    return [*(path for path in sockets if path.is_absolute()), AdminConfig().listen]


def _own_folder(variable: str, fallback: str = "") -> Path:
    """A user's folder for kubemux, by the XDG Base Directory Specification; relative if there is none."""
    named = Path(os.environ.get(variable, ""))
    if not named.is_absolute() and has_home():
        named = Path(fallback).expanduser()
    return named / "kubemux"


def find(
    files: Sequence[Path], *, orders: bool = False, places: Sequence[Where] | None = None
) -> tuple[AdminConfig, Path]:
    """The `admin:` section of the configuration, and the file that the daemon must run with.

    `files` are those that a user may mean, the first of them the one to read. Mistakes elsewhere in it stop
    nobody. One that is gone, no YAML mapping, or wrong in that section, does not tell where the daemon is,
    and that is when one asks: then a daemon counts that answers at one of the usual `places` and runs with
    one of `files`. With `orders` it must be there on a socket, and a file without `admin.socket`, be it cut
    off, is no reason not to look there. Raises ConfigError, which says where one has looked.
    """
    looked = [where for where in places or usual() if not orders or isinstance(where, Path)]
    try:
        admin = client.written(files[0])
    except ConfigError as error:
        found, failures = asyncio.run(_ask_all(files, looked))
        if found is None:
            error.problems += _worth_telling(looked, failures)
            raise
        return found
    if orders and not admin.socket:
        found, _ = asyncio.run(_ask_all(files, looked))
        return found or (admin, files[0])
    return admin, files[0]


async def _ask_all(
    files: Sequence[Path], places: Sequence[Where]
) -> tuple[tuple[AdminConfig, Path] | None, list[AdminError]]:
    """The first place where a daemon runs with one of `files`; why the others are none."""
    asked = [_running_with(files, where) for where in places]
    answers = dict(zip(places, await asyncio.gather(*asked), strict=True))
    for where, answer in answers.items():
        if isinstance(answer, Path):
            there = AdminConfig(listen=where) if isinstance(where, Endpoint) else AdminConfig(socket=where)
            return (there, answer), []
    return None, [answer for answer in answers.values() if isinstance(answer, AdminError)]


async def _running_with(files: Sequence[Path], where: Where) -> Path | AdminError:
    failure = None
    for path in files:
        try:
            await client.status_at(where, path)
        except (AdminError, ConfigError) as error:
            failure = failure or error
        else:
            return path
    return failure if isinstance(failure, AdminError) else AdminError(f"{shown(where)}: {failure}")


def _worth_telling(places: Sequence[Where], failures: Sequence[AdminError]) -> Iterator[Problem]:
    """What is worth knowing of places where no daemon runs with the file."""
    telling = [
        error
        for error in failures
        if isinstance(error, client.AnotherDaemon) or isinstance(error.__cause__, PermissionError)
    ]
    for error in telling:
        yield Problem(0, "", str(error), error.hint)
    if not telling:
        yield Problem(
            0,
            "",
            f"and no kubemux answers at {', '.join(map(shown, places))}",
            "does one run that has another address? Its log names its socket (`taking orders`): a file with "
            "`admin: {socket: PATH}` in this place finds it, kill -TERM PID stops it",
        )
