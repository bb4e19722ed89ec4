"""The SSH server of the notebooks' page: with its words, as uid 1000, with files that belong to root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_notebooks import UID, USER, folder, with_files
from tests.support import pages
from tests.support.parts import find
from tests.support.ports import free_port
from tests.support.ssh_keys import new_key, public

pytestmark = [pytest.mark.sshd, pytest.mark.network]

__all__ = ["folder"]
PAGE = "docs/notebooks.md"
GROUP = 100
"""fsGroup: the group of the files of a Secret."""
SECONDS = 60.0


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    """Where it listens."""
    port = free_port()
    for name in ("host", "user", "home"):
        (folder / name).mkdir()
    new_key(folder / "host" / "ssh_host_ed25519_key")
    new_key(folder / "identity")
    (folder / "user" / "authorized_keys").write_bytes((folder / "identity.pub").read_bytes())
    for file in (*(folder / "host").iterdir(), *(folder / "user").iterdir()):
        os.chown(file, 0, GROUP)
        file.chmod(0o440)
    os.chown(folder / "home", UID, GROUP)
    words = pages.block(PAGE, "sshd_config", "sshd-config")
    assert "Port 2209\n" in words
    words = words.replace("Port 2209\n", f"Port {port}\nListenAddress 127.0.0.1\n")
    (folder / "sshd_config").write_text(words.replace("/etc/notebook-ssh", str(folder)))
    sshd = find("sshd") or "sshd"
    passwd = folder / "passwd"
    passwd.write_text(f"{USER}:x:{UID}:{GROUP}::{folder / 'home'}:/bin/sh\n")
    user = ("setpriv", f"--reuid={UID}", f"--regid={GROUP}", "--clear-groups")
    command = with_files(*user, sshd, "-D", "-e", "-f", str(folder / "sshd_config"), passwd=passwd)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            assert f"listening on 127.0.0.1 port {port}" in server.stderr.readline()
            yield port
        finally:
            server.terminate()
            server.communicate(timeout=SECONDS)


def test_the_server_of_the_page_lets_its_user_in(folder: Path, port: int) -> None:
    host_key = public(folder / "host" / "ssh_host_ed25519_key")
    (folder / "known_hosts").write_text(f"nb.team-a {host_key}\n")
    options = {
        "HostKeyAlias": "nb.team-a",
        "UserKnownHostsFile": str(folder / "known_hosts"),
        "IdentityFile": str(folder / "identity"),
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "Port": str(port),
        "User": USER,
    }
    said = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    ssh = [find("ssh") or "ssh", "-F", "none", *said]
    done = subprocess.run(
        [*ssh, "127.0.0.1", "id -u; pwd"], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, [str(UID), str(folder / "home")]), done.stderr
    (folder / "data").write_text("some data")
    scp = [find("scp") or "scp", "-F", "none", *said, str(folder / "data"), "127.0.0.1:copied"]
    subprocess.run(scp, capture_output=True, timeout=SECONDS, check=True)
    assert (folder / "home" / "copied").read_text() == "some data"
    without = subprocess.run(
        [*ssh, "-o", "PubkeyAuthentication=no", "127.0.0.1", "true"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert without.returncode == 255
    assert f"{USER}@127.0.0.1: Permission denied (publickey)." in without.stderr
