"""Probes one cluster again and again: schedule, state, metrics, and a log line for each change of state."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

import structlog

from proxy.config.model import ClusterConfig
from proxy.errors import Stage
from proxy.health.hysteresis import Hysteresis
from proxy.health.probe import Dial, probe
from proxy.health.result import Outcome, Result
from proxy.health.tls import Contexts
from proxy.metrics import Metrics
from proxy.runtime.blocking import Place
from proxy.snapshots import ClusterState

log = structlog.get_logger("kubemux.health")

FIRST_WITHIN: Final = 1.0
"""Seconds over which the first probes of all clusters are spread."""
CONFIRM_S: Final = 1.0
"""Seconds between the probes of a cluster that answers again: its clients are served already."""
POKED_WITHIN: Final = 1.0
"""Seconds over which the probes of all clusters behind a gateway are spread when its links change. Several
pokes within that time cause one probe.
"""
JITTER: Final = 0.1


class Monitor:
    """Probes one cluster on a jittered schedule while `run()` runs, one at a time."""

    def __init__(
        self,
        name: str,
        config: ClusterConfig,
        dial: Dial,
        metrics: Metrics,
        on_change: Callable[[], None],
        *,
        contexts: Contexts | None = None,
    ) -> None:
        """`on_change` is called after `state` has changed.

        Monitors given the same `contexts` share what they read of CAs.
        """
        self._name = name
        self._config = config
        self._dial = dial
        self._record = metrics.cluster(name)
        self._on_change = on_change
        self._contexts = contexts or Contexts()
        self._place = Place(f"files of cluster {name}")
        self._hysteresis = Hysteresis(config.probe.threshold)
        self._poked = asyncio.Event()
        self._outcome: Outcome | None = None

    def __repr__(self) -> str:
        return (
            f"<Monitor {self._name} {self.state} {self._outcome.result if self._outcome else 'not probed'}>"
        )

    @property
    def state(self) -> ClusterState:
        """The state after enough equal results in a row."""
        return self._hysteresis.state

    @property
    def outcome(self) -> Outcome | None:
        """The outcome of the last probe; None before the first has ended."""
        return self._outcome

    def poke(self) -> None:
        """Probe soon, because something has changed between here and the cluster.

        If a probe runs now, there is one more after it.
        """
        self._poked.set()

    def reconfigure(self, config: ClusterConfig) -> None:
        """Probe by other settings, or with files that have changed, from now on; the results so far go on to
        count.
        """
        self._config = config
        self._place = Place(f"files of cluster {self._name}")  # other files perhaps than the one that hangs
        self._hysteresis.threshold = config.probe.threshold
        self.poke()

    async def run(self) -> None:
        """Probe until cancelled."""
        await self._wait(random.uniform(0, min(FIRST_WITHIN, self._config.probe.interval)))  # noqa: S311 - spreads load, guards nothing
        while True:
            self._poked.clear()
            self._take(await self._probe())
            pause = self._config.probe.interval
            if self._hysteresis.is_recovering:
                pause = min(pause, CONFIRM_S)
            await self._wait(pause * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 - spreads load, guards nothing

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._poked.wait()
        except TimeoutError:
            return
        await asyncio.sleep(random.uniform(0, POKED_WITHIN))  # noqa: S311 - spreads load, guards nothing

    async def _probe(self) -> Outcome:
        try:
            return await probe(self._name, self._config, self._dial, self._contexts, self._place)
        except Exception:
            # A bug in kubemux. Monitoring goes on and reports it: a state that stays `up` would be worse.
            log.exception("probe failed to run", cluster=self._name)
            return Outcome(
                Result.INTERNAL, "the probe failed to run", Result.INTERNAL.hint, 0.0, Stage.CHANNEL
            )

    def _take(self, outcome: Outcome) -> None:
        before, self._outcome = self._outcome, outcome
        name, result = self._name, outcome.result
        self._record.probes[result] += 1
        self._record.probe_duration.observe(outcome.seconds)
        for kind, expiry in outcome.expiries:
            self._record.certificate_expiry[kind] = expiry
        if not self._hysteresis.feed(alive=result.alive):
            if (
                self.state is ClusterState.DOWN
                and before is not None
                and before.result != result
                and not result.alive
            ):
                # Otherwise the last log line would still say why it went down, long after that was repaired.
                log.warning(
                    "cluster still down",
                    cluster=name,
                    result=result,
                    was=before.result,
                    message=outcome.message,
                    hint=outcome.hint,
                )
            return
        self._record.up = result.alive
        if result.alive:
            log.info("cluster up", cluster=name, result=result, message=outcome.message)
        else:
            log.warning(
                "cluster down", cluster=name, result=result, message=outcome.message, hint=outcome.hint
            )
        self._on_change()
