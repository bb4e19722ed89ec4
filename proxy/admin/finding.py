"""Finds the running daemon: at the addresses of a configuration file, or else at the usual addresses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from proxy.admin import client
from proxy.admin.asking import Where, shown
from proxy.admin.usual import OF_SERVICE
from proxy.config.file_paths import has_home
from proxy.config.model import AdminConfig
from proxy.errors import AdminError, ConfigError, Problem
from proxy.runtime.endpoint import Endpoint


def usual_places() -> list[Where]:
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

    `files` are the files that the user may mean; the first one is read. Mistakes in its other sections do not
    matter. If the file is missing, not a YAML mapping, or wrong in `admin:`, the daemon is searched at the
    usual `places`. It is found if it answers there and runs with one of `files`. With `orders`, only unix
    sockets are searched, also if the file has no `admin.socket`: it may have been cut off. Raises
    ConfigError, which says where the daemon was searched.
    """
    looked = [where for where in places or usual_places() if not orders or isinstance(where, Path)]
    try:
        admin = client.admin_section(files[0])
    except ConfigError as error:
        found, failures = asyncio.run(_ask_all(files, looked))
        if found is None:
            error.problems += _useful_failures(looked, failures)
            raise
        return found
    if orders and not admin.socket:
        found, _ = asyncio.run(_ask_all(files, looked))
        return found or (admin, files[0])
    return admin, files[0]


async def _ask_all(
    files: Sequence[Path], places: Sequence[Where]
) -> tuple[tuple[AdminConfig, Path] | None, list[AdminError]]:
    """The first place where a daemon runs with one of `files`. If there is none, why not, for each place."""
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


def _useful_failures(places: Sequence[Where], failures: Sequence[AdminError]) -> Iterator[Problem]:
    """The failures that help the user: another daemon answers, or this user may not use the socket."""
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
