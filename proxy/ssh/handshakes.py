"""What gateways of one SSH server have in common: how many handshakes at a time, and who has been refused
there.

sshd counts by address, and all gateways dial from one. MaxStartups drops connections from the tenth handshake
on; PerSourcePenalties (9.8) add up refusals that come faster than one in 5 s, and over 15 s shut the address
out, for good keys, too. So whoever may be refused waits for its turn (`proxy.ssh.governor.Pace`), those first
that are likely to be accepted. A key that many gateways share is tried by one of them, and a refusal counts
for all that would show the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import IntEnum
from itertools import count
from typing import Final, Protocol
from weakref import WeakSet, ref

from proxy.errors import LinkError, RetryClass, Stage
from proxy.ssh import governor
from proxy.ssh.errors import again
from proxy.ssh.governor import HANDSHAKES_IN_FLIGHT, Backoff, Pace

PROVEN_S: Final = 5.0
"""After an acceptance others need not wait for each other. A herd that comes back keeps proving itself."""

MAX_KNOWN: Final = 1000
"""Of those that nobody has refused, it does no harm to forget some."""


class Hurried(Protocol):
    """Whoever waits because of a refusal."""

    def hurry(self) -> None:
        """What was refused has been accepted: dial now."""


class _Rank(IntEnum):
    """Who goes first, of those that may be refused."""

    PROVEN = 0
    """It was accepted a moment ago, and need not wait."""
    LIKELY = 1
    """It was accepted the last time, or somebody has ordered it.

    Where nothing has been refused lately it need not wait.
    """
    NEW = 2
    REFUSED = 3


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

    def rank(self, now: float, *, is_ordered: bool) -> _Rank:
        if now - self.accepted_at < PROVEN_S:
            return _Rank.PROVEN
        if is_ordered or self.accepted_at > float("-inf"):
            return _Rank.LIKELY
        return _Rank.REFUSED if self.refusal else _Rank.NEW


class _Server:
    """One sshd, for all gateways that lead there."""

    def __init__(self) -> None:
        self.slots = asyncio.Semaphore(HANDSHAKES_IN_FLIGHT)
        self._pace = Pace()
        self._queue: list[tuple[_Rank, int]] = []
        self._numbers = count()
        self._released = 0
        """Those with a lower number need not wait any more."""
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def is_idle(self, now: float) -> bool:
        return self._pace.is_quiet(now) and not (self._pace.trying or self._queue or self.slots.locked())

    @asynccontextmanager
    async def turn(self, rank: _Rank) -> AsyncIterator[Callable[[], None]]:
        """Wait until a refusal can do no harm; then is the time in which there may be one.

        It is over when the block is left, or before that when the block calls what it is given.
        """
        loop = asyncio.get_running_loop()
        is_free = rank is _Rank.PROVEN or (rank is _Rank.LIKELY and self._pace.is_quiet(loop.time()))
        is_trying = 0 if is_free or await self._is_released((rank, next(self._numbers)), loop) else 1
        self._pace.trying += is_trying

        def end() -> None:
            nonlocal is_trying
            self._pace.trying -= is_trying
            is_trying = 0
            self._wake(loop)

        try:
            yield end
        except LinkError as exc:
            if exc.retry is RetryClass.SLOW and exc.is_counted:
                self._pace.refused(
                    loop.time(), governor.REFUSAL_S if exc.stage is Stage.AUTH else governor.LEFT_S
                )
            elif (
                exc.stage is Stage.TCP
            ):  # nobody is there to refuse anything; else a herd of timeouts would stand in line
                self._released = next(self._numbers)
            raise
        finally:
            end()

    async def _is_released(self, ticket: tuple[_Rank, int], loop: asyncio.AbstractEventLoop) -> bool:
        """Wait for the turn, or until that is not necessary."""
        self._queue.append(ticket)
        try:
            while ticket[1] >= self._released:
                is_first, seconds = ticket == min(self._queue), self._pace.wait(loop.time())
                if is_first and seconds <= 0:
                    return False
                await asyncio.wait([self._changed], timeout=seconds if is_first else None)
            return True
        finally:
            self._queue.remove(ticket)
            self._wake(loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        self._changed.set_result(None)
        self._changed = loop.create_future()


class Handshakes:
    """What is known of SSH servers.

    A server is its address and port: sshd counts for all names that lead to it.

    Other ports are others' servers: those of many sites behind one address.
    """

    def __init__(self) -> None:
        self._servers: dict[str, _Server] = {}
        self._standings: dict[tuple[str, str], _Standing] = {}

    def slots(self, server: str) -> asyncio.Semaphore:
        """How many handshakes may be in flight."""
        return self._server(server).slots

    @asynccontextmanager
    async def trial(
        self, server: str, identity: str, *, who: Hurried | None = None, is_ordered: bool = False
    ) -> AsyncIterator[Callable[[], None]]:
        """The time in which `server` is shown `identity`: a name for the user, keys and known_hosts that
        decide how it ends.

        Waits while another is the first to try, and for its turn and a slot. If that other one was refused,
        raises what it got, without a dial: the next attempt of all is due when the backoff of that refusal is
        over, and `who` is hurried if it is accepted before. `is_ordered`: somebody says that it is worth a
        try.

        What it gives is to be called when the server has said that it takes the key, and the login has to
        wait for something else: others may have the turn then. The slot is kept.
        """
        standing = self._standing(server, identity)
        own = await self._enter(standing, who, is_ordered=is_ordered)
        at = self._server(server)
        rank = standing.rank(asyncio.get_running_loop().time(), is_ordered=is_ordered)
        try:
            async with at.turn(rank) as end_turn, at.slots:
                yield end_turn
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

    def _server(self, server: str) -> _Server:
        if len(self._servers) > MAX_KNOWN:
            now = asyncio.get_running_loop().time()
            self._servers = {key: one for key, one in self._servers.items() if not one.is_idle(now)}
        return self._servers.setdefault(server, _Server())

    def _standing(self, server: str, identity: str) -> _Standing:
        if len(self._standings) > MAX_KNOWN:
            self._standings = {key: one for key, one in self._standings.items() if one.trial or one.refusal}
        return self._standings.setdefault((server, identity), _Standing())

    async def _enter(
        self, standing: _Standing, who: Hurried | None, *, is_ordered: bool
    ) -> asyncio.Future[None] | None:
        """Returns the trial that others wait for, None if they need not. Raises LinkError."""
        loop = asyncio.get_running_loop()
        while standing.trial is not None:
            await asyncio.shield(standing.trial)
            if (
                standing.refusal is None
            ):  # accepted; or nobody answered, and that is not worth waiting for once more
                return None
            is_ordered = False  # the answer is a moment old
        if standing.refusal is not None:
            is_own = who is not None and standing.refused == ref(who)  # its own backoff has let it through
            if not (is_ordered or is_own) and loop.time() < standing.refused_until:
                if who is not None:
                    standing.waiting.add(who)
                raise again(standing.refusal)
        elif standing.rank(loop.time(), is_ordered=is_ordered) is _Rank.PROVEN:
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
