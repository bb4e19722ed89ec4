"""One probe of a cluster, step by step, over a link of its own, and the report that `kubemux probe` prints.

The probe runs in that command, or in the daemon for a user who may not read the keys. The daemon then sends
the report through the admin socket.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial

from proxy.config.model import DIRECT, ClusterConfig, Config
from proxy.errors import CredentialsUnusable, LinkDown, ProxyError, Stage
from proxy.health.explain import Verdict, steps
from proxy.health.probe import Dial, probe
from proxy.health.result import Outcome, unreached
from proxy.health.tls import Contexts
from proxy.metrics.records import GatewayRecord
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
from proxy.ssh.login.jumps import jumps
from proxy.ssh.login.prepared import prepare
from proxy.ssh.supervision.gateway import Gateway
from proxy.ssh.turns import Turns

_ASK = "kubemux status shows whether the site is connected"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the report."""

    stage: Stage
    title: str
    verdict: Verdict
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Shown:
    """What the server's certificate contains, if the probe refused it."""

    names: tuple[str, ...]
    issuer: str
    not_before: str
    not_after: str
    text: str
    """All of that as a sentence."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One option of an ssh_config, and what kubemux does with it."""

    host: str
    """The alias that was looked up in the file."""
    file: str
    option: str
    value: str
    use: str
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """How a probe has ended, and the remedy. `--json` prints it: fields may be added, but not renamed."""

    cluster: str
    gateway: str
    alive: bool
    result: str
    message: str
    hint: str
    stage: Stage
    """The step in which it ended."""
    status: int | None
    seconds: float
    certificate_expiry: float | None
    certificate: Shown | None
    steps: tuple[Step, ...]
    daemon: int | None = None
    """The daemon's process id, if the daemon has probed."""
    settings: tuple[Setting, ...] = ()
    """The options in the ssh_configs of the gateway and its jump hosts."""

    def to_document(self) -> dict[str, object]:
        """Ready for `json.dumps`."""
        return asdict(self)


def from_document(document: object) -> Report:
    """The report in a parsed document, the inverse of `to_document`. Raises ValueError."""
    from proxy.config.reading import read  # only the command needs it: the daemon does not import it

    return read(Report, document)


class Lent:
    """What a daemon lends to the probes of one cluster that users request: its handshake limits, its memory
    budget, and places for calls that may hang.

    All these probes use the same places: however often users request a probe, at most one thread for each
    place hangs.
    """

    def __init__(
        self, handshakes: Handshakes, turns: Turns, budget: MemoryBudget, waiting: WaitingForMemory
    ) -> None:
        self.handshakes = handshakes
        self.turns = turns
        self.budget = budget
        self.waiting = waiting
        self.order: Sequence[Endpoint] = ()
        """The order in which the daemon tries the API servers; those that have failed lately come last."""
        self.places = Places("a probe")
        self.files = Place("files of a probe")
        self.direct = Direct()
        self.sites: Mapping[str, Way] = {}
        """The daemon's sites: no other process has links of a site."""


@asynccontextmanager
async def probe_dial(config: Config, name: str, lent: Lent) -> AsyncIterator[Dial]:
    """A `Dial` for cluster `name`. It has its own link to the gateway until the context ends, or uses the
    daemon's links of a site.

    Raises LinkError, with the stage that failed, if the link does not come up.
    """
    cluster = config.clusters[name]
    way: Way = lent.direct
    gateway: Gateway | None = None
    if cluster.gateway in config.sites:
        if (site := lent.sites.get(cluster.gateway)) is None:
            raise LinkDown(f"only the daemon has links of site {cluster.gateway}", hint=_ASK)
        way = site
    elif cluster.gateway != DIRECT:
        settings = config.gateways[cluster.gateway].model_copy(update={"connections": 1, "dial": "always"})
        gateway = Gateway(
            # a name of its own: in the log, the daemon's gateway must not seem to come and go
            f"{cluster.gateway} (probe)",
            settings,
            config.gateways,
            budget=lent.budget,
            turns=lent.turns,
            record=GatewayRecord(),
            handshakes=lent.handshakes,
            places=lent.places,
        )
        await gateway.connect()
        way = gateway

    failover = Failover(cluster.api_servers, lent.budget, lent.waiting, order=lent.order)
    try:
        yield partial(failover.dial_probe, way)
    finally:
        if gateway is not None:
            await gateway.close()


async def examine(
    config: Config, name: str, *, lent: Lent | None = None, daemon: int | None = None
) -> Report:
    """Probe cluster `name`. A daemon passes its process id as `daemon`, and what it lends as `lent`."""
    lent = lent or _alone(config)
    started = time.monotonic()
    connecting = None
    try:
        async with probe_dial(config, name, lent) as dial:
            connecting = time.monotonic() - started
            outcome = await probe(name, config.clusters[name], dial, Contexts(), lent.files)
    except ProxyError as exc:
        outcome = unreached(exc, time.monotonic() - started).named(name)
    by_site = config.clusters[name].gateway in config.sites
    if by_site and outcome.stage in {Stage.TCP, Stage.SSH}:
        outcome = replace(outcome, stage=Stage.AUTH)  # the one step of its link: kubemux does not dial it
    report = _report(name, config.clusters[name], outcome, connecting, daemon, by_site=by_site)
    return replace(
        report,
        settings=tuple([one async for one in _settings(config, config.clusters[name].gateway, lent)]),
    )


def _alone(config: Config) -> Lent:
    budget = MemoryBudget(config.limits.memory, connections=1)
    return Lent(Handshakes(), Turns(), budget, WaitingForMemory(budget))


async def _settings(config: Config, name: str, lent: Lent) -> AsyncIterator[Setting]:
    """The options in the ssh_configs of the gateway and its jump hosts. A file that cannot be used is left
    out: the result of the probe names it.
    """
    waiting = [config.gateways[name]] if name in config.gateways else []
    asked = len(waiting)
    while waiting:
        gateway = waiting.pop(0)
        try:
            prepared = await prepare(gateway, lent.places.settings)
        except CredentialsUnusable:
            continue
        if asked:  # as in a dial, only the first hop's ProxyJump counts
            waiting += [hop for _, hop in jumps(gateway, config.gateways, prepared.proxy_jump)]
            asked -= 1
        for remark in prepared.remarks:
            yield Setting(
                gateway.host, str(gateway.ssh_config), remark.keyword, remark.value, remark.use, remark.why
            )
        for said in (*prepared.passed_over, *prepared.left_out):
            yield Setting(gateway.host, str(gateway.ssh_config), "", said, Use.HARMLESS, "")


def _report(
    name: str,
    config: ClusterConfig,
    outcome: Outcome,
    connecting: float | None,
    daemon: int | None,
    *,
    by_site: bool,
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
            for step in steps(config, outcome, connecting=connecting, by_site=by_site)
        ),
        daemon=daemon,
    )
