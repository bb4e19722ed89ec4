"""Which API server of a cluster gets a connection, and which error is reported when all of them fail.

The daemon and `kubemux probe` both use this code, so that they never disagree about a cluster.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Final

from proxy.errors import ChannelError, MemoryExhausted
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel, Way
from proxy.relay.probing import Dialled, relayed_socket
from proxy.relay.waiting import WaitingForMemory
from proxy.runtime.endpoint import Endpoint

PROBE_HOLD_S: Final = 1.0
"""How long a probe waits for a link: longer than a usual reconnect, short enough to notice a dead gateway."""

_PROBE: Final = Endpoint("127.0.0.1", 0)


class Failover:
    """The API servers of one cluster, in the order in which they are tried.

    The first server stays first as long as a channel to it can be opened. If that fails, it becomes the last
    one, and `on_next` is called with it and with the server that is first now.
    """

    def __init__(
        self,
        api_servers: Sequence[Endpoint],
        budget: MemoryBudget,
        waiting: WaitingForMemory,
        *,
        order: Sequence[Endpoint] = (),
        on_next: Callable[[Endpoint, Endpoint], None] = lambda _failed, _first: None,
    ) -> None:
        """`api_servers` is as configured. `order` is the order of another Failover, to begin with."""
        self._api_servers = api_servers
        self._order = sorted(api_servers, key=lambda server: order.index(server) if server in order else -1)
        self._budget = budget
        self._waiting = waiting
        self._on_next = on_next

    @property
    def order(self) -> tuple[Endpoint, ...]:
        """The order in which the next client tries the servers."""
        return tuple(self._order)

    async def open_channel(
        self,
        way: Way,
        *,
        origin: Endpoint,
        hold_until: float,
        answer_by: float = math.inf,
        is_needed: bool = True,
    ) -> tuple[Channel, Endpoint]:
        """Open a channel through `way`, as soon as there is a link and memory for it (`Way.open_channel`).

        Returns the channel, and the API server that it leads to. All API servers together have until
        `answer_by`: each gets an equal share of the time that is left.

        Raises ProxyError. If every API server fails, it is the error of the server that is configured first:
        the order of the others depends on earlier clients.
        """
        failures: dict[Endpoint, ChannelError] = {}
        untried = list(self._order)
        while untried:
            server = untried[0]
            try:
                channel = await way.open_channel(
                    server,
                    origin=origin,
                    hold_until=hold_until,
                    answer_by=answer_by if len(untried) == 1 else _share(answer_by, len(untried)),
                    is_needed=is_needed,
                )
            except MemoryExhausted as exc:
                try:
                    await self._waiting.wait(hold_until)
                except TimeoutError:
                    raise exc from None
            except ChannelError as exc:
                failures[server] = exc
                self._demote(server)
                del untried[0]
            else:
                return channel, server
        raise failures[self._api_servers[0]]

    async def dial_probe(self, way: Way, deadline: float, *, is_needed: bool = False) -> Dialled:
        """A connection for a probe, which reaches an API server in the same way as a client. It waits for a
        link until `deadline` (the loop's clock, seconds) at most. Only if it `is_needed`, a gateway is
        dialled on demand for it.

        Raises ProxyError.
        """
        hold_until = min(deadline, asyncio.get_running_loop().time() + PROBE_HOLD_S)
        channel, server = await self.open_channel(
            way, origin=_PROBE, hold_until=hold_until, is_needed=is_needed
        )
        return Dialled(await relayed_socket(channel, self._budget), server)

    def _demote(self, server: Endpoint) -> None:
        if len(self._order) > 1 and self._order[0] == server:
            self._order.append(self._order.pop(0))
            self._on_next(server, self._order[0])


def _share(answer_by: float, servers: int) -> float:
    """The deadline of the first of `servers` API servers, if each gets an equal share of the time."""
    now = asyncio.get_running_loop().time()
    return now + (answer_by - now) / servers
