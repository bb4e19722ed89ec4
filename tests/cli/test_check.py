"""`kubemux check` reports the same problems of an ssh_config as a dial."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli import main
from tests.support.ssh_keys import new_key


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Host edge\n  IdentityFile {key}\n", ""),
        (
            "Host edge\n  IdentityFile {key}\n  CheckHostIP yes\n",
            "checkhostip yes cannot be honoured\n  hint: say CheckHostIP no",
        ),
        (
            "Host edge\n  Porrt 22\n",
            "line 2: Bad configuration option: porrt\n  hint: ssh says so, too: ssh -G -F",
        ),
        ("IdentityFile {key}.pub\n", "only an agent can have its other half"),
    ],
)
def test_an_unusable_ssh_config_is_a_warning(tmp_path: Path, text: str, says: str) -> None:
    key, ssh_config, config = new_key(tmp_path / "key"), tmp_path / "ssh_config", tmp_path / "config.yaml"
    ssh_config.write_text(text.format(key=key))
    config.write_text(
        json.dumps(
            {
                "version": 1,
                "gateways": {"edge": {"host": "edge", "ssh_config": str(ssh_config)}},
                "clusters": {},
            }
        )
    )
    done = CliRunner().invoke(main, ["check", "--config", str(config)])
    assert done.exit_code == 0, done.output
    warnings = [part for part in done.output.split("WARNING: ") if "gateways.edge: " in part]
    assert bool(warnings) == bool(says)
    assert not says or says in warnings[0]
