"""Dials a gateway through its jump hosts, and logs in: the result is an authenticated SSH connection.

Each step has its own errors: reading keys and settings (`proxy/ssh/login/prepared.py`), TCP (`tcp.py`) or a
ProxyCommand, the handshake in which the host key is checked, authentication by public key. The connections of
a chain belong to one link, so that losing a connection to a jump host ends only that link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial

import asyncssh

from proxy.config import expiry
from proxy.config.model import GatewayConfig
from proxy.errors import ConnectTimeout, CredentialsUnusable, JumpFailed, LinkError, Stage
from proxy.runtime.blocking import Place
from proxy.ssh.errors import (
    describe_key,
    host_key_line,
)
from proxy.ssh.handshakes import Handshakes, RefusedGateway
from proxy.ssh.login import agent as agents
from proxy.ssh.login.agent import Agent
from proxy.ssh.login.client import Login, Lost
from proxy.ssh.login.handshake import Tunnel, shake_hands
from proxy.ssh.login.jumps import jumps
from proxy.ssh.login.learning import Announcement
from proxy.ssh.login.prepared import Prepared, prepare
from proxy.ssh.login.proxy_command import ProxyCommand
from proxy.ssh.login.tcp import Tcp, unanswered
from proxy.ssh.login.verify import Server, scan

Expires = Callable[[str, float | None], None]
Trial = Callable[[str, str], AbstractAsyncContextManager[Callable[[], None]]]


class Places:
    """The places in which the dials of one gateway make calls that may hang.

    There are two, so that a resolver that does not answer does not delay reading files.
    """

    def __init__(self, gateway: str = "a dial") -> None:
        self.settings = Place(f"settings of {gateway}")
        self.names = Place(f"names of {gateway}")


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection that is up, its jump chain, and the seconds that the last handshake took."""

    conns: tuple[asyncssh.SSHClientConnection, ...]
    server: str
    handshake: float
    announcement: asyncio.Future[Announcement]
    """The gateway's list of its host keys, when it arrives; many servers send none."""
    command: ProxyCommand | None = None
    """The ProxyCommand that carries the first connection, if there is one."""

    async def close(self) -> None:
        """Close the connections and end the command, because no link is made of them."""
        await _close(self.conns, self.command)


async def dial(
    config: GatewayConfig,
    gateways: Mapping[str, GatewayConfig],
    handshakes: Handshakes,
    on_lost: Lost,
    *,
    on_expiry: Expires = lambda _kind, _when: None,
    who: RefusedGateway | None = None,
    is_ordered: bool = False,
    places: Places | None = None,
) -> Dialled:
    """Dial `config`'s jump chain, then the gateway itself.

    `on_lost` is called once, when the last connection ends; that may be before `dial` returns or fails. All
    gateways share `handshakes`; for `who` and `is_ordered` see `Handshakes.trial`. `on_expiry` is called with
    `user` or `host` and the Unix time at which that certificate expires, or None if there is no certificate.
    The caller uses the same `places` for all its dials.

    Raises LinkError; then nothing is left open.
    """
    trial = partial(handshakes.trial, who=who, is_ordered=is_ordered)
    chain = _Chain(gateways, trial, on_expiry, places or Places())
    try:
        server, handshake, client = await chain.extend(config, on_lost=on_lost)
    except BaseException:
        await _close(chain.conns, chain.command)
        raise
    return Dialled(tuple(chain.conns), server, handshake, client.announcement, chain.command)


async def _close(conns: Sequence[asyncssh.SSHClientConnection], command: ProxyCommand | None) -> None:
    for conn in reversed(conns):
        conn.abort()
    if command is not None:
        await command.close()


