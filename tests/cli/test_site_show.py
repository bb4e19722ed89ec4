"""`kubemux site show`: its output and its exit codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main
from proxy.cli import site as command
from proxy.config.model import AdminConfig
from proxy.errors import AdminError
from proxy.snapshots import DaemonSnapshot
from tests.admin.scripted import AWAY, DAEMON, NODES, PROD_EU, SITE, SITE_LINK

ALL = replace(
    DAEMON,
    clusters=(
        replace(PROD_EU, name="factory", gateway="factory-7"),
        replace(PROD_EU, name="second", gateway="factory-7"),
        PROD_EU,
    ),
    routes=(replace(NODES, gateway="factory-7"),),
    sites=(replace(SITE, name="depot"), SITE),
)
SHOWN = """\
site factory-7: connected for 1h 0m
link      from 192.0.2.7:50022 for 1m 0s, -R factory-7:1080, 3 channels, 50.3 ms, SHA256:abc
links     1 of at most 2; 1 reconnect
serves    clusters factory, second; route nodes; NAME.factory-7
by name   2 now, 9 in all; 1B sent, 2B received
refused   1m 30s ago: forward_refused (-R Kube:6443 has capitals)
"""


def show(
    monkeypatch: pytest.MonkeyPatch, answer: DaemonSnapshot | Exception, name: str, config: str = "none.yaml"
) -> Result:
    async def ask(admin: AdminConfig, path: Path) -> DaemonSnapshot:
        del admin, path
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(command, "ask", ask)
    monkeypatch.setattr(command, "find", lambda _: (AdminConfig(), Path(config)))
    return CliRunner().invoke(main, ["site", "show", "--config", config, name])


def test_a_connected_site_is_shown_and_the_exit_code_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    done = show(monkeypatch, ALL, "factory-7")
    assert (done.exit_code, done.stdout, done.stderr) == (0, SHOWN, "")


def test_a_site_that_is_away_has_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    done = show(monkeypatch, replace(ALL, sites=(replace(AWAY, refused=None),)), "factory-7")
    assert done.exit_code == 1
    assert done.stdout.startswith(
        "site factory-7: away for 42s: "
        "keepalive_timeout (site factory-7 at 192.0.2.7:50022 stopped answering)\n"
        "hint      does its ssh run?\n"
        "links     0 of at most 2; 1 reconnect\n"
    )
    assert done.stdout.endswith("refused   nothing since the daemon's start\n")


def test_serving_and_retiring_links_and_callers_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    caller = replace(SITE_LINK, forwards=(), rtt=None, channels=1)
    fixed = replace(SITE_LINK, forwards=("factory-7:1080", "kube:6443"))
    site = replace(SITE, links=(fixed,), retiring=(SITE_LINK,), callers=(caller,))
    lines = show(monkeypatch, replace(DAEMON, sites=(site,)), "factory-7").stdout.splitlines()
    assert lines[1].startswith("link      from 192.0.2.7:50022 for 1m 0s, -R factory-7:1080 -R kube:6443, ")
    assert lines[2].startswith("retiring  from 192.0.2.7:50022 for 1m 0s, -R factory-7:1080, ")
    assert lines[3] == "caller    from 192.0.2.7:50022 for 1m 0s, no -R, 1 channel, SHA256:abc"
    assert "serves    NAME.factory-7" in lines


def test_an_unknown_site_gets_a_suggestion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = show(monkeypatch, ALL, "factory-8")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "no site is called 'factory-8'" in done.stderr
    assert "kubemux site add factory-8 adds it" in done.stderr
    assert "did you mean 'factory-7'" in done.stderr
    changed = tmp_path / "config.yaml"
    changed.write_text("version: 1\nsites: {factory-8: {}}\n")
    done = show(monkeypatch, ALL, "factory-8", str(changed))
    assert (done.exit_code, "kubemux reload takes it up" in done.stderr) == (2, True)


def test_without_an_answer_of_the_daemon_the_exit_code_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    error = AdminError("/run/kubemux/admin.sock: Connection refused", hint="does it run?")
    done = show(monkeypatch, error, "factory-7")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "kubemux: /run/kubemux/admin.sock: Connection refused\n  hint: does it run?\n"
