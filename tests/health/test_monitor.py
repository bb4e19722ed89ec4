"""The schedule of probes, the state and its log entries, with a server whose answers change."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from proxy.config.model import ClusterConfig
from proxy.errors import ChannelRefused, LinkDown, ProxyError
from proxy.health import monitor as monitor_module
from proxy.health.lag import watch_lag
from proxy.health.monitor import Monitor
from proxy.health.probe import Dial
from proxy.health.result import Result
from proxy.metrics import Metrics
from proxy.relay.probing import Dialled
from proxy.runtime.tasks import Tasks
from proxy.snapshots import ClusterState
from tests.health.scripted import NOWHERE, OK, Dialer, Pki, Scripted, answers, cluster, server_context

BAD = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"


class Watched:
    """A running monitor, the changes that it reports, and its metrics."""

    def __init__(self, dial: Dial, config: ClusterConfig) -> None:
        self.is_idle = False
        self.registry = CollectorRegistry()
        self.changes: asyncio.Queue[ClusterState] = asyncio.Queue()
        metrics = Metrics(self.registry, version="0")
        self.monitor = Monitor(
            "prod",
            config,
            dial,
            metrics,
            lambda: self.changes.put_nowait(self.monitor.state),
            is_idle=lambda: self.is_idle,
        )

    async def change(self) -> ClusterState:
        return await asyncio.wait_for(self.changes.get(), 30)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"kubemux_{name}", {"cluster": "prod", **labels})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = Tasks("test")
        tasks.spawn(self.monitor.run(), name="monitor")
        try:
            yield
        finally:
            await tasks.close()


@pytest.fixture(autouse=True)
def _promptly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_module, "FIRST_WITHIN", 0.01)
    monkeypatch.setattr(monitor_module, "SOON_WITHIN", 0.01)


async def test_a_cluster_that_is_back_is_confirmed_soon(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster's clients are served again, so the alert should not stay for two more intervals."""
    monkeypatch.setattr(monitor_module, "CONFIRM_S", 0.01)
    async with Scripted(answers(BAD), tls=server_context(pki.good)) as server:
        watched = Watched(
            Dialer(server.endpoint),
            cluster(server.endpoint, pki.authority.ca.cert, interval="1h", threshold=3),
        )
        async with watched.running():
            assert await watched.change() is ClusterState.DOWN
            server.script = answers(OK)
            watched.monitor.probe_soon()
            assert await watched.change() is ClusterState.UP


async def test_an_idle_cluster_is_not_probed_and_forgets_its_state(pki: Pki) -> None:
    """A probe that runs when the cluster becomes idle does not count, either."""
    async with Scripted(answers(OK), tls=server_context(pki.good)) as server:
        dialer = Dialer(server.endpoint)

        async def dial(deadline: float) -> Dialled:
            if len(probed) == 1:
                watched.is_idle = True
                probed.append("cut off")
                raise LinkDown("closed because no client needs it")
            probed.append("up")
            return await dialer(deadline)

        probed: list[str] = []
        config = cluster(server.endpoint, pki.authority.ca.cert, interval="10ms", threshold=1)
        watched = Watched(dial, config)
        async with watched.running():
            assert await watched.change() is ClusterState.UP
            assert await watched.change() is ClusterState.IDLE
            assert probed == ["up", "cut off"]
            assert watched.sample("cluster_up") is None
            assert watched.monitor.outcome is None
            watched.is_idle = False
            watched.monitor.probe_soon()
            assert await watched.change() is ClusterState.UP
            assert watched.sample("cluster_up") == 1
            assert watched.sample("probes_total", result="link_down") is None


async def test_each_change_of_state_is_reported_once(pki: Pki) -> None:
    async with Scripted(answers(OK), tls=server_context(pki.good)) as server:
        watched = Watched(
            Dialer(server.endpoint),
            cluster(server.endpoint, pki.authority.ca.cert, interval="20ms", threshold=2),
        )
        assert watched.monitor.state is ClusterState.UNKNOWN
        assert repr(watched.monitor) == "<Monitor prod unknown not probed>"
        with capture_logs() as logs:
            async with watched.running():
                assert await watched.change() is ClusterState.UP
                assert watched.sample("cluster_up") == 1
                server.script = answers(BAD)
                assert await watched.change() is ClusterState.DOWN
                assert watched.sample("cluster_up") == 0
                assert (watched.sample("probes_total", result="unhealthy") or 0) >= 2
                server.script = answers(OK)
                assert await watched.change() is ClusterState.UP
        assert repr(watched.monitor) == "<Monitor prod up ok>"
        assert (
            watched.sample("certificate_expiry_timestamp_seconds", kind="server")
            == pki.good.not_after.timestamp()
        )
        assert (
            watched.sample("certificate_expiry_timestamp_seconds", kind="ca")
            == pki.authority.ca.not_after.timestamp()
        )
        assert watched.sample("probe_duration_seconds_count") == sum(
            watched.sample("probes_total", result=result) or 0 for result in Result
        )
    lines = [entry for entry in logs if entry["log_level"] != "debug"]
    assert [(line["event"], line["cluster"], line["result"]) for line in lines] == [
        ("cluster up", "prod", "ok"),
        ("cluster down", "prod", "unhealthy"),
        ("cluster up", "prod", "ok"),
    ]
    assert lines[1]["message"] == "HTTP 500 for /healthz"
    assert lines[1]["hint"] == Result.UNHEALTHY.hint


