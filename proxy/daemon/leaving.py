"""A set of connections that must end, while their destination still accepts new ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from proxy.relay.interfaces import Relay


class Leaving:
    """`gone` is set when all of them have ended."""

    def __init__(self, relays: Iterable[Relay]) -> None:
        self.relays = set(relays)
        self.gone = asyncio.Event()
        self._check()

    def ended(self, relay: Relay) -> None:
        """Remove a connection that has ended. It may belong to the destination and not to this set."""
        self.relays.discard(relay)
        self._check()

    def _check(self) -> None:
        if not self.relays:
            self.gone.set()
