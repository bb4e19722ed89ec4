"""Gateways named by an alias of an ssh_config: read as ssh(1) reads it, with real sshds at the other end."""

from __future__ import annotations

import asyncio
import shlex
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.config.model import GatewayConfig
from proxy.config.reading import read
from proxy.errors import CredentialsUnusable, HostKeyUnknown, JumpFailed
from tests.integration.conftest import cluster
from tests.integration.running import PROBE, get, peers, running, wait_up
from tests.ssh.conftest import dialled, failure
from tests.support.daemon import Sections
from tests.support.https import Https
from tests.support.ports import free_port
from tests.support.sshd import Sshd, SshdFactory
from tests.support.tls import Certificates

pytestmark = pytest.mark.sshd


def host(name: str, sshd: Sshd, *more: str) -> str:
    """A `Host` block with everything that a client needs for this sshd."""
    lines = [
        f"Host {name}",
        f"HostName {sshd.host}",
        f"Port {sshd.port}",
        f"User {sshd.user}",
        f"IdentityFile {sshd.identity}",
        f"UserKnownHostsFile {sshd.known_hosts()}",
        *more,
    ]
    return "\n  ".join(lines) + "\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "ssh_config"
    path.write_text(text)
    return path


def is_running(pid: str) -> bool:
    """Whether the process runs. A zombie has no command line, so it does not count."""
    with suppress(OSError):  # there is no such process, or it ends while we look
        return bool(Path(f"/proc/{pid.strip()}/cmdline").read_bytes())
    return False


async def ended(pids: list[str]) -> None:
    """Wait until these killed processes have ended."""
    async with asyncio.timeout(30):
        while any(map(is_running, pids)):
            await asyncio.sleep(0.01)


def alias(name: str, path: Path, **more: object) -> GatewayConfig:
    return read(GatewayConfig, {"host": name, "ssh_config": str(path), "connect_timeout": "1m", **more})


async def test_the_daemon_reaches_aliases_with_proxyjump(
    sshd_factory: SshdFactory, tmp_path: Path, certificates: Certificates
) -> None:
    first, middle, last = sshd_factory(), sshd_factory(), sshd_factory()
    text = (
        host("first", first)
        + host("middle", middle, "ProxyJump first")
        + host("last", last, "ProxyJump middle")
    )
    path = written(tmp_path, text + host("both", last, f"ProxyJump {first.user}@first,middle"))
    gateways: dict[str, Sections] = {
        name: {"host": name, "ssh_config": str(path), "connections": 1} for name in ("first", "last", "both")
    }
    ports = {name: free_port() for name in gateways}
    async with Https(certificates) as server:
        clusters = {
            name: cluster(port, server.endpoint, via=name, ca=certificates.ca, probe=PROBE)
            for name, port in ports.items()
        }
        async with running(tmp_path / "daemon", gateways=gateways, clusters=clusters) as daemon:
            await wait_up(daemon, *clusters)
            for port in ports.values():
                assert await get(port, certificates) == 200
            assert peers(daemon.pid) == [first.port] * 3
    async with dialled(alias("both", path)) as link:
        assert len(link.conns) == 3, (
            "`middle`'s own ProxyJump is ignored in a chain where `first` comes before it"
        )


async def test_the_gateway_overrides_its_ssh_config(sshd: Sshd, tmp_path: Path) -> None:
    path = written(
        tmp_path, "Host edge\n  HostName 127.0.0.1\n  Port 1\n  User nobody\n  IdentityFile /nowhere\n"
    )
    more: dict[str, object] = {
        "port": sshd.port,
        "user": sshd.user,
        "identity_files": [str(sshd.identity)],
        "known_hosts": [str(sshd.known_hosts())],
    }
    async with dialled(alias("edge", path, **more)) as link:
        assert link.server == f"127.0.0.1:{sshd.port}"


