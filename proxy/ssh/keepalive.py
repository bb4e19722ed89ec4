"""A link's keepalive: it finds a peer that does not answer any more, and measures the round trip.

asyncssh's own keepalive measures nothing, and it counts any packet as an answer. So it would keep a link
whose other direction is dead, as long as events of a watch arrive. It is switched off. Here, if other packets
arrive, or this process was held up, the peer gets one interval more, because its answer may wait to be read.

The keepalive is all that an idle link costs. So it has one timer, and no task. A client of our SSH server is
asked nothing at its login: a thousand sites may log in at once, and most of them stay idle for a while.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Final

from proxy.config.model import KeepaliveConfig
from proxy.ssh import internals
from proxy.ssh.data_plane import DataPlane
from proxy.ssh.login.options import ticks

_ROUND_TRIPS: Final = 8
"""How many measurements are kept.

The shortest is taken as the round trip without load. The others may have waited behind a download, and
windows must not grow for that.
"""

_AT_FIRST: Final = 3
"""How many measurements follow each other quickly. On a link to a gateway they begin when the link starts. On
a link of a client of our SSH server they begin with the first channel.

With a single one, a busy start measured 9 ms on loopback. Windows grew to 11 MiB because of it, until the
next measurement 15 s later.
"""

_AT_FIRST_S: Final = 0.5
"""Seconds between two of them."""

BUSY: Final = 64 << 10
"""Bytes in full packets that count as an answer if they arrive or leave in one interval.

The real answer waits in the queue behind them, on a slow link for longer than the keepalive allows. If one
direction is dead, full packets end, too, because no credit arrives.
"""

LATE_S: Final = 0.1
"""If the timer fires later than this, the process was held up, for example by a machine that was paused."""


class Keepalive:
    """Asks the peer of one connection for an answer, again and again."""

    def __init__(self, conn: internals.Connection, plane: DataPlane) -> None:
        self._conn = conn
        self._plane = plane
        self._loop = asyncio.get_running_loop()
        self._ask = internals.pinger(conn, self._answered, plane.send_directly)
        self._settings: KeepaliveConfig | None = None
        self._interval = 0.0
        self._on_rtt: Callable[[float], None]
        """Set by `start`, like `_on_missed`."""
        self._on_missed: Callable[[int], None]
        self._timer: asyncio.TimerHandle | None = None
        self._is_waiting = False
        self._sent = 0.0
        self._bulk = 0
        self._received = 0
        self._has_more_time = False
        self._is_hurried = not conn.is_server()
        self._missed = 0
        self._round_trips: deque[float] = deque(maxlen=_ROUND_TRIPS)
        self.rtt: float | None = None
        """The last round trip in seconds."""

    def start(
        self, settings: KeepaliveConfig, on_rtt: Callable[[float], None], on_missed: Callable[[int], None]
    ) -> None:
        """Call `on_rtt` with each round trip, and `on_missed` after each interval without the answer, with
        the number of such intervals. Call `start` again to change the settings or the callbacks.

        The intervals are a little shorter than the setting (`ticks`), so that a peer is found silent after
        `interval` × `max_missed`.
        """
        self._on_rtt, self._on_missed = on_rtt, on_missed
        if settings == self._settings:
            return
        self._settings = settings
        self._interval, _ = ticks(settings)
        internals.stop_keepalive(self._conn)
        self.stop()
        if self._is_hurried and not self._is_waiting:
            self._tick()
        else:
            self._missed = 0
            self._timer = self._loop.call_later(self._interval, self._tick)

    def hurry(self) -> None:
        """Measure now, and quickly at first: a client uses the link."""
        if self._is_hurried:
            return
        self._is_hurried = True
        if self._timer is not None and not self._is_waiting:
            self._timer.cancel()
            self._tick()

    def stop(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        if internals.is_gone(self._conn):
            self._timer = None
            return
        is_late = self._timer is not None and self._loop.time() - self._timer.when() > LATE_S
        self._timer = self._loop.call_later(self._interval, self._tick)
        bulk = self._plane.bulk
        if not self._is_waiting:
            self._is_waiting, self._missed = True, 0
            self._received, self._has_more_time = self._plane.received, False
            self._sent = perf_counter()  # not the loop's clock: it counts milliseconds
            self._ask()
        elif not self._has_more_time and (is_late or self._plane.received != self._received):
            self._has_more_time = True
        elif bulk - self._bulk >= BUSY:
            self._missed = 0
        else:
            self._missed += 1
            self._on_missed(self._missed)
        self._bulk = bulk

    def _answered(self) -> None:
        if internals.is_gone(self._conn):  # asyncssh answers open requests itself when a connection ends
            return
        self._is_waiting = False
        self.rtt = perf_counter() - self._sent
        self._round_trips.append(self.rtt)
        self._plane.round_trip = min(self._round_trips)
        is_early = self._is_hurried and len(self._round_trips) < _AT_FIRST
        if is_early and self._interval > _AT_FIRST_S and self._timer is not None:
            self._timer.cancel()
            self._timer = self._loop.call_later(_AT_FIRST_S, self._tick)
        self._on_rtt(self.rtt)
