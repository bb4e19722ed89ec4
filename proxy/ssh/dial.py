"""From a gateway's configuration to an authenticated SSH connection, over its jump chain.

Steps, each with its own errors: options (asyncssh reads `ssh_config` and the keys, in a thread), TCP, handshake with the
host key checked against known_hosts (plain, hashed, `@cert-authority`, `@revoked`), public key authentication.
The connections of a chain belong to one link: a jump host that is lost takes only that link along.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncssh

from proxy.config.model import GatewayConfig
from proxy.errors import ConnectTimeout, CredentialsUnusable, JumpFailed, LinkError
from proxy.ssh.errors import describe_connect, describe_handshake

Lost = Callable[[Exception | None], None]

_SSH_PORT: Final = 22

_HOST_KEY_ALGORITHMS: Final = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
_ENCRYPTION: Final = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes128-ctr",
)
"""AES-GCM first: with AES instructions it costs a fifth of the others."""


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection that is up, its jump chain before it, and how long the last handshake took (seconds)."""

    conns: tuple[asyncssh.SSHClientConnection, ...]
    server: str
    handshake: float


class _Client(asyncssh.SSHClient):
    """Remembers the host key that was not trusted, and hears of the end."""

    def __init__(self) -> None:
        self.shown: asyncssh.SSHKey | None = None
        self.on_lost: Lost | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        del host, addr, port
        self.shown = key
        return False

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        del host, addr, port
        self.shown = key
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self.on_lost is not None:
            self.on_lost(exc)


async def dial(
    config: GatewayConfig,
    gateways: Mapping[str, GatewayConfig],
    handshake_slot: Callable[[str], asyncio.Semaphore],
    on_lost: Lost,
) -> Dialled:
    """Dial `config`'s jump chain, then the gateway itself. `on_lost` is called once when the last connection ends.

    `handshake_slot` gives each SSH server's budget of handshakes in flight. Raises LinkError; nothing is left open then.
    """
    chain = [(name, gateways[name]) for name in config.jump]
    conns: list[asyncssh.SSHClientConnection] = []
    try:
        for name, hop in chain:
            try:
                await _dial_hop(hop, conns, handshake_slot, None)
            except LinkError as exc:
                raise _jump_failed(name, exc) from exc
        server, handshake = await _dial_hop(config, conns, handshake_slot, on_lost)
    except BaseException:
        for conn in reversed(conns):
            conn.abort()
        raise
    return Dialled(tuple(conns), server, handshake)


def _jump_failed(name: str, exc: LinkError) -> JumpFailed:
    """A chain is retried, and explained, as its broken part is."""
    failure = JumpFailed(f"jump host {name}: {exc}", hint=exc.hint)
    failure.retry = exc.retry
    failure.stage = exc.stage
    return failure


async def _dial_hop(
    config: GatewayConfig,
    conns: list[asyncssh.SSHClientConnection],
    handshake_slot: Callable[[str], asyncio.Semaphore],
    on_lost: Lost | None,
) -> tuple[str, float]:
    settings = await _settings(config)
    options = await _options(config, settings)
    if isinstance(options.tunnel, str):  # ProxyJump of ssh_config
        for hop in options.tunnel.split(","):
            await _dial_hop(_proxy_jump(config, hop), conns, handshake_slot, None)
    server = f"{options.host}:{options.port}"
    client = _Client()
    try:
        async with handshake_slot(server), asyncio.timeout(config.connect_timeout):
            sock = None
            if not conns and options.proxy_command is None:
                sock = await _connect(options.host, options.port, options.family)
            started = asyncio.get_running_loop().time()
            try:
                conns.append(await _handshake(options, settings, sock, conns[-1] if conns else None, client))
            except BaseException:
                if sock is not None:
                    sock.close()
                raise
    except TimeoutError as exc:
        raise ConnectTimeout(f"{server} did not finish the handshake within {config.connect_timeout:g} s") from exc
    client.on_lost = on_lost
    return server, asyncio.get_running_loop().time() - started


def _proxy_jump(config: GatewayConfig, hop: str) -> GatewayConfig:
    """A hop of `ProxyJump [user@]host[:port]`: an alias of the same ssh_config, with the gateway's known_hosts and keys."""
    user, _, address = hop.strip().rpartition("@")
    host, _, port = address.rpartition(":") if address.rpartition(":")[2].isdecimal() else (address, "", "")
    return config.model_copy(update={"host": host, "port": int(port) if port else None, "user": user or None, "jump": ()})


