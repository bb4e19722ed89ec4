"""Permissions of secrets, valid known_hosts lines, and which files count as changed."""

from __future__ import annotations

import base64
import os
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from proxy.config import (
    credential_file,
    credentials,
    diff,
    file_paths,
    known_hosts_warnings,
    loader,
    references,
)
from proxy.config.keys import Kind
from proxy.config.model import Config, GatewayConfig, SiteConfig, SshServerConfig
from proxy.config.scrutiny import Scrutiny
from proxy.errors import ConfigError
from proxy.runtime.endpoint import Endpoint
from tests.support.ssh_keys import hash_hosts, new_key, public, sign

NOBODY = 65534


def config(*keys: Path, known_hosts: tuple[Path, ...] = ()) -> Config:
    return Config(
        version=1, gateways={"edge": GatewayConfig(host="edge", identity_files=keys, known_hosts=known_hosts)}
    )


def messages(checked: Config, scrutiny: Scrutiny = Scrutiny.FILES) -> list[str]:
    return [finding.message for finding in credentials.check(checked, scrutiny)]


def private(path: Path, mode: int = 0o600) -> Path:
    path.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    )
    path.chmod(mode)
    return path


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("mode", "accepted"),
    [(0o600, True), (0o400, True), (0o700, True), (0o640, False), (0o604, False), (0o620, False)],
)
def test_a_secret_of_our_own_that_others_may_read_is_refused(
    tmp_path: Path, mode: int, accepted: bool
) -> None:
    key = private(tmp_path / "key", mode)
    assert messages(config(key)) == (
        [] if accepted else [f"{key} is a secret that others may read (mode {mode:04o})"]
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize(("mode", "accepted"), [(0o640, True), (0o600, True), (0o644, False)])
def test_a_secret_of_another_owner_may_be_shared_with_a_group(
    tmp_path: Path, mode: int, accepted: bool
) -> None:
    key = private(tmp_path / "key", mode)
    os.chown(key, NOBODY, -1)
    found = list(credentials.check(config(key)))
    assert [finding.hint for finding in found] == ([] if accepted else [f"chmod o= {key}"])


@pytest.mark.parametrize("told", [True, False], ids=["by systemd", "in a shell beside the service"])
def test_systemd_credentials_are_exempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    inside, outside = private(folder / "key", 0o440), private(tmp_path / "key", 0o440)
    if told:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    else:
        monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
        monkeypatch.setattr(file_paths, "SERVICE_CREDENTIALS", folder)
    assert file_paths.expand_path("${CREDENTIALS_DIRECTORY}/key") == inside
    assert messages(config(inside)) == []
    assert len(messages(config(outside))) == 1
    assert len(messages(config(folder / ".." / "key"))) == 1


def test_a_missing_credential_gets_a_hint_about_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    path = file_paths.expand_path("${CREDENTIALS_DIRECTORY}/no-such-key")
    assert path == Path("/run/credentials/kubemux.service/no-such-key")
    [found] = credentials.check(config(path))
    assert found.message == f"{path} does not exist"
    assert "while the service runs (LoadCredential=no-such-key:FILE)" in found.hint
    assert "try: CREDENTIALS_DIRECTORY=/etc/kubemux/keys kubemux" in found.hint


def test_a_public_key_in_place_of_the_private_one_is_refused(tmp_path: Path) -> None:
    key = new_key(tmp_path / "key")
    certificate = sign(key, ca=key, principals="me")
    for path in (Path(f"{key}.pub"), certificate):
        for scrutiny in (Scrutiny.FILES, Scrutiny.KEYS):
            path.chmod(0o644)
            [found] = credentials.check(config(path), scrutiny)
            assert (found.message, found.hint) == (
                f"{path} is a public key, not the private one",
                f"remove .pub: {key}",
            )


def test_an_identity_file_that_is_no_private_key_is_refused(tmp_path: Path) -> None:
    key = public(new_key(tmp_path / "key"))
    for mode, levels in ((0o644, [Scrutiny.FILES, Scrutiny.KEYS]), (0o600, [Scrutiny.KEYS])):
        path = write(tmp_path / f"known_hosts-{mode}", f"host {key}\n", mode)
        for scrutiny in levels:
            [found] = credentials.check(config(path), scrutiny)
            assert found.message == f"{path} is not a private key"
            assert "-----BEGIN OPENSSH PRIVATE KEY-----" in found.hint


@pytest.mark.parametrize("agent", [False, True])
def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path, agent: bool) -> None:
    words = "open sesame"
    key, passphrase = new_key(tmp_path / "key", passphrase=words), write(tmp_path / "passphrase", words)
    gateway = GatewayConfig(host="edge", identity_files=(key,), agent=agent)
    locked = Config(version=1, gateways={"edge": gateway})
    [found] = credentials.check(locked, Scrutiny.KEYS)
    assert found.message == f"{key} is encrypted, and the gateway has no passphrase_file"
    assert "add passphrase_file: FILE" in found.hint
    assert messages(locked) == [], "the daemon works without this gateway"
    opened = Config(version=1, gateways={"edge": gateway.model_copy(update={"passphrase_file": passphrase})})
    assert messages(opened, Scrutiny.KEYS) == []


