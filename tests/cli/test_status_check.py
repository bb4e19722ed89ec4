"""`kubemux status --check`, as Nagios runs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main
from proxy.cli import status as command
from proxy.config.model import AdminConfig
from proxy.errors import AdminError, ConfigError, Problem
from proxy.snapshots import ClusterState, DaemonSnapshot, GatewayState
from tests.admin.scripted import AWAY, DAEMON, EU_EDGE, NODES, PROD_EU, PROXY, SITE, UNBOUND, US_WEST

WELL = replace(DAEMON, gateways=(EU_EDGE,), clusters=(PROD_EU,), entries=(PROXY,), routes=(NODES,))
ALL = "1/1 clusters up, 1/1 gateways connected, 12 connections"


def check(
    monkeypatch: pytest.MonkeyPatch,
    answer: DaemonSnapshot | Exception,
    *names: str,
    more: tuple[str, ...] = (),
) -> Result:
    async def ask(admin: AdminConfig, config: Path) -> DaemonSnapshot:
        del admin, config
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(command, "ask", ask)
    monkeypatch.setattr(command, "find", lambda _: (AdminConfig(), Path("config.yaml")))
    return CliRunner().invoke(main, ["status", "--check", *more, *names])


failing = replace(PROD_EU, name="slow", reason="timeout", message="no answer")
down = replace(PROD_EU, name="gone", state=ClusterState.DOWN, reason="refused", message="refused")
new = replace(PROD_EU, name="new", state=ClusterState.UNKNOWN, reason="")
by_name = replace(PROD_EU, listen="")
asleep = replace(US_WEST, state=GatewayState.IDLE, reason="", message="", hint="")
half = replace(EU_EDGE, state=GatewayState.DEGRADED, links=EU_EDGE.links[:1], reason="link_lost")


@pytest.mark.parametrize(
    ("snapshot", "code", "line"),
    [
        (WELL, 0, f"OK: {ALL}"),
        (replace(WELL, clusters=(by_name,)), 0, f"OK: {ALL}"),
        (
            replace(WELL, gateways=(EU_EDGE, asleep)),
            0,
            f"OK: {ALL.replace('connected', 'connected (1 idle)')}",
        ),
        (replace(WELL, draining=True), 1, f"WARNING: draining: {ALL}"),
        (replace(WELL, gateways=(half,)), 1, f"WARNING: gateway eu-edge: link_lost, {ALL}"),
        (replace(WELL, clusters=(failing,)), 1, f"WARNING: cluster slow: timeout, {ALL}"),
        (replace(WELL, clusters=(new,)), 1, f"WARNING: cluster new: unknown, {ALL.replace('1', '0', 1)}"),
        (replace(WELL, entries=(UNBOUND, PROXY)), 2, f"CRITICAL: entry egress: listen_failed, {ALL}"),
        (
            replace(WELL, sites=(SITE, replace(AWAY, name="edge"))),
            2,
            f"CRITICAL: site edge: keepalive_timeout, {ALL.replace(', 12', ', 1/2 sites connected, 12')}",
        ),
        (
            replace(WELL, clusters=(failing, down)),
            2,
            f"CRITICAL: cluster gone: refused, 1 more, {ALL.replace('1/1', '1/2', 1)}",
        ),
    ],
)
def test_the_worst_state_decides_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, snapshot: DaemonSnapshot, code: int, line: str
) -> None:
    done = check(monkeypatch, snapshot)
    assert (done.exit_code, done.stdout, done.stderr) == (code, f"{line}\n", "")


def test_check_looks_only_at_the_given_names(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(WELL, clusters=(PROD_EU, down), entries=(PROXY, UNBOUND))
    for name, code in (
        ("prod-eu", 0),
        ("gone", 2),
        ("proxy", 0),
        ("egress", 2),
        ("nodes", 0),
        ("eu-edge", 2),
    ):
        assert check(monkeypatch, broken, name).exit_code == code, name


@pytest.mark.parametrize(
    ("answer", "names", "says"),
    [
        (AdminError("no answer\nat all | really"), (), "UNKNOWN: no answer at all / really\n"),
        (ConfigError("config.yaml", [Problem(1, "x", "no")]), (), "UNKNOWN: "),
        (WELL, ("nope",), "UNKNOWN: no gateway, cluster, entry, route, site or user is called 'nope'\n"),
    ],
)
def test_without_an_answer_the_exit_code_is_that_of_unknown(
    monkeypatch: pytest.MonkeyPatch, answer: DaemonSnapshot | Exception, names: tuple[str, ...], says: str
) -> None:
    done = check(monkeypatch, answer, *names)
    assert (done.exit_code, done.stdout.startswith(says), done.stdout.count("\n")) == (3, True, 1)


@pytest.mark.parametrize("option", ["--json", "--watch"])
def test_check_rejects_options_that_print_more(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    done = check(monkeypatch, WELL, more=(option,))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--check prints one line" in done.stderr
