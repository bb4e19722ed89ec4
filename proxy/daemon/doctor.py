"""One probe of a cluster, step by step, over a link of its own: what `kubemux probe` explains.

It runs in that command, or in the daemon, for somebody who may not read the keys. Then its report goes
through the admin socket.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial

from prometheus_client import CollectorRegistry

from proxy.config.model import DIRECT, ClusterConfig, Config
from proxy.errors import CredentialsUnusable, ProxyError, Stage
from proxy.health.explain import Verdict, steps
from proxy.health.probe import Dial, probe
from proxy.health.result import Outcome, unreached
from proxy.health.tls import Contexts
from proxy.metrics import Metrics
from proxy.openssh.keywords import Use
from proxy.relay.budget import MemoryBudget
from proxy.relay.direct import Direct
from proxy.relay.failover import Failover
from proxy.relay.interfaces import Way
from proxy.relay.waiting import WaitingForMemory
from proxy.runtime.blocking import Place
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.handshakes import Handshakes
from proxy.ssh.login.dial import Places
from proxy.ssh.login.options import jumps, prepare
from proxy.ssh.supervision.gateway import Gateway
from proxy.ssh.turns import Turns


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the report."""

    stage: Stage
    title: str
    verdict: Verdict
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Shown:
    """What the server's certificate claims, where it was refused."""

    names: tuple[str, ...]
    issuer: str
    not_before: str
    not_after: str
    text: str
    """All of that as a sentence."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What becomes of one option of an ssh_config."""

    host: str
    """The alias, as it was asked for."""
    file: str
    option: str
    value: str
    use: str
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """Where a probe has ended, and the remedy. `--json` prints it: fields may be added, and not renamed."""

    cluster: str
    gateway: str
    alive: bool
    result: str
    message: str
    hint: str
    stage: Stage
    """The step that it ended in."""
    status: int | None
    seconds: float
    certificate_expiry: float | None
    certificate: Shown | None
    steps: tuple[Step, ...]
    daemon: int | None = None
    """The process that has probed, if it was the daemon."""
    settings: tuple[Taken, ...] = ()
    """What the ssh_configs of the gateway and its jump hosts ask for."""

    def to_document(self) -> dict[str, object]:
        """Ready for `json.dumps`."""
        return asdict(self)


def from_document(document: object) -> Report:
    """The report that a parsed document was made from. Raises ValueError."""
    from proxy.config.reading import read  # for who asks a daemon: the daemon does without

    return read(Report, document)


class Lent:
    """What a daemon lends to probes of one cluster that are asked of it: its pace, its memory, and places for
    what may hang.

    The places are theirs, and the same for all of them: however often somebody asks, one thread of a kind
    hangs.
    """

    def __init__(
        self, handshakes: Handshakes, turns: Turns, budget: MemoryBudget, waiting: WaitingForMemory
    ) -> None:
        self.handshakes = handshakes
        self.turns = turns
        self.budget = budget
        self.waiting = waiting
        self.line: Sequence[Endpoint] = ()
        """The daemon's order of the API servers, which those that have failed lately end."""
        self.places = Places("a probe")
        self.files = Place("files of a probe")
        self.direct = Direct()


@asynccontextmanager
async def probe_dial(config: Config, name: str, lent: Lent) -> AsyncIterator[Dial]:
    """A `Dial` for cluster `name` without its listener: one link of its gateway, for as long as the context
    lasts.

    Raises LinkError, with the stage that failed, if the link does not come up.
    """
    cluster = config.clusters[name]
    way: Way = lent.direct
    gateway: Gateway | None = None
    if cluster.gateway != DIRECT:
        settings = config.gateways[cluster.gateway].model_copy(update={"connections": 1})
        metrics = Metrics(CollectorRegistry(), version="")
        gateway = Gateway(
            # not the name of the daemon's own: in its log, that would come and go
            f"{cluster.gateway} (probe)",
            settings,
            config.gateways,
            budget=lent.budget,
            turns=lent.turns,
            metrics=metrics,
            handshakes=lent.handshakes,
            places=lent.places,
        )
        await gateway.connect()
        way = gateway

    failover = Failover(cluster.api_servers, lent.budget, lent.waiting, line=lent.line)
    try:
        yield partial(failover.dial_probe, way)
    finally:
        if gateway is not None:
            await gateway.close()


async def examine(
    config: Config, name: str, *, lent: Lent | None = None, daemon: int | None = None
) -> Report:
    """Probe cluster `name`, with what is `lent` by the `daemon` that does it."""
    lent = lent or _alone(config)
    started = time.monotonic()
    connecting = None
    try:
        async with probe_dial(config, name, lent) as dial:
            connecting = time.monotonic() - started
            outcome = await probe(name, config.clusters[name], dial, Contexts(), lent.files)
    except ProxyError as exc:
        outcome = unreached(exc, time.monotonic() - started).named(name)
    report = _report(name, config.clusters[name], outcome, connecting, daemon)
    return replace(
        report, settings=tuple([taken async for taken in _taken(config, config.clusters[name].gateway, lent)])
    )


def _alone(config: Config) -> Lent:
    budget = MemoryBudget(config.limits.memory, connections=1)
    return Lent(Handshakes(), Turns(), budget, WaitingForMemory(budget))


async def _taken(config: Config, name: str, lent: Lent) -> AsyncIterator[Taken]:
    """The options of the gateway's ssh_config and of those of its jump hosts. A file that cannot be used is
    left out: the probe's result says so.
    """
    waiting = [config.gateways[name]] if name != DIRECT else []
    asked = len(waiting)
    while waiting:
        gateway = waiting.pop(0)
        try:
            prepared = await prepare(gateway, lent.places.settings)
        except CredentialsUnusable:
            continue
        if asked:  # as in a dial, the jumps of a hop count only where it is the first
            waiting += [hop for _, hop in jumps(gateway, config.gateways, prepared.proxy_jump)]
            asked -= 1
        for remark in prepared.remarks:
            yield Taken(
                gateway.host, str(gateway.ssh_config), remark.keyword, remark.value, remark.use, remark.why
            )
        for said in (*prepared.passed_over, *prepared.left_out):
            yield Taken(gateway.host, str(gateway.ssh_config), "", said, Use.HARMLESS, "")


def _report(
    name: str, config: ClusterConfig, outcome: Outcome, connecting: float | None, daemon: int | None
) -> Report:
    shown = None
    if refused := outcome.refused:
        shown = Shown(
            names=refused.names,
            issuer=refused.issuer,
            not_before=refused.not_before.isoformat(),
            not_after=refused.not_after.isoformat(),
            text=str(refused),
        )
    return Report(
        cluster=name,
        gateway=config.gateway,
        alive=outcome.result.alive,
        result=outcome.result,
        message=outcome.message,
        hint=outcome.hint,
        stage=outcome.stage,
        status=outcome.status,
        seconds=outcome.seconds,
        certificate_expiry=outcome.certificate_expiry,
        certificate=shown,
        steps=tuple(
            Step(step.stage, step.title, step.verdict, step.seconds)
            for step in steps(config, outcome, connecting=connecting)
        ),
        daemon=daemon,
    )