def test_known_hosts_are_read_as_openssh_writes_them(tmp_path: Path) -> None:
    keys = [new_key(tmp_path / kind, kind=kind) for kind in ("ed25519", "ecdsa")]
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(
        "".join(f"host{n},10.0.0.{n} {public(key)} comment here\n" for n, key in enumerate(keys))
    )
    hash_hosts(known_hosts)
    marked = "\n# a comment\n\n"
    marked += (
        f"@cert-authority *.example.com {public(keys[0])}\n@revoked * {public(keys[1])}\n[host]:2222 "
        f"{public(keys[1])}\n"
    )
    known_hosts.write_text(known_hosts.read_text() + marked)
    assert known_hosts.read_text().startswith("|1|")
    assert messages(config(known_hosts=(known_hosts,))) == []


BLOB = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32)).decode()


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "host ssh-ed25519",
        f"host ssh-rsa {BLOB}",
        f"host ssh-ed25519 {BLOB[:-1]}!",
        f"host ssh-ed25519 x{BLOB}",
        f"@trusted host ssh-ed25519 {BLOB}",
        f"@revoked ssh-ed25519 {BLOB}",
        f"|1|c2FsdA== ssh-ed25519 {BLOB}",
        f"|2|{'A' * 27}=|{'A' * 27}= ssh-ed25519 {BLOB}",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
def test_malformed_known_hosts_lines_get_a_warning(tmp_path: Path, line: str) -> None:
    """Such a line is skipped, as by ssh(1), and `kubemux check` says so. A known_hosts with only such lines
    is an error.
    """
    path = write(tmp_path / "known_hosts", f"edge ssh-ed25519 {BLOB}\n{line}\n")
    checked = config(known_hosts=(path,))
    assert messages(checked) == []
    assert [doubt for doubt, _ in known_hosts_warnings.warnings(checked)] == [
        f"{path}:2 is not a known_hosts line, and is skipped"
    ]
    path.write_text(f"# nothing\n{line}\n{line}\n")
    assert messages(checked) == [
        f"{path}:2 is not a known_hosts line (lines like it: 2), and there is no other"
    ]


def test_the_hint_for_a_missing_known_hosts_is_ssh_keyscan(tmp_path: Path) -> None:
    path = tmp_path / "known hosts"
    gateway = GatewayConfig(host="edge", port=2222, known_hosts=(path,))
    [found] = credentials.check(Config(version=1, gateways={"edge": gateway}))
    assert found.message == f"{path} does not exist"
    assert found.hint.startswith(f"ssh-keyscan -p 2222 edge > '{path}' makes one; compare its fingerprints")


def test_a_large_known_hosts_is_read_whole(tmp_path: Path) -> None:
    line = f"host-NUMBER.example.com ssh-ed25519 {BLOB}\n"
    path = write(tmp_path / "known_hosts", "".join(line.replace("NUMBER", str(n)) for n in range(20_000)))
    assert path.stat().st_size > 2_000_000
    checked = config(known_hosts=(path,))
    assert messages(checked) == []
    before = credentials.inspect(checked).fingerprint
    path.write_text(path.read_text() + line)
    assert diff.changed(before, credentials.inspect(checked).fingerprint) == {path}


def mistakes_in_users(path: Path) -> list[tuple[str, str]]:
    """The mistakes in a file of users, and the remedies."""
    found = credential_file.check_file(("users_file",), path, Kind.USERS, Scrutiny.FILES)
    return [(message, hint) for _, message, hint in found]


def test_a_file_of_users_is_named_with_each_line_that_cannot_be_used(tmp_path: Path) -> None:
    path = write(tmp_path / "users", "ci:{SHA}6dcfXufJLW3J6S/9rRe4vUlBj5g=\nargo\n# a comment\n")
    assert [message for message, _ in mistakes_in_users(path)] == [
        f"{path}:1 has no bcrypt hash for 'ci'",
        f"{path}:2 is not NAME:HASH",
    ]
    path.chmod(0o644)
    assert mistakes_in_users(path) == [
        (f"{path} is a secret that others may read (mode 0644)", f"chmod 600 {path}")
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="root may read everything, and only root can become another")
def test_a_file_of_users_that_the_service_may_not_read_is_no_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd would copy it at the start, and later changes would have no effect."""
    monkeypatch.setenv("INVOCATION_ID", "1")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    path = private(tmp_path / "users")
    os.seteuid(NOBODY)
    try:
        [(message, hint)] = mistakes_in_users(path)
    finally:
        os.seteuid(0)
    assert message == f"{path} may not be read by this user"
    assert hint.endswith(f"chgrp kubemux {path}; chmod 640 {path}")


@pytest.mark.skipif(os.geteuid() != 0, reason="root may read everything, and only root can become another")
def test_the_hint_for_a_host_key_that_the_service_may_not_read_is_chown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVOCATION_ID", "1")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    path = private(tmp_path / "host")
    server = SshServerConfig(listen=Endpoint("127.0.0.1", 2222), host_keys=(path,))
    os.seteuid(NOBODY)
    try:
        [(_, _, hint)] = credentials.inspect_section(("ssh_server",), server).findings
    finally:
        os.seteuid(0)
    assert hint.endswith(f"chown kubemux {path}")


def test_the_example_of_a_host_key_is_the_file_that_keygen_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service gets the same example: a credential would be a copy."""
    monkeypatch.setenv("INVOCATION_ID", "1")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(ConfigError) as caught:
        loader.parse(b'version: 1\nssh_server: {listen: "127.0.0.1:2222"}\n', "file", Scrutiny.NONE)
    [problem] = caught.value.problems
    assert problem.hint.startswith("add host_keys: [/etc/kubemux/ssh_host_ed25519_key]")


