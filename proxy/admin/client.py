"""Asking the running daemon: through its unix socket if there is one, else (to read only) over TCP."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aiohttp
from pydantic import ValidationError

from proxy.config import loader, yaml
from proxy.config.model import AdminConfig
from proxy.errors import AdminError, ConfigError, Problem

ASK_TIMEOUT: Final = 5.0
"""Seconds a running daemon may take to say how it is."""


def admin_section(path: Path) -> AdminConfig:
    """The `admin:` section of a configuration file: mistakes elsewhere in it do not stop questions. Raises ConfigError."""
    root = yaml.read(path).root
    try:
        return AdminConfig.model_validate(root.get("admin", {}) if isinstance(root, dict) else root)
    except ValidationError:
        return loader.load(path).admin  # which says all that is wrong


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

    Raises ConfigError if the daemon refused a new configuration, AdminError for everything else.
    """
    if not admin.socket:
        raise AdminError(
            "this configuration has no admin.socket, so the daemon takes no commands",
            hint="add `admin: {socket: /run/kubemux/admin.sock}` and restart the daemon",
        )
    return await _ask("POST", f"/-/{name}", socket=admin.socket, admin=admin, budget=budget, params=params)


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
    connector = aiohttp.UnixConnector(str(socket)) if socket else aiohttp.TCPConnector()
    base = "http://localhost" if socket else where
    try:
        async with (
            aiohttp.ClientSession(base, connector=connector, timeout=aiohttp.ClientTimeout(total=budget)) as session,
            session.request(method, path, params=params) as response,
        ):
            body = await response.read()
            code = response.status
    except TimeoutError as exc:
        hint = "the daemon hangs or has too much to do; its log says more: journalctl -u kubemux"
        raise AdminError(f"{where}: no answer within {budget:g} s", hint=hint) from exc
    except aiohttp.ClientConnectorError as exc:
        remedy = "use sudo, or become the daemon's user" if isinstance(exc.os_error, PermissionError) else None
        code = exc.os_error.errno or 0  # negative: getaddrinfo's, whose words are its own
        text = os.strerror(code) if code > 0 else exc.os_error.strerror
        raise AdminError(f"{where}: {text}", hint=remedy) from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise AdminError(f"{where}: the connection broke: {exc}") from exc
    return _read(where, code, body)


def _read(where: str, code: int, body: bytes) -> object:
    try:
        answer: object = json.loads(body)
    except (ValueError, RecursionError) as exc:
        hint = "another program has this address; choose another for admin.listen"
        raise AdminError(f"{where}: answered, but not as kubemux does (HTTP {code})", hint=hint) from exc
    match answer:
        case {"path": str() as path, "problems": list() as problems}:
            raise ConfigError(path, [Problem(**problem) for problem in problems])
        case {"error": str() as sentence, "hint": str() as hint}:
            raise AdminError(sentence, hint=hint)
    return answer