async def test_another_reason_for_being_down_is_logged_once() -> None:
    errors: list[ProxyError] = [LinkDown("a"), LinkDown("b"), ChannelRefused("c"), ChannelRefused("d")]
    later = asyncio.Event()

    async def dial(_deadline: float) -> Dialled:
        if errors:
            raise errors.pop(0)
        later.set()
        raise ChannelRefused("e")

    watched = Watched(dial, cluster(NOWHERE, None, interval="10ms", threshold=1))
    with capture_logs() as logs:
        async with watched.running():
            await asyncio.wait_for(later.wait(), 30)
    lines = [
        (line["event"], line["result"], line.get("was")) for line in logs if line["log_level"] == "warning"
    ]
    assert lines == [
        ("cluster down", "link_down", None),
        ("cluster still down", "channel_refused", "link_down"),
    ]


class Gate:
    """A dial that counts its calls, fails, and waits for `open` before it does."""

    def __init__(self) -> None:
        self.calls = 0
        self.running = 0
        self.called = asyncio.Semaphore(0)
        self.open = asyncio.Event()

    async def __call__(self, _deadline: float) -> Dialled:
        self.calls += 1
        self.running += 1
        assert self.running == 1, "probes overlap"
        self.called.release()
        try:
            await self.open.wait()
        finally:
            self.running -= 1
        raise LinkDown("no link of eu is up")

    async def wait(self) -> None:
        await asyncio.wait_for(self.called.acquire(), 30)


async def test_probe_soon_probes_now_and_a_burst_of_calls_probes_once() -> None:
    gate = Gate()
    gate.open.set()
    watched = Watched(gate, cluster(NOWHERE, None, interval="1h", threshold=1))
    async with watched.running():
        watched.monitor.probe_soon()  # before the first probe: it becomes that probe
        assert await watched.change() is ClusterState.DOWN
        for _ in range(100):
            watched.monitor.probe_soon()
        await gate.wait()
        await gate.wait()
        watched.monitor.probe_soon()
        await gate.wait()
    assert gate.calls == 3


async def test_probe_soon_during_a_probe_causes_another_one_after_it() -> None:
    gate = Gate()
    watched = Watched(gate, cluster(NOWHERE, None, interval="1h"))
    async with watched.running():
        await gate.wait()
        watched.monitor.probe_soon()
        watched.monitor.probe_soon()
        gate.open.set()
        await gate.wait()
    assert gate.calls == 2


async def test_probes_never_overlap_and_end_with_the_monitor() -> None:
    gate = Gate()
    watched = Watched(gate, cluster(NOWHERE, None, interval="10ms", timeout="1h"))
    async with watched.running():
        await gate.wait()
        for _ in range(50):
            watched.monitor.probe_soon()
            await asyncio.sleep(0)
        assert gate.calls == 1
    assert gate.running == 0


async def test_a_bug_is_a_result_and_monitoring_goes_on() -> None:
    bugs = [KeyError("a bug")]
    later = asyncio.Event()

    async def dial(_deadline: float) -> Dialled:
        if bugs:
            raise bugs.pop()
        later.set()
        raise LinkDown("down")

    watched = Watched(dial, cluster(NOWHERE, None, interval="10ms"))
    with capture_logs() as logs:
        async with watched.running():
            assert await watched.change() is ClusterState.DOWN
            outcome = watched.monitor.outcome
            assert outcome
            assert outcome.result is Result.INTERNAL
            await asyncio.wait_for(later.wait(), 30)
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["probe failed to run"]


async def test_the_first_probes_are_spread_and_the_next_jittered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []
    slept = asyncio.Semaphore(0)

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        slept.release()
        return 0.0

    monkeypatch.setattr(monitor_module, "FIRST_WITHIN", 1.0)
    monkeypatch.setattr("random.uniform", uniform)
    gate = Gate()
    gate.open.set()
    async with Watched(gate, cluster(NOWHERE, None, interval="10s")).running():
        for _ in range(3):
            await asyncio.wait_for(slept.acquire(), 30)
    assert asked[:3] == [(0, 1.0), (0.9, 1.1), (0.9, 1.1)]


@pytest.mark.both_loops
async def test_a_blocked_loop_is_measured_and_delays_the_heartbeat() -> None:
    registry = CollectorRegistry()
    beats: asyncio.Queue[float] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    lag = Metrics(registry, version="0")
    tasks = Tasks("test")
    tasks.spawn(watch_lag(lag, lambda: beats.put_nowait(loop.time()), interval=0.01), name="lag")
    await asyncio.wait_for(beats.get(), 30)
    while not beats.empty():  # there are more if the machine has stopped this process since
        beats.get_nowait()
    calm = registry.get_sample_value("kubemux_event_loop_lag_seconds_sum")
    block(0.2)
    assert beats.empty()
    await asyncio.wait_for(beats.get(), 30)
    blocked = registry.get_sample_value("kubemux_event_loop_lag_seconds_sum")
    await tasks.close()
    assert calm is not None
    assert blocked is not None
    assert blocked - calm >= 0.15


def block(seconds: float) -> None:
    """Block the loop, which no code of the daemon may do."""
    with socket.socket() as listener, suppress(TimeoutError):
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(seconds)
        listener.accept()
