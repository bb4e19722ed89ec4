"""Root's `kubemux check` warns of files that the system service cannot read."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner

from proxy.cli import check, main
from proxy.config import service_user
from proxy.config.loader import load
from tests.support.ssh_keys import new_key

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")

CONFIG = """\
version: 1
gateways:
  edge:
    {host: edge, user: u, identity_files: ["${CREDENTIALS_DIRECTORY}/edge"], known_hosts: [$T/known_hosts]}
ssh_server: {listen: "127.0.0.1:2222", host_keys: [$T/host_key]}
users: {ops: {authorized_keys: [$T/ops.pub]}}
clusters: {}
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every user may enter, with the files of CONFIG, which are root's."""
    monkeypatch.setattr(service_user, "SERVICE", "nobody")
    with TemporaryDirectory(dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "keys").mkdir(mode=0o700)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path / "keys"))
        new_key(path / "keys" / "edge")
        new_key(path / "ops").rename(path / "host_key")
        (path / "known_hosts").write_text(f"edge {(path / 'ops.pub').read_text()}")
        (path / "config.yaml").write_text(CONFIG.replace("$T", name))
        yield path


def test_a_host_key_that_only_root_may_read_gets_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key in the credentials directory is root's, too: systemd reads it."""
    monkeypatch.setattr(check, "DEFAULT_CONFIG", folder / "config.yaml")
    key = folder / "host_key"
    said = f"ssh_server.host_keys[0]: {key} may not be read by nobody, the user of the service"
    config = load(folder / "config.yaml")
    rights = os.getresuid(), os.getresgid(), os.getgroups()
    assert list(service_user.warnings(config)) == [
        (said, f"give it to the service's user: chown kubemux {key}")
    ]
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == rights
    done = CliRunner().invoke(main, ["check", "--config", str(folder / "config.yaml")])
    assert (done.exit_code, said in done.stderr) == (0, True), done.output
    os.chown(key, pwd.getpwnam("nobody").pw_uid, -1)
    assert list(service_user.warnings(config)) == []


def test_files_in_a_folder_that_the_service_may_not_enter_get_a_warning(folder: Path) -> None:
    config = load(folder / "config.yaml")
    folder.chmod(0o700)
    told = {message.split(":")[0]: hint for message, hint in service_user.warnings(config)}
    assert told["users.ops.authorized_keys[0]"].endswith(f"to try: runuser -u nobody -- cat {folder}/ops.pub")
    assert told.keys() == {
        "gateways.edge.known_hosts[0]",
        "ssh_server.host_keys[0]",
        "users.ops.authorized_keys[0]",
    }


def test_without_a_user_of_that_name_there_is_no_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_user, "SERVICE", "nobody-has-this-name")
    assert list(service_user.warnings(load(folder / "config.yaml"))) == []
