"""`kubemux site add`: the files that it writes, its output, and its errors."""

from __future__ import annotations

import shlex
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main
from proxy.config.loader import load
from proxy.config.scrutiny import Scrutiny
from proxy.openssh import authorized_keys
from tests.support.ssh_keys import fingerprint, new_key, public, sign

BEGIN = """\
version: 1
# sites and people come here
ssh_server: {{listen: "{listen}", allow_remote: true, host_keys: [{key}]}}

# what else there is
gateways:
  edge: {{host: edge, known_hosts: [/nowhere], identity_files: [/nowhere]}}
"""


class Desk:
    """A configuration with an SSH server, and commands about it."""

    def __init__(self, folder: Path, listen: str = "0.0.0.0:2222") -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.host_key = new_key(folder / "host_ed25519")
        self.config.write_text(BEGIN.format(listen=listen, key=self.host_key))
        self.before = self.config.read_text()

    def add(self, *args: str | Path, stdin: str | None = None) -> Result:
        words = ["site", "add", "--config", self.config, *args]
        return CliRunner().invoke(main, [*map(str, words)], input=stdin)

    def added(self, *args: str | Path, stdin: str | None = None) -> Result:
        done = self.add("--server", "bastion.example.com:2222", *args, stdin=stdin)
        assert done.exit_code == 0, done.output
        return done

    def refused(self, *args: str | Path, code: int, stdin: str | None = None) -> str:
        """Nothing is changed then."""
        before = {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        done = self.add("--server", "bastion.example.com:2222", *args, stdin=stdin)
        assert (done.exit_code, done.stdout) == (code, ""), done.output
        after = {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        assert after == before
        return done.stderr


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize("way", ["argument", "file", "stdin"])
def test_a_site_is_added_and_its_commands_are_printed(desk: Desk, way: str) -> None:
    key = new_key(desk.folder / "site")
    line = f"{public(key)} factory-7"
    if way == "argument":
        done = desk.added("factory-7", line, "--permit", "127.0.0.1:6443", "--permit", "*:22")
    else:
        file = Path(f"{key}.pub") if way == "file" else "-"
        done = desk.added(
            "factory-7", "--key", file, "--permit", "127.0.0.1:6443", "--permit", "*:22", stdin=line
        )
    assert desk.config.read_text() == desk.before + (
        "sites:\n"
        "  factory-7:\n"
        f"    authorized_keys: [{desk.folder}/sites/factory-7.pub]\n"
        '    permit: ["127.0.0.1:6443", "*:22"]\n'
    )
    own = desk.folder / "sites/factory-7.pub"
    assert (stat.S_IMODE(own.stat().st_mode), stat.S_IMODE(own.parent.stat().st_mode)) == (0o644, 0o755)
    [read], bad = authorized_keys.parse(own.read_bytes())
    assert (read.kind, bad) == ("ssh-ed25519", ())
    assert f"{own}: ssh-ed25519 {fingerprint(key)}\n" in done.stderr
    assert "kubemux reload" in done.stderr
    assert f"KnownHostsCommand=/bin/echo [bastion.example.com]:2222 {public(desk.host_key)}'" in done.stdout
    assert "PermitRemoteOpen=127.0.0.1:6443 *:22" in done.stdout
    for beginning in ("\nssh -N -T ", "\n[Service]\n", "\nkind: Deployment\n"):
        assert beginning in f"\n{done.stdout}"


def test_the_commands_of_an_existing_site_are_printed_again_without_its_key(desk: Desk) -> None:
    key = new_key(desk.folder / "site")
    first = desk.added("factory-7", public(key), "--permit", "*:22")
    written = desk.config.read_bytes()
    again = desk.added("factory-7")
    assert (again.stdout, desk.config.read_bytes()) == (first.stdout, written)
    again = desk.added("factory-7", public(key), "--permit", "*:23")
    assert (again.stdout, desk.config.read_bytes()) == (first.stdout, written)
    assert "sites.factory-7.permit stays *:22: change it in the file" in again.stderr
    again = desk.added("factory-7", "--permit", "*:23")
    assert (again.stdout, desk.config.read_bytes()) == (first.stdout, written)
    assert "sites.factory-7.permit stays *:22: change it in the file" in again.stderr
    only = desk.added("factory-7", "--print", "unit", "--listen", "1081")
    assert only.stdout.startswith("# /etc/systemd/system/kubemux-site-factory-7.service\n")
    assert "-R factory-7:1081" in only.stdout
    assert "kind: Deployment" not in only.stdout


def test_a_site_without_permit_can_only_be_a_caller(desk: Desk) -> None:
    done = desk.added("factory-7", public(new_key(desk.folder / "site")))
    assert "nothing may be asked of factory-7 yet" in done.stderr
    assert "PermitRemoteOpen=none" in done.stdout
    assert load(desk.config, Scrutiny.CA).sites["factory-7"].permit == ()


def test_without_a_key_the_message_says_how_the_site_makes_one(desk: Desk) -> None:
    said = desk.refused("factory-7", code=2)
    assert "ssh-keygen -t ed25519 -N '' -C factory-7 -f ~/.ssh/factory-7" in said


@pytest.mark.parametrize(
    ("listen", "args", "words"),
    [
        ("0.0.0.0:2200", (), "--server bastion.example.com:2200 --permit 127.0.0.1:6443"),
        ("192.0.2.1:22", ("--permit", "*:22"), "--server 192.0.2.1:22 --permit '*:22'"),
        ("0.0.0.0:2222", ("--server", "b:443"), "--server b:443 --permit 127.0.0.1:6443"),
    ],
)
def test_the_printed_command_works_with_the_key_of_the_site(
    tmp_path: Path, listen: str, args: tuple[str, ...], words: str
) -> None:
    desk = Desk(tmp_path, listen)
    said = desk.add("factory-7", *args).stderr
    assert f"  kubemux site add factory-7 'ssh-ed25519 AAAA... factory-7' {words}\n" in said
    line = public(new_key(desk.folder / "site"))
    again = [line if "AAAA..." in word else word for word in shlex.split(said.splitlines()[-1])[3:]]
    assert desk.add(*again).exit_code == 0


def test_a_server_on_all_addresses_needs_the_server_option(desk: Desk) -> None:
    key = public(new_key(desk.folder / "site"))
    done = desk.add("factory-7", key)
    assert (done.exit_code, desk.config.read_text()) == (2, desk.before)
    assert "ssh_server.listen is 0.0.0.0:2222, every address of this machine" in done.stderr
    assert "--server bastion.example.com:2222" in done.stderr


def test_the_address_of_the_server_is_the_default(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "192.0.2.1:2222")
    done = desk.add("factory-7", public(new_key(tmp_path / "site")), "--print", "command")
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("factory-7@192.0.2.1\n")


def test_a_private_key_is_refused_and_not_shown(desk: Desk) -> None:
    key = new_key(desk.folder / "site")
    said = desk.refused("factory-7", "--key", key, code=2)
    assert "that is a private key, which never leaves the site" in said
    assert key.read_text().splitlines()[1] not in said
    encrypted = new_key(desk.folder / "encrypted", passphrase="of a test")  # noqa: S106 - it protects nothing
    assert "that is a private key" in desk.refused("factory-7", "--key", encrypted, code=2)


def test_an_argument_that_is_no_public_key_is_refused(desk: Desk) -> None:
    key, other = new_key(desk.folder / "site"), new_key(desk.folder / "other")
    assert "there are 0 keys" in desk.refused("factory-7", "--key", "-", code=2, stdin="# nothing\n")
    two = f"{public(key)}\n{public(other)}\n"
    assert "there are 2 keys" in desk.refused("factory-7", "--key", "-", code=2, stdin=two)
    assert "has no key" in desk.refused("factory-7", "factory-7", code=2)
    command = f'command="/bin/true" {public(key)}'
    assert "has the option command, which kubemux does not enforce" in desk.refused(
        "factory-7", command, code=2
    )
    authority = f"cert-authority {public(key)}"
    assert "write it into cert_authority" in desk.refused("factory-7", authority, code=2)
    certificate = sign(key, ca=other).read_text()
    assert "it is a certificate" in desk.refused("factory-7", certificate, code=2)
    assert "does not exist" in desk.refused("factory-7", "--key", desk.folder / "missing.pub", code=2)
    assert "not both" in desk.refused("factory-7", public(key), "--key", "-", code=2)
    Path(f"{key}.pub").write_text(public(key))
    said = desk.refused("factory-7", f"{key}.pub", code=2)
    assert f"write --key {key}.pub" in said
    said = desk.refused("factory-7", public(key), "--permit", "127.0.0.1:6443,*:22", code=2)
    assert "give each pattern its own --permit" in said
    assert "no port" in desk.refused("factory-7", public(key), "--permit", "node-a", code=2)


def test_a_key_of_another_site_and_a_second_key_of_a_site_are_refused(desk: Desk) -> None:
    key = new_key(desk.folder / "site")
    desk.added("factory-7", public(key))
    said = desk.refused("factory-8", public(key), code=78)
    assert f"{fingerprint(key)} is the key of site:factory-7 ({desk.folder}/sites/factory-7.pub:1)" in said
    said = desk.refused("factory-7", public(new_key(desk.folder / "another")), code=78)
    assert "the site is there already, with another key" in said
    assert f"add the line to {desk.folder}/sites/factory-7.pub" in said


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("edge", "there is a gateway 'edge', too"),
        ("direct", "`direct` is reserved"),
        ("Factory", "has capitals"),
        ("../factory", "is no host name"),
        ("factory.7", "'factory.7' ends in a number, as only addresses do"),
    ],
)
def test_an_invalid_name_of_a_site_is_refused(desk: Desk, name: str, message: str) -> None:
    """The name is refused before the site makes a key, too."""
    said = desk.refused(name, public(new_key(desk.folder / "site")), code=78)
    assert message in said
    assert message in desk.refused(name, code=78)


