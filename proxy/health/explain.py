"""Turns an outcome into the steps of a connection, for `kubemux probe`. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proxy.config.model import DIRECT, ClusterConfig
from proxy.errors import Stage
from proxy.health.result import Outcome


class Verdict(StrEnum):
    """The result of a step."""

    OK = "ok"
    FAILED = "failed"
    NOT_REACHED = "not reached"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the explanation."""

    stage: Stage
    title: str
    verdict: Verdict
    seconds: float | None
    """None if the step was not measured on its own."""


def steps(
    config: ClusterConfig, outcome: Outcome, *, connecting: float | None = None, by_site: bool = False
) -> list[Step]:
    """Every step of a probe of this cluster, in order. Those before `outcome.stage` have succeeded.

    `connecting`: how many seconds it took until the link was up. The step `auth` shows it, because with that
    step a link is up. `by_site`: the gateway is a site, whose link is there or is not, as one step.
    """
    api_server = outcome.server or config.api_servers[0]
    titles = {
        Stage.TCP: "TCP to sshd",
        Stage.SSH: "SSH handshake",
        Stage.AUTH: "authentication",
        Stage.CHANNEL: f"channel to {api_server}",
        Stage.TLS: "TLS",
        Stage.HTTP: f"HTTP GET {config.base_path or ''}{config.probe.path}",
    }
    end = outcome.stage
    if config.gateway == DIRECT:
        titles = {**_from(Stage.CHANNEL, titles), Stage.CHANNEL: f"TCP to {api_server}"}
        end = end if end in titles else Stage.CHANNEL
    elif by_site:
        titles = {Stage.AUTH: f"link of site {config.gateway}", **_from(Stage.CHANNEL, titles)}
        connecting = None
    seconds: dict[Stage, float] = dict(outcome.timings)
    if connecting is not None:
        seconds[Stage.AUTH] = connecting
    order = list(titles)
    result = []
    for stage, title in titles.items():
        if order.index(stage) < order.index(end) or (stage is end and outcome.result.alive):
            verdict = Verdict.OK
        else:
            verdict = Verdict.FAILED if stage is end else Verdict.NOT_REACHED
        result.append(
            Step(stage, title, verdict, None if verdict is Verdict.NOT_REACHED else seconds.get(stage))
        )
    return result


def _from(first: Stage, titles: dict[Stage, str]) -> dict[Stage, str]:
    """The steps from `first` on."""
    order = list(titles)
    return {stage: titles[stage] for stage in order[order.index(first) :]}