class _Chain:
    """The connections of one link while it is dialled, each through the connection before it."""

    def __init__(
        self,
        gateways: Mapping[str, GatewayConfig],
        trial: Trial,
        on_expiry: Expires,
        places: Places,
    ) -> None:
        self.conns: list[asyncssh.SSHClientConnection] = []
        self.command: ProxyCommand | None = None
        self._gateways = gateways
        self._trial = trial
        self._on_expiry = on_expiry
        self._places = places
        self._hop: asyncssh.SSHClientConnectionOptions | None = None
        """The options of the last connection."""
        self._at = ""
        """The address of the last server."""

    async def extend(
        self, config: GatewayConfig, *, on_lost: Lost | None = None, route: tuple[str, ...] = ()
    ) -> tuple[str, float, Login]:
        """Connect to the next server. Returns its `HOST:PORT`, the seconds of the handshake, and its Login.

        As in OpenSSH, only the first hop uses its own jumps: the others are reached through the hop before
        them. `route` has the names of the hops so far, to detect a circle.
        """
        prepared = await prepare(config, self._places.settings)
        if not route:
            self._on_expiry(
                "user", min((validity.end for _, validity in prepared.certificates), default=None)
            )
        async with agents.connected(prepared) as agent:
            await self._jump(config, prepared, route)
            server, seconds, client = await self._connect_in_turn(config, prepared, agent, on_lost)
        if not route:
            certificate = expiry.openssh(host_key_line(client.host_key))
            self._on_expiry("host", certificate.end if certificate else None)
        return server, seconds, client

    async def _jump(self, config: GatewayConfig, prepared: Prepared, route: tuple[str, ...]) -> None:
        if self.conns:
            return
        for name, hop in jumps(config, self._gateways, prepared.proxy_jump):
            if name in route:
                raise CredentialsUnusable(
                    f"ProxyJump goes in a circle: {' -> '.join((*route, name))}",
                    hint="say `ProxyJump none` in ssh_config for the host that needs no jump",
                )
            try:
                await self.extend(hop, route=(*route, name))
            except LinkError as exc:
                raise _jump_failed(name, exc) from exc

    async def _connect_in_turn(
        self, config: GatewayConfig, prepared: Prepared, agent: Agent | None, on_lost: Lost | None
    ) -> tuple[str, float, Login]:
        options = prepared.options
        keys = " and ".join(describe_key(pair) for pair in options.client_keys or ())
        # Everything on which it depends whether the server accepts us, and we accept the server.
        shown = (
            f"{options.username} with {keys} to {options.host_key_alias or options.host} as in "
            f"{config.known_hosts or config.ssh_config}"
        )
        tunnel, at = await self._way(config, prepared)
        async with self._trial(at, shown) as end_turn:
            if agent is not None:
                agent.on_accepted = end_turn
            connected = await self._connect(config, prepared, tunnel, agent, on_lost)
        self._hop, self._at = options, at
        return connected

    async def _way(self, config: GatewayConfig, prepared: Prepared) -> tuple[Tunnel, str]:
        """What carries the handshake, and the address of the server.

        `handshakes` identifies the server by address, not by name, because the server counts refusals for all
        its names together. Raises Unresolvable.
        """
        options = prepared.options
        server = f"{options.host}:{options.port}"
        if self.conns:
            return self.conns[-1], f"{server} from {self._at}"
        if prepared.proxy_command is not None:
            self.command = ProxyCommand(prepared.proxy_command, server)
            return self.command, server
        patience = unanswered(config.keepalive)
        tcp = Tcp(server, prepared.connect_timeout, patience, self._places.names, prepared.bind_address)
        await tcp.resolve(options.host, options.port, options.family)
        return tcp, f"{min(tcp.addresses)}:{options.port}"

    async def _connect(
        self,
        config: GatewayConfig,
        prepared: Prepared,
        tunnel: Tunnel,
        agent: Agent | None,
        on_lost: Lost | None,
    ) -> tuple[str, float, Login]:
        server = f"{prepared.options.host}:{prepared.options.port}"
        seconds = prepared.connect_timeout
        loop = asyncio.get_running_loop()
        client = self._login(config, prepared, server, on_lost)
        try:
            async with asyncio.timeout(seconds):
                started = loop.time()
                self.conns.append(await shake_hands(prepared, server, tunnel, agent, client))
                # A server that asks for no key has not been checked against the revocation lists yet.
                await client.require_unrevoked()
        except TimeoutError as exc:
            if isinstance(tunnel, Tcp) and not tunnel.connected_at:
                raise ConnectTimeout(f"no TCP connection to {server} within {seconds:g} s") from exc
            through = " through its ProxyCommand" if isinstance(tunnel, ProxyCommand) else ""
            failure = ConnectTimeout(
                f"{server} did not finish the SSH handshake within {seconds:g} s{through}"
            )
            failure.stage = Stage.SSH
            raise failure from exc
        if isinstance(tunnel, Tcp | ProxyCommand):
            started = tunnel.connected_at
        return server, loop.time() - started, client

    def _login(self, config: GatewayConfig, prepared: Prepared, server: str, on_lost: Lost | None) -> Login:
        trusted = prepared.trusted
        asked = Server(server, scan(config, prepared, self._hop), trusted, prepared.host_key_algorithms)
        return Login(
            asked,
            trusted.names[0].encode(),
            seconds=config.connect_timeout,
            on_lost=on_lost,
            is_asked_further=prepared.is_asked_further,
        )


def _jump_failed(name: str, exc: LinkError) -> JumpFailed:
    """The error for a broken jump chain; it is retried and explained like the error of the hop."""
    failure = JumpFailed(f"jump host {name}: {exc}", hint=exc.hint)
    failure.retry = exc.retry
    failure.stage = exc.stage
    return failure
