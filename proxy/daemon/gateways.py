"""The gateways of the daemon, and how a reload changes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from proxy.config.diff import Change
from proxy.config.model import Config
from proxy.daemon.connections import Shared
from proxy.ssh.handshakes import Handshakes
from proxy.ssh.supervision.gateway import Gateway
from proxy.ssh.supervision.patterns import PatternGateway
from proxy.ssh.turns import Turns


class Gateways(Mapping[str, Gateway | PatternGateway]):
    """The gateways, by name."""

    def __init__(self, shared: Shared, turns: Turns, on_change: Callable[[str], None]) -> None:
        """`on_change` is called with the name of a gateway after one of its links came up or ended."""
        self.handshakes = Handshakes()
        self._shared = shared
        self._turns = turns
        self._on_change = on_change
        self._gateways: dict[str, Gateway | PatternGateway] = {}
        self._retired: dict[str, Gateway | PatternGateway] = {}
        """Those that the reload of now removes or replaces."""

    def __getitem__(self, name: str) -> Gateway | PatternGateway:
        return self._gateways[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._gateways)

    def __len__(self) -> int:
        return len(self._gateways)

    def start(self, config: Config) -> None:
        """Start to dial all gateways."""
        for name in config.gateways:
            self._add(config, name)

    def retire(self, name: str) -> Gateway | PatternGateway:
        """Remove a gateway and return it. The caller must drain its links."""
        self._retired[name] = gateway = self._gateways.pop(name)
        return gateway

    def reconfigure(self, config: Config, change: Change) -> None:
        """Use another configuration. The caller has already removed the retired gateways.

        Clients that wait for a link of a replaced gateway go on to wait for one of the new gateway.
        """
        gateways = config.gateways
        for name in (*change.changed, *change.added):
            self._add(config, name)
        for name in change.changed:
            old, new = self._retired[name], self._gateways[name]
            if isinstance(old, PatternGateway):
                old.give_way(new)
            if isinstance(old, Gateway) and isinstance(new, Gateway):
                old.give_way(new)  # it does not know for which host of a pattern its clients have come
        self._retired.clear()
        for name in change.renewed:
            self._gateways[name].reconfigure(gateways[name], gateways)
        for name in change.adjusted:
            self._gateways[name].adjust(gateways[name], gateways)

    def _add(self, config: Config, name: str) -> None:
        one = config.gateways[name]
        gateway = (PatternGateway if one.is_pattern else Gateway)(
            name,
            one,
            config.gateways,
            budget=self._shared.budget,
            turns=self._turns,
            record=self._shared.metrics.gateway(name),
            handshakes=self.handshakes,
            on_change=partial(self._on_change, name),
        )
        self._gateways[name] = gateway
        gateway.start()

    async def close(self) -> None:
        """Close every link."""
        await asyncio.gather(*(gateway.close() for gateway in self._gateways.values()))
