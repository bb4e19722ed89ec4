"""Rules of `allow` that match nobody cause a warning with their line, not an error."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.config import allow_warnings
from proxy.config.allow import Rule
from proxy.config.asked import EntryConfig
from proxy.config.loader import load_with_doubts
from proxy.config.model import Config
from proxy.runtime.endpoint import Endpoint

CONFIG = """\
version: 1
clusters:
  prod:
    gateway: direct
    listen: "127.0.0.1:16443"
    api_servers: ["10.0.0.10:6443"]
    allow: ["uid:root", "gid:root", "uid:4242", "gid:4242", "uid:no-such-user", "gid:no-such-group"]
  all: {gateway: direct, api_servers: ["10.0.0.11:6443"], allow: ["uid:no-such-user", any]}
routes:
  - {name: web, match: ["web:443"], gateway: direct, entries: [plain], allow: ["cert:ci.example.com"]}
  - name: both
    match: ["both:443"]
    gateway: direct
    allow:
      - cert:ci.example.com
      - proxy-user:ci
      - proxy-user:cii
      - ssh-user:ops
      - site:factory-7
entries:
  plain: {listen: "127.0.0.1:3128", allow: ["proxy-user:ci", "uid:65534"]}
  remote:
    listen: "192.0.2.7:3129"
    allow_remote: true
    tls: {cert_file: "$T/tls.crt", key_file: "$T/tls.key", client_ca_file: "$T/ca.crt"}
    users_file: $T/users
    allow: ["uid:root", "cert:ci.example.com"]
"""

NO_SSH = (
    "lets nobody in: users and sites come by ssh_server, which is missing",
    "add ssh_server, or write uid:NAME, gid:NAME, cert:NAME or proxy-user:NAME",
)


@pytest.fixture
def path(material: Path, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("$T", str(material)))
    return path


def test_each_warning_has_a_line_and_a_remedy(path: Path, material: Path) -> None:
    _, doubts = load_with_doubts(path)
    assert [(one.line, one.key, one.message, one.hint) for one in doubts] == [
        (
            7,
            "clusters.prod.allow[4]",
            "lets nobody in: there is no user 'no-such-user' on this machine",
            "write one that this prints: getent passwd | cut -d: -f1; or a number",
        ),
        (
            7,
            "clusters.prod.allow[5]",
            "lets nobody in: there is no group 'no-such-group' on this machine",
            "write one that this prints: getent group | cut -d: -f1; or a number",
        ),
        (
            10,
            "routes[0].allow[0]",
            "lets nobody in: no entry by which clients come here asks for certificates",
            "add client_ca_file: FILE to the entry's `tls`",
        ),
        (
            17,
            "routes[1].allow[2]",
            f"lets nobody in: there is no user 'cii' in {material}/users",
            f"add the user: htpasswd -B -C 12 {material}/users cii",
        ),
        (18, "routes[1].allow[3]", *NO_SSH),
        (19, "routes[1].allow[4]", *NO_SSH),
        (
            21,
            "entries.plain.allow[0]",
            "lets nobody in: no entry by which clients come here asks for passwords",
            "add users_file: FILE to the entry",
        ),
        (
            21,
            "entries.plain.allow[1]",
            "lets nobody in: the kernel says 65534 for everybody whose uid it cannot tell",
            "let that program run as a user of its own",
        ),
        (
            27,
            "entries.remote.allow[0]",
            "lets nobody in: users of this machine are known on loopback and unix sockets alone",
            "let clients come by such a `listen`, or write cert:NAME or proxy-user:NAME",
        ),
    ]


def test_check_prints_the_warnings_and_accepts_the_file(path: Path) -> None:
    done = CliRunner().invoke(main, ["check", str(path)])
    assert (done.exit_code, done.stdout) == (0, f"{path}: ok, 0 gateways, 2 clusters, 2 entries, 2 routes\n")
    assert (f"WARNING: {path}:18: routes[1].allow[3]: {NO_SSH[0]}\n  hint: {NO_SSH[1]}\n") in done.stderr


def only(rule: str) -> Config:
    entry = EntryConfig(listen=Endpoint("127.0.0.1", 3128), allow=(Rule.parse(rule),))
    return Config(version=1, entries={"proxy": entry})


def test_a_name_that_the_user_database_spells_differently_gets_a_warning() -> None:
    """A directory may find a user by another case, or with its domain. A caller has the name that
    it returns.
    """
    [doubt] = allow_warnings.warnings(only("uid:Alice"), lambda *_: ("alice@example.com", 1002))
    assert (doubt.message, doubt.hint) == (
        "lets nobody in: this machine calls that user 'alice@example.com'",
        "write uid:alice@example.com",
    )
    assert allow_warnings.warnings(only("gid:sre"), lambda *_: ("sre", 27)) == []


def test_a_user_database_that_hangs_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allow_warnings, "FILES_S", 0.01)
    answers = threading.Event()

    def hang(kind: str, name: str) -> tuple[str, int]:
        answers.wait(60)
        return name, len(kind)

    try:
        [doubt] = allow_warnings.warnings(only("uid:alice"), hang)
    finally:
        answers.set()
    assert doubt.loc == ()
    assert "has been hanging since" in doubt.message


SSH_CONFIG = """
version: 1
ssh_server: {listen: "127.0.0.1:2222", host_keys: [$T/key]}
users: {ops: {authorized_keys: [$T/user.pub]}}
sites: {factory-7: {authorized_keys: [$T/site.pub]}}
clusters:
  prod:
    gateway: direct
    api_servers: ["10.0.0.1:6443"]
    allow: ["ssh-user:ops", "ssh-user:opps", "site:factory-7", "site:ops", "ssh-user:alice"]
entries:
  proxy: {listen: "127.0.0.1:3128", allow: ["ssh-user:ops"]}
"""


def test_keys_are_known_by_the_names_of_their_users_and_sites(material: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SSH_CONFIG.replace("$T", str(material)))
    _, doubts = load_with_doubts(path)
    assert [(one.key, one.message, one.hint) for one in doubts] == [
        (
            "clusters.prod.allow[1]",
            "lets nobody in: there is no user 'opps'",
            "add it to users, or did you mean ssh-user:ops?",
        ),
        (
            "clusters.prod.allow[3]",
            "lets nobody in: there is no site 'ops'",
            "add it to sites, or did you mean ssh-user:ops?",
        ),
        ("clusters.prod.allow[4]", "lets nobody in: there is no user 'alice'", "add it to users"),
        (
            "entries.proxy.allow[0]",
            "lets nobody in: users and sites come by ssh_server, and this list is for other entries",
            "write it in `allow` of a cluster, or of a route whose `entries` have ssh",
        ),
    ]
