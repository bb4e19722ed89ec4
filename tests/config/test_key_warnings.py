"""Lines of sites and users with which nobody can log in."""

from __future__ import annotations

import time
from pathlib import Path

from click.testing import CliRunner

from proxy.cli import main
from proxy.config import key_warnings
from proxy.config.model import Config, SiteConfig, SshServerConfig, UserConfig
from proxy.runtime.endpoint import Endpoint
from tests.support.ssh_keys import new_key, public


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(0o644)
    return path


def test_keys_of_users_that_have_expired_get_a_warning(tmp_path: Path) -> None:
    key, ca = (public(new_key(tmp_path / name)) for name in ("key", "ca"))
    keys = written(tmp_path / "keys", "# ops", f'expiry-time="20200101Z" {key}')
    cas = written(tmp_path / "cas", f'cert-authority,principals="a,b",expiry-time="20200102Z" {ca}')
    user = UserConfig(authorized_keys=(keys,), cert_authority=(cas,))
    config = Config(version=1, users={"ops": user})
    assert [warning for warning, _ in key_warnings.warnings(config, time.time())] == [
        f"users.ops: {keys}:2 lets nobody in: its expiry-time was 2020-01-01 00:00:00 UTC",
        f"users.ops: {cas}:1 lets nobody in: its expiry-time was 2020-01-02 00:00:00 UTC",
    ]
    assert not list(key_warnings.warnings(config, 1e9)), "they were valid then"


def test_keys_and_cas_that_are_revoked_get_a_warning(tmp_path: Path) -> None:
    names = ("good", "stolen", "lost", "ca", "good_ca")
    good, stolen, lost, ca, good_ca = (public(new_key(tmp_path / name)) for name in names)
    keys = written(tmp_path / "keys", good, stolen)
    site = written(tmp_path / "site", f'expiry-time="20200101Z" {lost}', f"cert-authority {ca}")
    cas = written(tmp_path / "cas", good_ca)
    revoked = written(tmp_path / "revoked", "# since May", f"{stolen} laptop", ca)
    more = written(tmp_path / "more", lost, "# " + good)
    server = SshServerConfig(
        listen=Endpoint("127.0.0.1", 2222), host_keys=(tmp_path / "good",), revoked_keys=(revoked, more)
    )
    config = Config(
        version=1,
        ssh_server=server,
        users={"ops": UserConfig(authorized_keys=(keys,), cert_authority=(cas,))},
        sites={"factory-7": SiteConfig(authorized_keys=(site,))},
    )
    remedy = "take the line out; it was revoked on purpose, so its owner needs another"
    assert sorted(key_warnings.warnings(config, time.time())) == [
        (f"sites.factory-7: {site}:1 lets nobody in: {more} has this key", f"{remedy} key"),
        (f"sites.factory-7: {site}:2 lets nobody in: {revoked} has this CA", f"{remedy} CA"),
        (f"users.ops: {keys}:2 lets nobody in: {revoked} has this key", f"{remedy} key"),
    ]


def test_check_warns_of_them_and_is_content(tmp_path: Path) -> None:
    key = new_key(tmp_path / "key")
    written(tmp_path / "ops", public(key))
    path = written(
        tmp_path / "config.yaml",
        "version: 1",
        f'ssh_server: {{listen: "127.0.0.1:2222", host_keys: [{key}], revoked_keys: [{tmp_path}/ops]}}',
        f"users: {{ops: {{authorized_keys: [{tmp_path}/ops]}}}}",
        'clusters: {prod: {gateway: direct, api_servers: ["10.0.0.10:6443"]}}',
    )
    done = CliRunner().invoke(main, ["check", str(path)])
    assert (done.exit_code, done.stdout) == (0, f"{path}: ok, 0 gateways, 1 cluster, 1 user\n")
    line = f"{path}: users.ops: {tmp_path}/ops:1 lets nobody in: {tmp_path}/ops has this key"
    assert f"WARNING: {line}\n" in done.stderr
