"""Asking the running daemon: through its unix socket if there is one, else (to read only) over TCP."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import h11

from proxy.admin.http import ask
from proxy.config import loader, yaml
from proxy.config.model import AdminConfig
from proxy.config.typed import Mistakes
from proxy.config.values import Endpoint
from proxy.errors import AdminError, ConfigError, Problem, UnknownName

ASK_TIMEOUT: Final = 5.0
"""Seconds a running daemon may take to say how it is."""
USUAL: Final = AdminConfig(socket=Path("/run/kubemux/admin.sock"))
"""Where a daemon most likely is whose file no longer says so: README's socket, the default address."""


class _Unanswered(AdminError):
    """Time is up. Perhaps the daemon hangs."""


class Unfinished(AdminError):
    """An order that takes longer than one would wait: the daemon has it, answers others, and goes on with it."""

    hint = "its log says how it ends: journalctl -u kubemux"

    def __init__(self, name: str, budget: float, document: object) -> None:
        super().__init__(f"{name}: not done after {budget:g} s; the daemon has the order and goes on")
        self.document = document
        """Of `/status`, asked for when the time was up."""


def admin_section(path: Path, usual: AdminConfig = USUAL, *, orders: bool = False) -> AdminConfig:
    """The `admin:` section of a configuration file: mistakes elsewhere in it do not stop questions. Raises ConfigError.

    A file that is gone, no YAML mapping, or wrong in that section says nothing, and that is when one asks: then a daemon that
    answers at the `usual` places counts if it runs with this very file. With `orders` it must take them, that is be there on
    the socket; and a file without `admin.socket`, be it cut off, is no reason not to look there.
    """
    try:
        admin = _written(path)
    except ConfigError:
        found = asyncio.run(_usually(path.absolute(), usual, orders=orders))
        if found is None:
            raise
        return found
    if orders and not admin.socket:
        return asyncio.run(_usually(path.absolute(), usual, orders=True)) or admin
    return admin


def _written(path: Path) -> AdminConfig:
    root = loader.keys(yaml.read(path))
    try:
        return AdminConfig.model_validate(root.get("admin", {}))
    except Mistakes:
        return loader.load(path).admin  # which says all that is wrong


async def _usually(path: Path, usual: AdminConfig, *, orders: bool) -> AdminConfig | None:
    for admin in (usual, AdminConfig(listen=usual.listen)):
        if orders and not admin.socket:
            continue
        try:
            match await _ask("GET", "/status", socket=admin.socket, admin=admin, budget=ASK_TIMEOUT):
                case {"daemon": {"config_path": str() as running}} if Path(running) == path:
                    return admin
        except (AdminError, ConfigError):
            continue
    return None


async def fetch_status(admin: AdminConfig) -> object:
    """The parsed document of `/status` (see `proxy.admin.status`). Raises AdminError."""
    failures: list[AdminError] = []
    for socket in (admin.socket, None) if admin.socket else (None,):
        try:
            return await _ask("GET", "/status", socket=socket, admin=admin, budget=ASK_TIMEOUT)
        except AdminError as error:  # a user who may not use the socket may still read over TCP
            failures.append(error)
    raise AdminError("; ".join(map(str, failures)), hint=failures[0].hint)


async def command(admin: AdminConfig, name: str, *, params: Mapping[str, str] | None = None, budget: float) -> object:
    """POST `/-/NAME` on the unix socket and return the parsed answer, waiting up to `budget` seconds.

    Raises ConfigError if the daemon refused a new configuration, Unfinished if the time was up and the daemon is at it, and
    AdminError for everything else.
    """
    if not admin.socket:
        raise AdminError(
            "this file has no admin.socket; the running daemon may have one",
            hint="its log says where (`taking orders`), and kill -HUP PID reloads it; if it has none, "
            f"add `admin: {{socket: {USUAL.socket}}}` and restart it",
        )
    try:
        return await _ask("POST", f"/-/{name}", socket=admin.socket, admin=admin, budget=budget, params=params)
    except _Unanswered as error:
        try:
            document = await _ask("GET", "/status", socket=admin.socket, admin=admin, budget=ASK_TIMEOUT)
        except AdminError:
            raise error from None
        raise Unfinished(name, budget, document) from error


async def _ask(
    method: str,
    path: str,
    *,
    socket: Path | None,
    admin: AdminConfig,
    budget: float,
    params: Mapping[str, str] | None = None,
) -> object:
    where = str(socket or f"http://{admin.listen}")
    target = f"{path}?{urlencode(params)}" if params else path
    try:
        async with asyncio.timeout(budget):
            reader, writer = await _connect(where, socket, admin.listen)
            try:
                code, body = await ask(reader, writer, method, target, host="localhost" if socket else str(admin.listen))
            finally:
                writer.transport.abort()
    except TimeoutError as exc:
        hint = "the daemon hangs or has too much to do; its log says more: journalctl -u kubemux"
        raise _Unanswered(f"{where}: no answer within {budget:g} s", hint=hint) from exc
    except (h11.RemoteProtocolError, OSError) as exc:
        raise AdminError(f"{where}: the connection broke: {exc}") from exc
    return _read(where, code, body)


async def _connect(where: str, socket: Path | None, listen: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await (asyncio.open_unix_connection(socket) if socket else asyncio.open_connection(*listen))
    except OSError as exc:
        remedy = "use sudo, or become the daemon's user" if isinstance(exc, PermissionError) else None
        number = exc.errno or 0  # negative: getaddrinfo's, whose words are its own
        text = os.strerror(number) if number > 0 else exc.strerror or str(exc)
        raise AdminError(f"{where}: {text}", hint=remedy) from exc


def _read(where: str, code: int, body: bytes) -> object:
    try:
        answer: object = json.loads(body)
    except (ValueError, RecursionError) as exc:
        hint = "another program has this address; choose another for admin.listen"
        raise AdminError(f"{where}: answered, but not as kubemux does (HTTP {code})", hint=hint) from exc
    match answer:
        case {"path": str() as path, "problems": list() as problems}:
            raise ConfigError(path, [Problem(**problem) for problem in problems])
        case {"error": str() as sentence, "hint": str() as hint, "reason": UnknownName.reason}:
            raise UnknownName(sentence, hint=hint)
        case {"error": str() as sentence, "hint": str() as hint}:
            raise AdminError(sentence, hint=hint)
    return answer
