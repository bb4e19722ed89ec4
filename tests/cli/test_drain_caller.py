"""`kubemux drain --caller`: how to write a caller, and what the command prints."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from proxy.admin import client
from proxy.admin.asking import Where
from proxy.cli import main, orders
from proxy.config.model import AdminConfig

MY_NAME = pwd.getpwuid(os.getuid()).pw_name


@pytest.mark.parametrize(
    ("written", "logged"),
    [
        ("uid:1002", "uid:1002"),
        ("uid:01002", "uid:1002"),
        (f"uid:{MY_NAME}", f"uid:{os.getuid()}"),
        ("cert:CI.Example.com", "cert:ci.example.com"),
        ("cert:fd00::0009", "cert:fd00::9"),
        ("cert:spiffe://example.com/ns/Argo", "cert:spiffe://example.com/ns/Argo"),
        ("proxy-user:ci", "proxy-user:ci"),
        ("127.0.0.1", "127.0.0.1"),
        ("::0001", "::1"),
        ("127.0.0.1:40000", "127.0.0.1:40000"),
        ("[::1]:40000", "[::1]:40000"),
    ],
)
def test_every_spelling_of_a_caller_becomes_that_of_the_log(written: str, logged: str) -> None:
    assert orders.as_logged(written) == logged


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("uid:nobody-of-this-name", "there is no user 'nobody-of-this-name'"),
        ("gid:sre", "a caller is not known by its groups: name the user, uid:NAME"),
        ("uid:", "expected uid:NAME"),
        ("uid:99999999999", "is larger than"),
        ("any", "expected uid:NAME, cert:NAME, proxy-user:NAME, ssh-user:NAME, site:NAME or an address"),
        ("alice", "or an address, got 'alice'"),
        ("", "or an address"),
    ],
)
def test_malformed_callers_are_usage_errors(written: str, says: str) -> None:
    with pytest.raises(click.BadParameter, match=says):
        orders.as_logged(written)


@pytest.mark.parametrize(
    ("args", "params", "ended", "said"),
    [
        (["prod"], {"caller": "uid:1002", "of": "prod"}, 1, "prod: 1 connection of uid:1002 ended"),
        (["nodes"], {"caller": "uid:1002", "of": "nodes"}, 0, "nodes: uid:1002 has no connections: 0 ended"),
        ([], {"caller": "uid:1002"}, 3, "3 connections of uid:1002 ended"),
    ],
)
def test_drain_caller_prints_how_many_connections_were_ended(
    monkeypatch: pytest.MonkeyPatch, args: list[str], params: dict[str, str], ended: int, said: str
) -> None:
    async def command(
        admin: AdminConfig, path: Path, name: str, *, params: dict[str, str], budget: float
    ) -> Where | dict[str, object]:
        del admin, path, budget
        asked.append((name, params))
        return {"caller": params["caller"], "ended": ended}

    asked: list[tuple[str, dict[str, str]]] = []
    monkeypatch.setattr(client, "command", command)
    monkeypatch.setattr(orders, "find", lambda *_, **__: (AdminConfig(), Path("config.yaml")))
    done = CliRunner().invoke(main, ["drain", "--caller", "uid:1002", *args])
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{said}\n", "")
    assert asked == [("end", params)]


def test_drain_without_a_name_is_a_usage_error() -> None:
    done = CliRunner().invoke(main, ["drain"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "which cluster? kubemux drain CLUSTER, or kubemux drain --caller CALLER" in done.stderr
