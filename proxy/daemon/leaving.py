"""A set of connections that are to end, while their destination continues to accept new ones."""

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
        """A connection of the destination has ended. It may be one that is not in the set."""
        self.relays.discard(relay)
        self._check()

    def _check(self) -> None:
        if not self.relays:
            self.gone.set()
