"""Some connections of a destination that are to end, while it goes on to take others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from proxy.relay.interfaces import Relay


class Leaving:
    """`gone` is set when none of them is left."""

    def __init__(self, relays: Iterable[Relay]) -> None:
        self.relays = set(relays)
        self.gone = asyncio.Event()
        self._check()

    def ended(self, relay: Relay) -> None:
        """A connection has ended; it may be none of these."""
        self.relays.discard(relay)
        self._check()

    def _check(self) -> None:
        if not self.relays:
            self.gone.set()
