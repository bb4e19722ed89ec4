"""The files of keys of sites and users, and what is said of lines that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config import authorized
from proxy.config.key_table import Lines
from proxy.config.ssh_server import UserConfig
from tests.support import ssh_keys


def read(folder: Path, text: str) -> Lines:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(0o600)
    return authorized.read(("users", "ops"), UserConfig(authorized_keys=(path,)))


def test_many_lines_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    key = ssh_keys.public(ssh_keys.new_key(tmp_path / "key"))
    found = read(tmp_path, f"{key}\n" + "junk\n" * 500)
    assert len(found.keys) == 1
    assert not found.findings
    messages = [one.message for one in found.warnings]
    assert messages[0] == f"{tmp_path}/keys:2 has no key"
    assert messages[-1] == f"{tmp_path}/keys has 480 more lines that cannot be used"
    assert len(messages) == 21


def test_a_file_without_any_key_is_reported_once(tmp_path: Path) -> None:
    found = read(tmp_path, "-----BEGIN OPENSSH PRIVATE KEY-----\n" + "junk\n" * 500)
    [finding] = found.findings
    assert (found.keys, found.warnings) == ((), ())
    assert finding.message == (
        f"{tmp_path}/keys:1 is a private key, which must not be here (one of 501 lines that cannot be used)"
    )


@pytest.mark.parametrize("text", ["", "# the CA comes on Monday\n\n"])
def test_a_file_without_lines_is_reported(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(0o600)
    user = UserConfig(authorized_keys=(path,), cert_authority=(path,))
    findings = authorized.read(("users", "ops"), user).findings
    assert [(one.loc[2], one.message) for one in findings] == [
        ("authorized_keys", f"{path} has no key"),
        ("cert_authority", f"{path} has no key"),
    ]