async def test_a_host_key_alias_is_looked_up_instead_of_the_name(sshd: Sshd, tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(
        sshd.known_hosts().read_text().replace(f"[127.0.0.1]:{sshd.port}", "bastion.example")
    )
    text = host("edge", sshd)
    assert isinstance(
        await failure(alias("edge", written(tmp_path, text), known_hosts=[str(known_hosts)])), HostKeyUnknown
    )
    path = written(tmp_path, text + "HostKeyAlias bastion.example\n")
    async with dialled(alias("edge", path, known_hosts=[str(known_hosts)])) as link:
        assert len(link.conns) == 1


async def test_a_proxy_command_carries_the_connection(sshd: Sshd, tmp_path: Path) -> None:
    jump = shlex.join(["ssh", "-F", str(tmp_path / "jump_config"), "-W", "%h:%p", "jump"])
    (tmp_path / "jump_config").write_text(host("jump", sshd))
    async with dialled(alias("edge", written(tmp_path, host("edge", sshd, f"ProxyCommand {jump}")))) as link:
        assert len(link.conns) == 1
        await asyncio.to_thread(sshd.restart)  # the command ends with its connection
        async with asyncio.timeout(30):
            await link.conns[0].wait_closed()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Host edge\n  Port many\n", "cannot be used: line 2: Bad port 'many'"),
        ('Host "edge\n', "line 1"),
        ("Match nonsense edge\n", "Unsupported Match attribute nonsense; line 1: Bad Match condition"),
        ('Match ""\n', "ssh_config"),
        ("Host edge\n  IdentityFile /nowhere/key\n", "/nowhere/key"),
        ("Host edge\n  IdentityFile ${NOT_SET}/key\n", "NOT_SET"),
        ("Host edge\n  CertificateFile %Q\n", "certificatefile %Q cannot be expanded: there is no token %Q"),
        ("Host edge\n  IdentityFile ~nobody-at-all/key\n", "there is no user nobody-at-all"),
        (
            "Host edge\n  ProxyCommand nc %h %u\n",
            "proxycommand nc %h %u cannot be expanded: there is no token %u",
        ),
        (
            'UserKnownHostsFile "/etc/known hosts"\n',
            "userknownhostsfile /etc/known hosts has a space in a path",
        ),
        ('GlobalKnownHostsFile /a "/b /c d"\n', "globalknownhostsfile /a /b /c d has a space in a path"),
        ("PubkeyAuthentication no\n", "pubkeyauthentication false cannot be honoured"),
        ("PreferredAuthentications password\n", "preferredauthentications password cannot be honoured"),
        ("BindInterface lo\n", "bindinterface lo cannot be honoured"),
        ("CheckHostIP yes\n", "checkhostip yes cannot be honoured"),
        ("CASignatureAlgorithms ssh-ed25519\n", "casignaturealgorithms ssh-ed25519 cannot be honoured"),
        ("PKCS11Provider /usr/lib/p11.so\n", "pkcs11provider /usr/lib/p11.so cannot be honoured"),
        ("ProxyCommand nc %h %p\nProxyUseFdpass yes\n", "proxyusefdpass yes cannot be honoured"),
        ("KnownHostsCommand /bin/echo %H %K\n", "knownhostscommand /bin/echo %H %K cannot be honoured"),
        ("KnownHostsCommand echo %H\n", "knownhostscommand echo %H is no absolute path"),
        ("RequiredRSASize 4096\n", "requiredrsasize 4096 cannot be honoured"),
        ("KexAlgorithms sntrup761x25519-sha512@openssh.com\n", "KexAlgorithms"),
    ],
)
async def test_the_message_has_the_mistake_in_an_ssh_config(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    found = await failure(alias("edge", path))
    assert isinstance(found, CredentialsUnusable), found
    assert str(path) in str(found)
    assert says in str(found)


@pytest.mark.parametrize(
    "more",
    [
        b"Port {port} # the bastion's",
        b"# caf\xe9, in Latin-1",
        b"ServerAliveInterval 1m",
        b"ConnectTimeout 1m30s",
        b"PubkeyAuthentication host-bound",
        b"PubkeyAuthentication unbound",
        b"IdentityFile /nowhere/key",
        b"CertificateFile /nowhere/key-cert.pub",
        b'UserKnownHostsFile "/nowhere/known_hosts" {known_hosts}',
        b"Include {folder}/included",
        b"Include {folder}/*.none",
        b"Ciphers ^aes256-ctr,3des-cbc",
        b"Ciphers -aes*",
        b"KexAlgorithms sntrup761x25519-sha512@openssh.com,curve25519-sha256",
        b"KexAlgorithms +diffie-hellman-group1-sha1",
        b"MACs hmac-sha2-256",
        b"HostKeyAlgorithms -rsa*,sk-*",
        b"PubkeyAcceptedAlgorithms ssh-ed25519",
        b"CanonicalizeHostname yes\nCanonicalDomains invalid",
        b"IdentityAgent none",
        b"SecurityKeyProvider none",
        b"RekeyLimit 1G 1h",
        b"StrictHostKeyChecking off\nVerifyHostKeyDNS yes",
        b"GSSAPIAuthentication yes\nHostbasedAuthentication yes\nControlMaster auto\nControlPath "
        b"~/%C\nRemoteCommand none",
        b"Match final\n  User {user}",
        b'Match originalhost edge exec "test %n = edge"\n  IdentityFile /nowhere/another',
        b"IgnoreUnknown Whatever\nWhatever it means",
    ],
)
async def test_kubemux_accepts_the_same_host_keys_as_ssh(sshd: Sshd, tmp_path: Path, more: bytes) -> None:
    (tmp_path / "included").write_text(f"Port {sshd.port}\n")
    known: dict[str, object] = {
        "port": sshd.port,
        "user": sshd.user,
        "known_hosts": sshd.known_hosts(),
        "folder": tmp_path,
    }
    text = more
    for name, value in known.items():
        text = text.replace(f"{{{name}}}".encode(), str(value).encode())
    path = tmp_path / "ssh_config"
    # First, because ssh_config(5) uses the first value.
    path.write_bytes(b"Host edge\n" + text + b"\n" + host("edge", sshd).encode())
    async with dialled(alias("edge", path)) as link:
        assert link.server == f"127.0.0.1:{sshd.port}"


async def test_includes_are_read_in_order_and_tokens_expanded_last(sshd: Sshd, tmp_path: Path) -> None:
    """Included files come in the order of their names, and the first value of an option is used. `%p` is the
    port that is finally used.
    """
    (tmp_path / f"key-{sshd.port}").write_bytes(sshd.identity.read_bytes())
    (tmp_path / f"key-{sshd.port}").chmod(0o600)
    for name in "hgfedcb":
        (tmp_path / f"{name}.conf").write_text("Port 1\n")
    (tmp_path / "a.conf").write_text(
        f"IdentityFile {tmp_path}/key-%p\nHost other\n  User nobody\nHost edge\n  Port {sshd.port}\n"
    )
    rest = host("edge", sshd).replace(f"IdentityFile {sshd.identity}", "IdentitiesOnly yes")
    async with dialled(alias("edge", written(tmp_path, f"Include {tmp_path}/*.conf\n{rest}"))) as link:
        assert link.server == f"127.0.0.1:{sshd.port}"


async def test_proxyjumps_in_a_circle_are_found(tmp_path: Path) -> None:
    path = written(tmp_path, "Host a\n  ProxyJump b\nHost b\n  ProxyJump a\nHost *\n  ProxyJump c\n")
    known_hosts = tmp_path / "known_hosts"
    known_hosts.touch()
    found = await failure(alias("a", path, known_hosts=[str(known_hosts)]))
    assert isinstance(found, JumpFailed)
    assert str(found).endswith("ProxyJump goes in a circle: b -> a -> b")
    found = await failure(alias("x", path, known_hosts=[str(known_hosts)]))
    assert str(found).endswith("jumphost loop via c"), "ssh(1) also reports the circle"
    assert "ProxyJump none" in found.hint


@pytest.mark.parametrize("option", ['Match exec "{command}"', "KnownHostsCommand {command}"])
async def test_a_command_that_does_not_end_is_given_up_with_all_that_it_has_started(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline comes as soon as the command has started its process."""
    deadlines: list[asyncio.Timeout] = []

    def timeout_at(when: float) -> asyncio.Timeout:
        deadlines.append(asyncio.Timeout(when))
        return deadlines[-1]

    monkeypatch.setattr(asyncio, "timeout_at", timeout_at)
    command, pids = tmp_path / "command", tmp_path / "pids"
    command.write_text(f"#!/bin/sh\nsleep 1000 &\necho $$ $! > {pids}.new; mv {pids}.new {pids}\nwait\n")
    command.chmod(0o755)
    path = written(tmp_path, option.format(command=command) + "\n")

    async def expire() -> None:
        async with asyncio.timeout(30):
            while not pids.exists():
                await asyncio.sleep(0.01)
        deadlines[0].reschedule(asyncio.get_running_loop().time())

    found, _ = await asyncio.gather(failure(alias("edge", path)), expire())
    assert isinstance(found, CredentialsUnusable)
    assert "within 60 s" in str(found)
    assert "Match exec" in found.hint
    await ended(pids.read_text().split())


async def test_processes_left_by_a_match_exec_are_ended(sshd: Sshd, tmp_path: Path) -> None:
    """A process that `Match exec` leaves behind still holds ssh's standard error."""
    pid = tmp_path / "pid"
    text = f'Match exec "sleep 1000 & echo $! > {pid}"\n' + host("edge", sshd)
    async with dialled(alias("edge", written(tmp_path, text))) as link:
        assert link.server == f"127.0.0.1:{sshd.port}"
    await ended([pid.read_text()])


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ('test "$1 $2" = "[127.0.0.1]:{port} HOSTNAME" && cat {known_hosts}', ""),
        ("echo other {key}", "HostKeyUnknown"),
        ("echo no directory >&2; exit 3", "ended with exit code 3: no directory"),
    ],
)
async def test_a_known_hosts_command_is_asked(sshd: Sshd, tmp_path: Path, script: str, says: str) -> None:
    command = tmp_path / "keys of hosts"
    key = sshd.known_hosts().read_text().partition(" ")[2]
    command.write_text("#!/bin/sh\n" + script.format(port=sshd.port, known_hosts=sshd.known_hosts(), key=key))
    command.chmod(0o755)
    text = host("edge", sshd).replace(f"UserKnownHostsFile {sshd.known_hosts()}", "")
    path = written(
        tmp_path, f'Host edge\n  UserKnownHostsFile none\n  KnownHostsCommand "{command}" %H %I\n{text}'
    )
    if not says:
        async with dialled(alias("edge", path)) as link:
            assert link.server == f"127.0.0.1:{sshd.port}"
        return
    found = await failure(alias("edge", path))
    assert says in f"{type(found).__name__} {found}"
