"""Probes one cluster again and again, counts the results, and logs each change between up and down."""

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
"""Seconds between the probes of a cluster that is down but has answered again.

Its clients are already served, so it should count as up soon.
"""
SOON_WITHIN: Final = 1.0
"""Seconds over which the probes of all clusters behind a gateway are spread when its links change.

Several calls of `probe_soon` within that time cause one probe.
"""
JITTER: Final = 0.1


class Monitor:
    """Probes one cluster while `run()` runs: one probe at a time, with random differences in the interval."""

    def __init__(
        self,
        name: str,
        config: ClusterConfig,
        dial: Dial,
        metrics: Metrics,
        on_change: Callable[[], None],
        *,
        contexts: Contexts | None = None,
        is_idle: Callable[[], bool] = lambda: False,
    ) -> None:
        """`on_change` is called after `state` has changed. While the cluster `is_idle` it is not probed.

        Monitors with the same `contexts` share the CAs that they have read.
        """
        self._name = name
        self._config = config
        self._dial = dial
        self._record = metrics.cluster(name)
        self._on_change = on_change
        self._contexts = contexts or Contexts()
        self._is_idle = is_idle
        self._place = Place(f"files of cluster {name}")
        self._hysteresis = Hysteresis(config.probe.threshold)
        self._soon = asyncio.Event()
        self._outcome: Outcome | None = None

    def __repr__(self) -> str:
        return (
            f"<Monitor {self._name} {self.state} {self._outcome.result if self._outcome else 'not probed'}>"
        )

    @property
    def state(self) -> ClusterState:
        """The state of the cluster. It changes only after enough equal results in a row."""
        return self._hysteresis.state

    @property
    def outcome(self) -> Outcome | None:
        """The outcome of the last probe; None until the first probe has ended."""
        return self._outcome

    def probe_soon(self) -> None:
        """Probe before the next interval: something on the way to the cluster has changed.

        If a probe is running now, another one follows it.
        """
        self._soon.set()

    def reconfigure(self, config: ClusterConfig) -> None:
        """Use other settings, or the new contents of files, from now on. The results so far still count."""
        self._config = config
        # A new Place, because a thread of the old one may hang in a file that is no longer configured.
        self._place = Place(f"files of cluster {self._name}")
        self._hysteresis.threshold = config.probe.threshold
        self.probe_soon()

    async def run(self) -> None:
        """Probe until cancelled."""
        await self._wait(random.uniform(0, min(FIRST_WITHIN, self._config.probe.interval)))  # noqa: S311 - spreads load, guards nothing
        while True:
            self._soon.clear()
            if self._is_idle():
                self._become_idle()
            else:
                outcome = await self._probe()
                # The link may have been closed meanwhile because no client needs it.
                self._become_idle() if self._is_idle() else self._apply(outcome)
            pause = self._config.probe.interval
            if self._hysteresis.is_recovering:
                pause = min(pause, CONFIRM_S)
            await self._wait(pause * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 - spreads load, guards nothing

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._soon.wait()
        except TimeoutError:
            return
        await asyncio.sleep(random.uniform(0, SOON_WITHIN))  # noqa: S311 - spreads load, guards nothing

    async def _probe(self) -> Outcome:
        try:
            return await probe(self._name, self._config, self._dial, self._contexts, self._place)
        except Exception:
            # A bug in kubemux. It counts as a failed probe: the state must not stay `up` without probes.
            log.exception("probe failed to run", cluster=self._name)
            return Outcome(
                Result.INTERNAL, "the probe failed to run", Result.INTERNAL.hint, 0.0, Stage.CHANNEL
            )

    def _become_idle(self) -> None:
        if self._hysteresis.become_idle():
            log.info("cluster idle", cluster=self._name)
            self._record.up = self._outcome = None
            self._on_change()

    def _apply(self, outcome: Outcome) -> None:
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
                # Otherwise the last log line would still give the first reason, which may be repaired by now.
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
