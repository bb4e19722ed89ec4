"""A set of connections that must end, while their destination still accepts new ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from proxy.entries.arrival import Arrival


class Leaving:
    """`gone` is set when all connections of the set have ended."""

    def __init__(self, arrivals: Iterable[Arrival]) -> None:
        self._arrivals = set(arrivals)
        self.gone = asyncio.Event()
        self._check()

    def __repr__(self) -> str:
        return f"<Leaving {len(self)}>"

    def __len__(self) -> int:
        return len(self._arrivals)

    def __contains__(self, arrival: object) -> bool:
        return arrival in self._arrivals

    def ended(self, arrival: Arrival) -> None:
        """Remove a connection that has ended. It may belong to the destination and not to this set."""
        self._arrivals.discard(arrival)
        self._check()

    def _check(self) -> None:
        if not self._arrivals:
            self.gone.set()
