"""What gateways on the same SSH server share: the slots for handshakes, and which keys the server has
refused.

sshd counts by client address, and all our gateways dial from the same one. MaxStartups drops connections from
the tenth handshake on. PerSourcePenalties (9.8) add up refusals that come faster than one in 5 s; at 15 s
sshd refuses our address, also with good keys.

So each attempt that may be refused waits for its turn (`proxy.ssh.governor.LoginPace`); attempts that will
probably be accepted go first. If many gateways use the same key, one of them tries it, and a refusal counts
for all.
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
from proxy.ssh.errors import without_traceback
from proxy.ssh.governor import HANDSHAKES_IN_FLIGHT, Backoff, LoginPace

PROVEN_S: Final = 5.0
"""For this long after a key was accepted, gateways with the same key do not wait for each other.

When many gateways dial together, each acceptance extends it.
"""

MAX_KNOWN: Final = 1000
"""How many servers and keys are remembered. Above that, those without a refusal are forgotten (harmless)."""


class RefusedGateway(Protocol):
    """A gateway that waits because its key was refused."""

    def dial_now(self) -> None:
        """The key has been accepted: dial now."""


class _Rank(IntEnum):
    """The order in which attempts get their turn."""

    PROVEN = 0
    """The key was accepted less than PROVEN_S ago. It does not wait."""
    LIKELY = 1
    """The key was accepted the last time, or the operator has ordered the attempt.

    It waits only if the server has refused something lately.
    """
    NEW = 2
    REFUSED = 3


class _Standing:
    """What one server has answered to one identity (user and keys)."""

    def __init__(self) -> None:
        self.accepted_at = float("-inf")
        self.trial: asyncio.Future[None] | None = None
        self.refusal: LinkError | None = None
        self.refused: ref[RefusedGateway] | None = None
        """The gateway that was refused."""
        self.refused_until = 0.0
        self.backoff = Backoff()
        self.waiting: WeakSet[RefusedGateway] = WeakSet()

    def is_remembered(self, now: float) -> bool:
        """Whether it must not be forgotten: it is tried now, or a refusal still holds."""
        return self.trial is not None or (self.refusal is not None and now < self.refused_until)

    def rank(self, now: float, *, is_ordered: bool) -> _Rank:
        if now - self.accepted_at < PROVEN_S:
            return _Rank.PROVEN
        if is_ordered or self.accepted_at > float("-inf"):
            return _Rank.LIKELY
        return _Rank.REFUSED if self.refusal else _Rank.NEW


class _Server:
    """One sshd, with all gateways that dial it."""

    def __init__(self) -> None:
        self.slots = asyncio.Semaphore(HANDSHAKES_IN_FLIGHT)
        self._pace = LoginPace()
        self._queue: list[tuple[_Rank, int]] = []
        self._numbers = count()
        self._released = 0
        """Attempts with a lower number need no turn any more."""
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def is_idle(self, now: float) -> bool:
        return self._pace.is_quiet(now) and not (self._pace.trying or self._queue or self.slots.locked())

    @asynccontextmanager
    async def turn(self, rank: _Rank) -> AsyncIterator[Callable[[], None]]:
        """Wait until one more refusal would do no harm. While the block runs, a refusal may come.

        The block gets a function, and calls it when no refusal can come any more.
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
            elif exc.stage is Stage.TCP:
                # Nothing listens there, so nothing refuses. Without this, the queue would wait for many
                # timeouts.
                self._released = next(self._numbers)
            raise
        finally:
            end()

    async def _is_released(self, ticket: tuple[_Rank, int], loop: asyncio.AbstractEventLoop) -> bool:
        """Wait for the turn of `ticket`; True if all waiting attempts were released before it came."""
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
    """What is known of the SSH servers, and which gateway may try a login now.

    A server is identified by address and port, because sshd counts refusals together for all its names. Other
    ports are other servers: many sites may be behind one address.
    """

    def __init__(self) -> None:
        self._servers: dict[str, _Server] = {}
        self._standings: dict[tuple[str, str], _Standing] = {}

    def slots(self, server: str) -> asyncio.Semaphore:
        """The slots for handshakes with `server`."""
        return self._server(server).slots

    @asynccontextmanager
    async def trial(
        self, server: str, identity: str, *, who: RefusedGateway | None = None, is_ordered: bool = False
    ) -> AsyncIterator[Callable[[], None]]:
        """A login attempt: the block dials `server`, which accepts or refuses `identity`.

        `identity` names everything that the outcome depends on: user, keys, known_hosts. Before the block
        runs, the call waits while another gateway tries the same identity, then for its turn, then for a
        slot.

        If that other gateway was refused, this raises the same error without a dial. All of them try again
        after the backoff of that refusal. If one is accepted before, `dial_now` of `who` is called.
        `is_ordered`: the operator wants a try now.

        The block gets a function, and calls it when the server has accepted the key, but the login still
        waits for something else: the turn goes to the next attempt, and the slot is kept.
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
            now = asyncio.get_running_loop().time()
            self._standings = {key: one for key, one in self._standings.items() if one.is_remembered(now)}
        return self._standings.setdefault((server, identity), _Standing())

    async def _enter(
        self, standing: _Standing, who: RefusedGateway | None, *, is_ordered: bool
    ) -> asyncio.Future[None] | None:
        """Wait while another trial runs. Returns a new trial that others must wait for, None if they need
        not.

        Raises LinkError.
        """
        loop = asyncio.get_running_loop()
        while standing.trial is not None:
            await asyncio.shield(standing.trial)
            if standing.refusal is None:
                # It was accepted; or nobody answered, and a gateway that has waited once need not wait again
                return None
            is_ordered = False  # the answer is newer than the order
        if standing.refusal is not None:
            # The gateway that was refused has waited for its own backoff, which has ended.
            is_own = who is not None and standing.refused == ref(who)
            if not (is_ordered or is_own) and loop.time() < standing.refused_until:
                if who is not None:
                    standing.waiting.add(who)
                raise without_traceback(standing.refusal)
        elif standing.rank(loop.time(), is_ordered=is_ordered) is _Rank.PROVEN:
            return None
        standing.trial = loop.create_future()
        return standing.trial

    def _refused(self, standing: _Standing, exc: LinkError, who: RefusedGateway | None) -> None:
        standing.refusal = without_traceback(exc)
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
                one.dial_now()
