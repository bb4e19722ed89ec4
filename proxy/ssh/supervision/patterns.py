"""A gateway pattern (`host: "{host}"`): each host that clients request by a route is a gateway of its own, on
demand.

A host is known from its first client until `idle_timeout` after its last one, whether a dial succeeded or
not. The heartbeat checks that, so a host without clients has no timer. At most `max_hosts` hosts are known.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping

import structlog

from proxy.config.hosts import is_host
from proxy.config.model import GatewayConfig
from proxy.errors import HostLimit, LinkDown, UnknownName
from proxy.metrics.records import GatewayRecord
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.tasks import Tasks
from proxy.runtime.text import shown
from proxy.snapshots import GatewaySnapshot, GatewayState
from proxy.ssh.handshakes import Handshakes
from proxy.ssh.supervision.gateway import Gateway
from proxy.ssh.turns import Turns

log = structlog.get_logger("kubemux.gateway")

_HOST_HINT = (
    "a host is an address, or a name of letters, digits, `-`, `_` and dots, with none of `-` in front"
)


class PatternGateway:
    """The hosts of one pattern. All of them count in `record`, the metrics under the pattern's name."""

    def __init__(
        self,
        name: str,
        config: GatewayConfig,
        gateways: Mapping[str, GatewayConfig],
        *,
        budget: MemoryBudget,
        turns: Turns,
        record: GatewayRecord,
        handshakes: Handshakes,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.config = config
        self._gateways = gateways
        self._budget = budget
        self._turns = turns
        self._record = record
        self._handshakes = handshakes
        self._on_change = on_change
        self._hosts: dict[str, tuple[Gateway, GatewayRecord]] = {}
        self._tasks = Tasks(f"gateway {name}")
        self._is_closing = False

    def __repr__(self) -> str:
        return f"<PatternGateway {self.name} hosts={len(self._hosts)}>"

    def start(self) -> None:
        """Dial nothing yet: a host is dialled when a client asks for it."""
        self._sum()

    def way(self, host: str) -> HostWay:
        """The way over SSH to `host`, which is dialled when a client asks for a channel."""
        return HostWay(self, host.lower().removesuffix("."))

    def known(self, host: str) -> Gateway | None:
        """The gateway of `host`, if there is one now."""
        return self._hosts[host][0] if host in self._hosts else None

    def gateway(self, host: str) -> Gateway:
        """Find or make the gateway of `host`. Raises UnknownName, HostLimit, LinkDown."""
        if self._is_closing:
            raise LinkDown(f"gateway {self.name} is no longer configured")
        if host not in self._hosts:
            if not is_host(host):
                raise UnknownName(f"gateway {self.name}: {shown(host)} is no host", hint=_HOST_HINT)
            self._make_room()
            self._add(host)
        return self._hosts[host][0]

    def _make_room(self) -> None:
        """Forget the hosts that were unused for longest, if there are too many. Raises HostLimit."""
        while len(self._hosts) >= self.config.max_hosts:
            unused, host = max((gateway.unused, host) for host, (gateway, _) in self._hosts.items())
            if not unused:
                raise HostLimit(
                    f"gateways.{self.name}.max_hosts is {self.config.max_hosts}, and all are in use"
                )
            self._forget(host, "another host needs its place")

    def _add(self, host: str) -> None:
        record = self._record.part()
        gateway = Gateway(
            f"{self.name}/{host}",
            self.config.for_host(host),
            self._gateways,
            budget=self._budget,
            turns=self._turns,
            record=record,
            handshakes=self._handshakes,
            on_change=self._on_change,
        )
        self._hosts[host] = gateway, record
        gateway.start()

    def _forget(self, host: str, why: str) -> None:
        gateway, _ = self._hosts.pop(host)
        log.debug("host forgotten", gateway=self.name, host=host, why=why)
        self._tasks.spawn(gateway.close(), name=f"forget {host}")

    # --------------------------------------------------------------------------------------- all of them

    @property
    def is_up(self) -> bool:
        """Whether a host has a link."""
        return any(gateway.is_up for gateway, _ in self._hosts.values())

    @property
    def is_idle(self) -> bool:
        """Whether no host has a link, and none has failed."""
        return all(gateway.is_idle for gateway, _ in self._hosts.values())

    def sample(self) -> None:
        """Sample every host, and forget unused ones. Call it about twice a second."""
        for host, (gateway, _) in tuple(self._hosts.items()):
            gateway.sample()
            if gateway.unused >= self.config.idle_timeout:
                self._forget(host, "unused")
        self._sum()

    def renew(self, why: str) -> None:
        """See `Gateway.renew`."""
        for gateway, _ in self._hosts.values():
            gateway.renew(why)

    def adjust(self, config: GatewayConfig, gateways: Mapping[str, GatewayConfig]) -> None:
        """See `Gateway.adjust`."""
        self.config, self._gateways = config, gateways
        for host, (gateway, _) in self._hosts.items():
            gateway.adjust(config.for_host(host), gateways)

    def reconfigure(self, config: GatewayConfig, gateways: Mapping[str, GatewayConfig]) -> None:
        """See `Gateway.reconfigure`."""
        self.config, self._gateways = config, gateways
        for host, (gateway, _) in self._hosts.items():
            gateway.reconfigure(config.for_host(host), gateways)

    def give_way(self, successor: PatternGateway | Gateway) -> None:
        """See `Gateway.give_way`."""
        for host, (gateway, _) in self._hosts.items():
            gateway.give_way(successor.way(host) if isinstance(successor, PatternGateway) else successor)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - a budget, not a failure
        """See `Gateway.drain`."""
        self._is_closing = True
        try:
            await asyncio.gather(*(gateway.drain(timeout) for gateway, _ in self._hosts.values()))
        finally:
            await self.close()

    async def close(self) -> None:
        """Close every link of every host, and wait until they are closed."""
        self._is_closing = True
        await asyncio.gather(*(gateway.close() for gateway, _ in self._hosts.values()))
        await self._tasks.wait()

    def _sum(self) -> None:
        if not self._is_closing:
            self._record.sum(tuple(record for _, record in self._hosts.values()))

    def snapshot(self) -> GatewaySnapshot:
        """For status: the links of all hosts, and the failure of one host, if any has one."""
        hosts = [gateway.snapshot() for gateway, _ in self._hosts.values()]
        failed = next((host for host in hosts if host.state is GatewayState.DOWN), None)
        return GatewaySnapshot(
            name=self.name,
            state=_state({host.state for host in hosts}),
            links=tuple(link for host in hosts for link in host.links),
            retiring=tuple(link for host in hosts for link in host.retiring),
            wanted=sum(len(host.links) or 1 for host in hosts if host.state is not GatewayState.IDLE),
            reconnects=sum(self._record.reconnects.values()),
            retry_in=min((host.retry_in for host in hosts if host.retry_in is not None), default=None),
            reason=failed.reason if failed else "",
            message=f"{failed.name}: {failed.message}" if failed else "",
            hint=failed.hint if failed else "",
            certificate_expiry=min(
                (host.certificate_expiry for host in hosts if host.certificate_expiry is not None),
                default=None,
            ),
            hosts=len(hosts),
        )


def _state(states: set[GatewayState]) -> GatewayState:
    """The common state of some hosts; idle ones do not count."""
    states = states - {GatewayState.IDLE}
    if len(states) > 1:
        return (
            GatewayState.DEGRADED if states & {GatewayState.UP, GatewayState.DEGRADED} else GatewayState.DOWN
        )
    return next(iter(states), GatewayState.IDLE)


class HostWay:
    """A `proxy.relay.interfaces.Way` to one host of a pattern. It has no resources while no
    client uses it.
    """

    def __init__(self, pattern: PatternGateway, host: str) -> None:
        self._pattern = pattern
        self._host = host

    @property
    def is_up(self) -> bool:
        """Whether the host has a link."""
        gateway = self._pattern.known(self._host)
        return gateway is not None and gateway.is_up

    @property
    def is_idle(self) -> bool:
        """See `proxy.relay.interfaces.Way`."""
        gateway = self._pattern.known(self._host)
        return gateway is None or gateway.is_idle

    def is_given_up(self, patience: float) -> bool:
        """See `proxy.relay.interfaces.Way`. A host that is not known is never given up."""
        del patience
        return False

    @property
    def connect_timeout(self) -> float:
        """See `proxy.relay.interfaces.Way`."""
        return self._pattern.config.connect_timeout

    async def open_channel(
        self,
        target: Endpoint,
        *,
        origin: Endpoint,
        hold_until: float,
        answer_by: float = math.inf,
        is_needed: bool = True,
    ) -> Channel:
        """See `proxy.relay.interfaces.Way`. Raises UnknownName and HostLimit, too."""
        gateway = self._pattern.gateway(self._host)
        return await gateway.open_channel(
            target, origin=origin, hold_until=hold_until, answer_by=answer_by, is_needed=is_needed
        )
