"""Gateways without a line in known_hosts: `kubemux check` warns of them, but they are no error."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.config import known_hosts_warnings, loader
from proxy.config.model import Config, GatewayConfig
from tests.support.ssh_keys import hash_hosts, new_key, public


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_key(tmp_path_factory.mktemp("known_hosts") / "key")


def unlisted(
    path: Path, host: str = "bastion", port: int | None = None, ssh_config: Path | None = None
) -> bool:
    gateway = GatewayConfig(host=host, port=port, known_hosts=(path,), ssh_config=ssh_config)
    said = [
        doubt for doubt, _ in known_hosts_warnings.warnings(Config(version=1, gateways={"edge": gateway}))
    ]
    return f"gateways.edge.known_hosts: no line for {host} port {port or 22} in {path}" in said


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize(
    ("host", "port", "listed"),
    [
        ("bastion", None, True),
        ("Bastion", 22, True),
        ("bastion", 2222, True),
        ("other", 2222, True),
        ("other", None, False),
        ("other", 22, False),
        ("10.0.0.1", None, True),
        ("10.0.0.11", None, False),
        ("bastion.example.com", None, False),
    ],
)
def test_a_line_has_to_have_the_gateways_name_and_port(
    tmp_path: Path, key: Path, hashed: bool, host: str, port: int | None, listed: bool
) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"bastion,10.0.0.1 {public(key)}\n[other]:2222 {public(key)}\n")
    if hashed:
        hash_hosts(path)
        assert "bastion" not in path.read_text()
    assert unlisted(path, host, port) is not listed


@pytest.mark.parametrize(
    ("line", "listed"),
    [
        ("*.example.com KEY", True),
        ("eu-?.example.com KEY", True),
        ("[*.example.com]:22 KEY", False),
        ("EU-1.Example.com KEY", True),
        ("*.example.com,!eu-1.* KEY", False),
        ("eu-1xexample.com KEY", False),
        ("@cert-authority *.example.com KEY", True),
        ("@revoked * KEY", False),
        ("# eu-1.example.com KEY", False),
        ("eu-1.example.com nonsense", False),
        ("", False),
    ],
)
def test_patterns_and_markers_decide_whether_a_line_counts(
    tmp_path: Path, key: Path, line: str, listed: bool
) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(line.replace("KEY", public(key)))
    assert unlisted(path, "eu-1.example.com") is not listed


def test_rules_that_cannot_be_checked_get_no_warning(tmp_path: Path) -> None:
    assert unlisted(tmp_path / "missing")
    assert not unlisted(tmp_path / "missing", ssh_config=tmp_path / "ssh_config")


def test_check_warns_of_a_gateway_without_a_line_and_accepts_the_file(tmp_path: Path, key: Path) -> None:
    hosts, path = tmp_path / "known_hosts", tmp_path / "config.yaml"
    hosts.write_text(f"bastion {public(key)}\n")
    path.write_text(
        f"version: 1\ngateways: {{edge: {{host: other, port: 2222, identity_files: [{key}], known_hosts: "
        f"[{hosts}]}}}}\n"
    )
    result = CliRunner().invoke(main, ["check", "--config", str(path)])
    assert (result.exit_code, result.stdout) == (0, f"{path}: ok, 1 gateway, 0 clusters\n")
    assert result.stderr.splitlines()[2:] == [
        f"WARNING: {path}: gateways.edge.known_hosts: no line for other port 2222 in {hosts}",
        "  hint: ssh-keyscan -p 2222 other prints some; compare the fingerprint before you add one",
    ]


@pytest.mark.parametrize("socket", ["", "gone"])
def test_a_problem_of_one_gateway_is_a_warning_as_for_the_daemon(
    tmp_path: Path, key: Path, socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` and `run` agree: both accept the file, and report the problem with the same message."""
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / socket) if socket else "")
    words = "open sesame"
    locked, hosts, path = (
        new_key(tmp_path / "locked", passphrase=words),
        tmp_path / "known_hosts",
        tmp_path / "config.yaml",
    )
    hosts.write_text(f"bastion {public(key)}\n")
    path.write_text(
        f"version: 1\ngateways:\n  locked: {{host: bastion, identity_files: [{locked}], known_hosts: "
        f"[{hosts}]}}\n"
        f"  agent: {{host: bastion, agent: true, known_hosts: [{hosts}]}}\n"
    )
    assert set(loader.load(path).gateways) == {"locked", "agent"}, "the daemon starts"
    result = CliRunner().invoke(main, ["check", "--config", str(path)])
    assert (result.exit_code, result.stdout) == (0, f"{path}: ok, 2 gateways, 0 clusters\n")
    said = f"there is no agent at {tmp_path / socket}" if socket else "SSH_AUTH_SOCK is not set"
    assert f"gateways.agent.agent: {said}\n  hint: " in result.stderr
    assert (
        f"gateways.locked.identity_files[0]: {locked} is encrypted, and the gateway has no "
        "passphrase_file\n  hint: " in result.stderr
    )
