"""`kubemux ssh-server keygen`: keys are made once, are private, and OpenSSH can read them."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main
from tests.support import ssh_keys


def keygen(folder: Path, *names: str, listen: str = "0.0.0.0:2222") -> Result:
    config = folder / "config.yaml"
    keys = ", ".join(str(folder / name) for name in names)
    server = f'ssh_server: {{listen: "{listen}", allow_remote: true, host_keys: [{keys}]}}\n' if names else ""
    config.write_text(f"version: 1\n{server}")
    return CliRunner().invoke(main, ["ssh-server", "keygen", "--config", str(config)])


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("ssh_host_ed25519_key", "ssh-ed25519", "(ED25519)"),
        ("ssh_host_ecdsa_key", "ecdsa-sha2-nistp256", "(ECDSA)"),
        ("ssh_host_rsa_key", "ssh-rsa", "(RSA)"),
        ("key", "ssh-ed25519", "(ED25519)"),
    ],
)
def test_a_key_is_made_and_openssh_reads_it(tmp_path: Path, name: str, kind: str, told: str) -> None:
    done = keygen(tmp_path, name)
    assert done.exit_code == 0
    path = tmp_path / name
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    read = subprocess.run(
        ["ssh-keygen", "-l", "-f", path], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    assert read.strip().endswith(told)
    assert f"{path}: made, {kind} {read.split()[1]}" in done.stderr
    host, shown, encoded = done.stdout.split()
    assert (host, shown) == (f"[{socket.gethostname()}]:2222", kind)
    public = subprocess.run(
        ["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    assert public.split()[1] == encoded


def test_an_existing_key_is_kept(tmp_path: Path) -> None:
    key = ssh_keys.new_key(tmp_path / "first")
    before = key.read_bytes()
    done = keygen(tmp_path, "first", "second", listen="127.0.0.1:22")
    assert done.exit_code == 0
    assert key.read_bytes() == before
    assert f"{key}: was there, ssh-ed25519 {ssh_keys.fingerprint(key)}" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["127.0.0.1"] * 2
    assert keygen(tmp_path, "first", "second").stdout.split()[2] == ssh_keys.public(key).split()[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes keys that are not its service's")
def test_root_is_told_to_give_a_new_key_to_the_service(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert f"service's user: chown kubemux {path}\n" in keygen(tmp_path, "key").stderr
    assert "chown" not in keygen(tmp_path, "key").stderr, "it is told once"


def test_an_existing_file_that_is_no_key_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("nonsense")
    (tmp_path / "key").chmod(0o600)
    done = keygen(tmp_path, "key")
    assert done.exit_code == 1
    assert f"{tmp_path}/key cannot be used" in done.stderr
    assert (tmp_path / "key").read_text() == "nonsense"


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    done = keygen(tmp_path, "nowhere/key")
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"{tmp_path}/nowhere/key cannot be made: No such file or directory\n  hint: " in done.stderr


def test_without_an_ssh_server_no_key_is_made(tmp_path: Path) -> None:
    done = keygen(tmp_path)
    assert done.exit_code == 78
    assert "ssh_server: there is none\n  hint: add ssh_server: " in done.stderr


def test_a_missing_key_names_the_command(tmp_path: Path) -> None:
    keygen(tmp_path, "key")
    (tmp_path / "key").unlink()
    done = CliRunner().invoke(main, ["check", "--config", str(tmp_path / "config.yaml")])
    assert done.exit_code == 78
    assert "does not exist\n  hint: make it, once: kubemux ssh-server keygen" in done.stderr