def test_another_existing_file_is_not_overwritten(desk: Desk) -> None:
    (desk.folder / "sites").mkdir()
    (desk.folder / "sites/factory-7.pub").write_text("mine\n")
    said = desk.refused("factory-7", public(new_key(desk.folder / "site")), code=78)
    assert "sites/factory-7.pub is there already, with something else" in said


def test_without_an_ssh_server_and_its_key_no_site_is_added(desk: Desk) -> None:
    key = public(new_key(desk.folder / "site"))
    desk.host_key.unlink()
    said = desk.refused("factory-7", key, code=1)
    assert f"{desk.host_key} does not exist" in said
    assert "kubemux ssh-server keygen" in said
    desk.config.write_text("version: 1\n")
    said = desk.refused("factory-7", key, code=78)
    assert "ssh_server: there is none, and a site needs one to log in" in said
    assert "kubemux ssh-server keygen" in said


def test_check_counts_sites_and_users(desk: Desk) -> None:
    """The key file of `site add` is not writable for others, so `check` accepts it."""
    desk.config.write_text(desk.before.partition("# what else")[0])
    desk.added("factory-7", public(new_key(desk.folder / "site")))
    new_key(desk.folder / "ops")
    desk.config.write_text(
        f"{desk.config.read_text()}users: {{ops: {{authorized_keys: [{desk.folder}/ops.pub]}}}}\n"
    )
    done = CliRunner().invoke(main, ["check", str(desk.config)])
    assert (done.exit_code, done.stdout) == (
        0,
        f"{desk.config}: ok, 0 gateways, 0 clusters, 1 site, 1 user\n",
    ), done.output