def test_each_file_is_named_once(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    certificates = [tmp_path / f"{name}-cert.pub" for name in ("one", "other")]
    assert references.files(config(one, other, known_hosts=(one,))) == (
        one,
        certificates[0],
        other,
        certificates[1],
    )


def test_a_fingerprint_follows_the_contents(tmp_path: Path) -> None:
    key, known_hosts = write(tmp_path / "key", "one"), tmp_path / "known_hosts"
    checked = config(key, known_hosts=(known_hosts,))
    before = credentials.inspect(checked).fingerprint
    assert list(before) == [key, tmp_path / "key-cert.pub", known_hosts]
    assert before[known_hosts] == b""
    key.touch()
    assert diff.changed(before, credentials.inspect(checked).fingerprint) == frozenset()
    key.write_text("two")
    assert diff.changed(before, credentials.inspect(checked).fingerprint) == {key}
    known_hosts.write_text("")
    assert diff.changed(before, credentials.inspect(checked).fingerprint) == {key, known_hosts}


@pytest.mark.skipif(os.geteuid() != 0, reason="root may read everything, and only root can become another")
@pytest.mark.parametrize(
    ("kind", "environment", "said"),
    [
        ("key", {"INVOCATION_ID": "1"}, "LoadCredential=key:{path} in a drop-in of kubemux.service"),
        ("known_hosts", {"INVOCATION_ID": "1"}, "(uid 65534) read it"),
        ("key", {}, "(uid 65534) read it"),
        ("key", {"INVOCATION_ID": "1", "XDG_RUNTIME_DIR": "/run/user/1"}, "(uid 65534) read it"),
    ],
    ids=["the service", "no secret", "a shell", "a user's service"],
)
def test_the_hint_for_a_secret_that_the_service_may_not_read_is_a_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, environment: dict[str, str], said: str
) -> None:
    """The remedy is not `chmod`, because kubemux refuses a secret that others may read."""
    for name in ("INVOCATION_ID", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    path = private(tmp_path / "key")
    checked = config(path) if kind == "key" else config(known_hosts=(path,))
    os.seteuid(NOBODY)
    try:
        [found] = credentials.check(checked)
    finally:
        os.seteuid(0)
    assert found.message == f"{path} may not be read by this user"
    assert said.format(path=path) in found.hint


def test_an_ssh_config_needs_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "ssh_config", "")
    checked = Config(version=1, gateways={"edge": GatewayConfig(host="h", ssh_config=file)})
    assert messages(checked) == []
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = credentials.check(checked)
    assert found.loc == ("gateways", "edge", "ssh_config")
    assert "this machine does not have" in found.message
    assert "apt install openssh-client" in found.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")
def test_the_hint_for_a_secret_that_others_may_read_also_gives_it_to_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With `chmod o=` alone, the service could not read it, either."""
    monkeypatch.setenv("INVOCATION_ID", "1")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with tempfile.TemporaryDirectory() as folder:  # only root may read pytest's own folder
        Path(folder).chmod(0o755)
        path = private(Path(folder) / "key", 0o644)
        os.seteuid(NOBODY)
        try:
            [found] = credentials.check(config(path))
        finally:
            os.seteuid(0)
    assert found.hint.startswith(
        f"chmod 600 {path}; hand it over as a credential: LoadCredential=key:{path} "
    )


def test_many_sites_are_checked_in_few_threads_and_each_is_named(material: Path) -> None:
    """There may be 10,000 sites, and each thread takes one of the tasks that the service may have."""
    key = material / "site.pub"
    sites = {
        f"site-{number}": SiteConfig(authorized_keys=(key if number else material / "nowhere",))
        for number in range(credentials.MOST_APART + 1)
    }
    many = Config(
        version=1,
        ssh_server=SshServerConfig(listen=Endpoint("127.0.0.1", 2222), host_keys=(material / "key",)),
        sites=sites,
    )
    found = {finding.loc: finding.message for finding in credentials.inspect(many).findings}
    missing = ("sites", "site-0", "authorized_keys", 0)
    assert found.pop(missing) == f"{material}/nowhere does not exist"
    assert found.keys() == {("sites", f"site-{number}") for number in range(2, len(sites))}
    assert all("a key is one identity" in message for message in found.values())
    assert len(credentials._groups(references.sections(many))) == 2