async def _handshake(
    options: asyncssh.SSHClientConnectionOptions,
    settings: Mapping[str, Any],
    sock: socket.socket | None,
    tunnel: asyncssh.SSHClientConnection | None,
    client: _Client,
) -> asyncssh.SSHClientConnection:
    server = f"{options.host}:{options.port}"
    address = sock.getpeername()[0] if sock else ""
    known, authorities = await asyncio.to_thread(_known_keys, options, address)
    algorithms = {"server_host_key_algs": _preferred(known)} if known and not authorities else {}
    try:
        return await asyncssh.connect(**settings, **algorithms, sock=sock, tunnel=tunnel, client_factory=lambda: client)
    except (asyncssh.Error, OSError, ValueError) as exc:
        raise describe_handshake(server, exc, shown=client.shown, known=known, user=options.username) from exc


async def _connect(host: str, port: int, family: int) -> socket.socket:
    """A connected TCP socket, the first address that answers. Raises LinkError."""
    loop = asyncio.get_running_loop()
    server = f"{host}:{port}"
    try:
        addresses = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise describe_connect(server, exc) from exc
    failure = OSError("no address")
    for found_family, kind, protocol, _, address in addresses:
        sock = socket.socket(found_family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
        except OSError as exc:
            sock.close()
            failure = exc
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise describe_connect(server, failure) from failure


def _known_keys(
    options: asyncssh.SSHClientConnectionOptions, address: str
) -> tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey]]:
    """The host keys that known_hosts has for the server, and the authorities that may vouch for it."""
    port = options.port if options.port != _SSH_PORT else None
    host = options.host_key_alias or options.host
    known_hosts = options.known_hosts or str(Path("~/.ssh/known_hosts").expanduser())
    try:
        keys, authorities, *_ = asyncssh.match_known_hosts(known_hosts, host, address, port)
    except (OSError, ValueError) as exc:
        raise CredentialsUnusable(f"known_hosts for {host} cannot be used: {exc}") from exc
    return list(keys), list(authorities)


def _preferred(known: Sequence[asyncssh.SSHKey]) -> list[str]:
    """The algorithms of the known keys first, then all others: a server that changed its key's type shows it to us."""
    first = [algorithm.decode() for key in known for algorithm in key.sig_algorithms]
    return list(dict.fromkeys([*first, *_HOST_KEY_ALGORITHMS]))


async def _settings(config: GatewayConfig) -> dict[str, Any]:
    """The keyword arguments of `asyncssh.connect`: as many types as there are arguments. Raises CredentialsUnusable."""
    settings: dict[str, Any] = {
        "host": config.host,
        "config": [str(config.ssh_config)] if config.ssh_config else None,
        "keepalive_interval": config.keepalive.interval,
        # asyncssh gives up at the tick after the count is passed; OpenSSH, and we, at interval × max_missed.
        "keepalive_count_max": max(config.keepalive.max_missed - 1, 0),
        "login_timeout": config.connect_timeout,
        "encryption_algs": list(_ENCRYPTION),
        "compression_algs": ["none"],
        "preferred_auth": "publickey",
        "password_auth": False,
        "kbdint_auth": False,
        "host_based_auth": False,
        "gss_kex": False,
        "gss_auth": False,
        "x509_trusted_certs": None,
        "agent_path": os.environ.get("SSH_AUTH_SOCK") if config.agent else None,
    }
    if config.port is not None:
        settings["port"] = config.port
    if config.user is not None:
        settings["username"] = config.user
    if config.known_hosts:
        settings["known_hosts"] = [str(path) for path in config.known_hosts]
    if config.identity_files:
        settings["client_keys"] = [str(path) for path in config.identity_files]
    if config.certificate_files:
        settings["client_certs"] = [str(path) for path in config.certificate_files]
    if config.passphrase_file:
        try:
            settings["passphrase"] = (await asyncio.to_thread(config.passphrase_file.read_text)).rstrip("\n")
        except (OSError, UnicodeDecodeError) as exc:
            raise CredentialsUnusable(f"passphrase_file {config.passphrase_file} cannot be read: {exc}") from exc
    return settings


async def _options(config: GatewayConfig, settings: Mapping[str, Any]) -> asyncssh.SSHClientConnectionOptions:
    """What asyncssh makes of `settings` and ssh_config. It reads keys and may run bcrypt: in a thread.

    Raises CredentialsUnusable.
    """
    try:
        options: asyncssh.SSHClientConnectionOptions = await asyncssh.SSHClientConnectionOptions.construct(**settings)
    except (OSError, ValueError, asyncssh.Error) as exc:
        raise CredentialsUnusable(f"keys or settings for {config.host} cannot be used: {exc}") from exc
    if options.known_hosts is None:
        raise CredentialsUnusable(
            f"ssh_config of {config.host} switches host key checking off (UserKnownHostsFile none)",
            hint="give known_hosts in the gateway; kubemux never connects to a server it cannot identify",
        )
    return options
