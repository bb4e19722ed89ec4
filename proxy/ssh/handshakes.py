"""What gateways of one SSH server have in common: how many handshakes at a time, and who has been refused there.

sshd counts by address, and all gateways dial from one. MaxStartups drops connections from the tenth handshake on;
PerSourcePenalties (9.8) add up refusals that come faster than one in 5 s, and from 15 s on shut the address out. A key that many
gateways share, and that a server takes no more, would get there at once. So a key that has not been accepted for a while is
tried by one of them first, and a refusal counts for all that would show the same.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol
from weakref import WeakSet, ref

from proxy.errors import LinkError, RetryClass
from proxy.ssh.errors import again
from proxy.ssh.governor import HANDSHAKES_IN_FLIGHT, Backoff

PROVEN_S: Final = 5.0
"""After an acceptance others need not wait for each other. A herd that comes back keeps proving itself."""

MAX_KNOWN: Final = 1000
"""Of those that nobody has refused, it does no harm to forget some."""


class Hurried(Protocol):
    """Whoever waits because of a refusal."""

    def hurry(self) -> None:
        """What was refused has been accepted: dial now."""


class _Standing:
    """What one server thinks of one identity."""

    def __init__(self) -> None:
        self.accepted_at = float("-inf")
        self.trial: asyncio.Future[None] | None = None
        self.refusal: LinkError | None = None
        self.refused: ref[Hurried] | None = None
        """Who got it."""
        self.refused_until = 0.0
        self.backoff = Backoff()
        self.waiting: WeakSet[Hurried] = WeakSet()


class Handshakes(defaultdict[str, asyncio.Semaphore]):
    """How many handshakes may be in flight with each SSH server (`HOST:PORT`), over all gateways."""

    def __init__(self) -> None:
        super().__init__(lambda: asyncio.Semaphore(HANDSHAKES_IN_FLIGHT))
        self._standings: dict[tuple[str, str], _Standing] = {}

    @asynccontextmanager
    async def trial(
        self, server: str, identity: str, *, who: Hurried | None = None, is_ordered: bool = False
    ) -> AsyncIterator[None]:
        """The time in which `server` is shown `identity`: a name for the user, keys and known_hosts that decide how it ends.

        Waits while another is the first to try. If that one was refused, raises what it got, without a dial: the next attempt of
        all is due when the backoff of that refusal is over, and `who` is hurried if it is accepted before. `is_ordered`: somebody
        says that it is worth a try.
        """
        standing = self._standing(server, identity)
        own = await self._enter(standing, who, is_ordered=is_ordered)
        try:
            yield
        except LinkError as exc:
            if exc.retry is RetryClass.SLOW:
                self._refused(standing, exc, who)
            raise
        else:
            self._accepted(standing)
        finally:
            if own is not None:
                standing.trial = None
                own.set_result(None)

    def _standing(self, server: str, identity: str) -> _Standing:
        if len(self._standings) > MAX_KNOWN:
            self._standings = {key: one for key, one in self._standings.items() if one.trial or one.refusal}
        return self._standings.setdefault((server, identity), _Standing())

    async def _enter(self, standing: _Standing, who: Hurried | None, *, is_ordered: bool) -> asyncio.Future[None] | None:
        """Returns the trial that others wait for, None if they need not. Raises LinkError."""
        loop = asyncio.get_running_loop()
        while standing.trial is not None:
            await asyncio.shield(standing.trial)
            if standing.refusal is None:  # accepted; or nobody answered, and that is not worth waiting for once more
                return None
            is_ordered = False  # the answer is a moment old
        if standing.refusal is not None:
            is_own = who is not None and standing.refused == ref(who)  # its own backoff has let it through
            if not (is_ordered or is_own) and loop.time() < standing.refused_until:
                if who is not None:
                    standing.waiting.add(who)
                raise again(standing.refusal)
        elif loop.time() - standing.accepted_at < PROVEN_S:
            return None
        standing.trial = loop.create_future()
        return standing.trial

    def _refused(self, standing: _Standing, exc: LinkError, who: Hurried | None) -> None:
        standing.refusal = again(exc)
        standing.accepted_at = float("-inf")
        standing.refused_until = asyncio.get_running_loop().time() + standing.backoff.failed(RetryClass.SLOW)
        if who is not None:
            standing.refused = ref(who)
            standing.waiting.add(who)

    def _accepted(self, standing: _Standing) -> None:
        standing.accepted_at = asyncio.get_running_loop().time()
        if standing.refusal is not None:
            standing.refusal = None
            standing.backoff = Backoff()
            waiting, standing.waiting = list(standing.waiting), WeakSet()
            for one in waiting:
                one.hurry()
