"""From a gateway's configuration to an authenticated SSH connection, over its jump chain.

Steps, each with its own errors: reading keys and settings (`proxy/ssh/options.py`), TCP, handshake with the host key
checked against known_hosts, public key authentication. The connections of a chain belong to one link: a jump host that is
lost takes only that link along.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import asyncssh

from proxy.config.model import GatewayConfig
from proxy.errors import ConnectTimeout, CredentialsUnusable, JumpFailed, LinkError, Stage
from proxy.ssh import known_hosts
from proxy.ssh.errors import Shown, describe_connect, describe_handshake
from proxy.ssh.options import Prepared, prepare, proxy_jump

Lost = Callable[[Exception | None], None]
HandshakeSlot = Callable[[str], asyncio.Semaphore]


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection that is up, its jump chain before it, and how long the last handshake took (seconds)."""

    conns: tuple[asyncssh.SSHClientConnection, ...]
    server: str
    handshake: float


class _Client(asyncssh.SSHClient):
    """Remembers what the server showed that was not trusted, and hears of the end."""

    def __init__(self, on_lost: Lost | None) -> None:
        self.shown = Shown()
        self._on_lost = on_lost

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        del host, addr, port
        self.shown = Shown(key=key)
        return False

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        del host, addr, port
        self.shown = Shown(authority=key)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._on_lost is not None:
            self._on_lost(exc)


async def dial(
    config: GatewayConfig, gateways: Mapping[str, GatewayConfig], handshake_slot: HandshakeSlot, on_lost: Lost
) -> Dialled:
    """Dial `config`'s jump chain, then the gateway itself.

    `on_lost` is called once when the last connection ends; that may be before `dial` returns, or as it fails.
    `handshake_slot` gives each SSH server's budget of handshakes in flight. Raises LinkError; nothing is left open then.
    """
    chain = _Chain(gateways, handshake_slot)
    try:
        server, handshake = await chain.extend(config, on_lost=on_lost)
    except BaseException:
        for conn in reversed(chain.conns):
            conn.abort()
        raise
    return Dialled(tuple(chain.conns), server, handshake)


class _Chain:
    """The connections of one link in the making, each through the one before it."""

    def __init__(self, gateways: Mapping[str, GatewayConfig], handshake_slot: HandshakeSlot) -> None:
        self.conns: list[asyncssh.SSHClientConnection] = []
        self._gateways = gateways
        self._handshake_slot = handshake_slot

    async def extend(
        self, config: GatewayConfig, *, on_lost: Lost | None = None, route: tuple[str, ...] = ()
    ) -> tuple[str, float]:
        """Connect to one more server; returns its `HOST:PORT` and the handshake's seconds.

        As in OpenSSH, the jumps of a hop count only where it is the first: the others are reached through the one before.
        `route` is the names that led here, to find circles.
        """
        prepared = await prepare(config)
        if not self.conns:
            for name, hop in self._jumps(config, prepared.options.tunnel):
                if name in route:
                    raise CredentialsUnusable(
                        f"ProxyJump goes in a circle: {' -> '.join((*route, name))}",
                        hint="say `ProxyJump none` in ssh_config for the host that needs no jump",
                    )
                try:
                    await self.extend(hop, route=(*route, name))
                except LinkError as exc:
                    raise _jump_failed(name, exc) from exc
        return await self._connect(config, prepared, on_lost)

    def _jumps(self, config: GatewayConfig, proxy_jumps: object) -> list[tuple[str, GatewayConfig]]:
        if config.jump:
            return [(name, self._gateways[name]) for name in config.jump]
        if isinstance(proxy_jumps, str):
            return [(hop.strip(), proxy_jump(config, hop)) for hop in proxy_jumps.split(",")]
        return []

    async def _connect(self, config: GatewayConfig, prepared: Prepared, on_lost: Lost | None) -> tuple[str, float]:
        options = prepared.options
        server = f"{options.host}:{options.port}"
        client = _Client(on_lost)
        sock: socket.socket | None = None
        started: float | None = None
        loop = asyncio.get_running_loop()
        try:
            async with self._handshake_slot(server), asyncio.timeout(config.connect_timeout):
                if not self.conns and options.proxy_command is None:
                    sock = await _open_socket(options.host, options.port, options.family, config.connect_timeout)
                started = loop.time()
                tunnel = self.conns[-1] if self.conns else None
                self.conns.append(await _handshake(prepared, server, sock, tunnel, client))
        except TimeoutError as exc:
            if started is None:
                raise ConnectTimeout(f"no TCP connection to {server} within {config.connect_timeout:g} s") from exc
            failure = ConnectTimeout(f"{server} did not finish the SSH handshake within {config.connect_timeout:g} s")
            failure.stage = Stage.SSH
            raise failure from exc
        return server, loop.time() - started


def _jump_failed(name: str, exc: LinkError) -> JumpFailed:
    """A chain is retried, and explained, as its broken part is."""
    failure = JumpFailed(f"jump host {name}: {exc}", hint=exc.hint)
    failure.retry = exc.retry
    failure.stage = exc.stage
    return failure


async def _handshake(
    prepared: Prepared,
    server: str,
    sock: socket.socket | None,
    tunnel: asyncssh.SSHClientConnection | None,
    client: _Client,
) -> asyncssh.SSHClientConnection:
    """Takes `sock` over, and closes it if there is no connection in the end. Raises LinkError."""
    trusted = known_hosts.Trusted()
    try:
        address = sock.getpeername()[0] if sock else ""
        trusted = known_hosts.match(prepared.known_hosts, prepared.options, address)
        return await asyncssh.connect(
            **prepared.settings,
            server_host_key_algs=trusted.algorithms(),
            sock=sock,
            tunnel=tunnel,
            client_factory=lambda: client,
        )
    except BaseException as exc:
        if sock is not None:
            sock.close()
        # Not only asyncssh.Error: what its parsers stumble over in a hostile peer's packets comes as it is.
        if isinstance(exc, Exception):
            user = prepared.options.username
            raise describe_handshake(server, exc, shown=client.shown, trusted=trusted, user=user) from exc
        raise


async def _open_socket(host: str, port: int, family: int, seconds: float) -> socket.socket:
    """A connected TCP socket: the first address that answers, each with its share of `seconds`. Raises LinkError."""
    loop = asyncio.get_running_loop()
    server = f"{host}:{port}"
    try:
        addresses = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:  # UnicodeError: no name can look like that (RFC 5890)
        raise describe_connect(server, exc) from exc
    failure = OSError("no address")
    for found_family, kind, protocol, _, address in addresses:
        sock = socket.socket(found_family, kind, protocol)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(seconds / len(addresses)):
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
