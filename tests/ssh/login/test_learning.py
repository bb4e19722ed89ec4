"""Host keys that rotate (UpdateHostKeys), against a real sshd, and against servers that claim keys they do
not have.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import asyncssh
import pytest
from structlog.testing import capture_logs

from proxy.config import learned_keys
from proxy.config.model import GatewayConfig
from proxy.snapshots import GatewayState
from proxy.ssh.login import learning
from proxy.ssh.login.learning import is_proof, split
from tests.ssh.conftest import Impatient, Watched, config_for, settled, started
from tests.support import ssh_keys
from tests.support.sshd import Sshd, SshdFactory

pytestmark = pytest.mark.sshd


class Rotating:
    """An sshd with several host keys, of which known_hosts has the first."""

    def __init__(self, sshd_factory: SshdFactory, folder: Path, *kinds: str) -> None:
        self.keys = [ssh_keys.new_key(folder / f"host_{kind}", kind=kind) for kind in kinds]
        self.sshd = sshd_factory(config=self.with_keys(*self.keys))
        self.known_hosts = self.sshd.known_hosts(key=self.keys[0])
        self.learned = folder / "learned"

    @staticmethod
    def with_keys(*keys: Path) -> dict[str, str]:
        return {"HostKey": "\nHostKey ".join(map(str, keys))}

    def config(self, **more: object) -> GatewayConfig:
        return config_for(
            self.sshd, known_hosts=[str(self.known_hosts)], learned_host_keys=str(self.learned), **more
        )

    async def rotate(self, *keys: Path) -> None:
        """Restart sshd with these host keys."""
        self.sshd._config |= self.with_keys(*keys)
        await asyncio.to_thread(self.sshd.restart)

    def file(self) -> list[str]:
        return self.learned.read_text().splitlines() if self.learned.exists() else []


async def written(rotating: Rotating, count: int) -> list[str]:
    async with asyncio.timeout(30):
        while len(rotating.file()) != count:
            await asyncio.sleep(0.01)
    return rotating.file()


@pytest.mark.usefixtures("data_plane")
async def test_a_rotated_key_is_learned_before_the_old_one_goes(
    sshd_factory: SshdFactory, tmp_path: Path
) -> None:
    rotating = Rotating(sshd_factory, tmp_path, "ed25519", "ecdsa", "rsa")
    _, ecdsa, rsa = rotating.keys
    names = f"[{rotating.sshd.host}]:{rotating.sshd.port}"
    async with started(rotating.config()) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        lines = await written(rotating, 2)
        vouched = f"vouched-for-by {learned_keys.fingerprint(public(rotating.keys[0]))}"
        assert sorted(lines) == sorted(f"{names} {ssh_keys.public(key)} {vouched}" for key in (ecdsa, rsa))
        assert stat.S_IMODE(rotating.learned.stat().st_mode) == 0o600
        [old] = gateway._links
        await rotating.rotate(rsa)
        # The gateway may have a new link before we look.
        await gateway.until(lambda: old not in gateway._links)
        gateway._supervisor.dial_now()
        await gateway.until(lambda: gateway.metric("gateway_reconnects_total", reason="link_lost") == 1)
        assert await written(rotating, 1) == [line for line in lines if " ssh-rsa " in line], (
            "the file no longer has the other key"
        )

        # The operator removes the key that the learned key depends on: the learned key goes, too.
        rotating.known_hosts.write_text(f"{names} {ssh_keys.public(ecdsa)}\n")
        gateway.renew("test")
        await gateway.until(lambda: gateway.snapshot().state is GatewayState.DEGRADED)
        assert gateway.snapshot().reason == "host_key_changed"


async def test_two_gateways_may_write_one_file(sshd_factory: SshdFactory, tmp_path: Path) -> None:
    one = Rotating(sshd_factory, tmp_path, "ed25519", "ecdsa")
    (tmp_path / "two").mkdir()
    two = Rotating(sshd_factory, tmp_path / "two", "ed25519", "rsa")
    two.learned = one.learned
    async with started(one.config(connections=3)) as first, started(two.config(connections=3)) as second:
        await first.until(lambda: first.links == 3)
        await second.until(lambda: second.links == 3)
        assert {line.split()[0] for line in await written(one, 2)} == {
            f"[{rotating.sshd.host}]:{rotating.sshd.port}" for rotating in (one, two)
        }


async def test_lines_that_another_daemon_writes_are_kept(
    sshd_factory: SshdFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kubemux keeps the lines that the other daemon writes while kubemux waits for the file's lock."""
    doing: list[str] = []
    monkeypatch.setattr(learning, "doing", doing.append)
    rotating = Rotating(sshd_factory, tmp_path, "ed25519", "ecdsa")
    theirs = f"[127.0.0.9]:22 {ssh_keys.public(rotating.keys[0])} vouched-for-by SHA256:of-another-key"
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        async with started(rotating.config(connect_timeout="60s")):
            async with asyncio.timeout(30):
                while f"waiting for another kubemux to write {rotating.learned}" not in doing:
                    await asyncio.sleep(0.01)
            rotating.learned.touch(mode=0o600)
            rotating.learned.write_text(f"{theirs}\n")
            fcntl.flock(folder, fcntl.LOCK_UN)
            lines = await written(rotating, 2)
    finally:
        os.close(folder)
    assert lines[0] == theirs
    assert lines[1].startswith(f"[{rotating.sshd.host}]:{rotating.sshd.port} ")


async def test_a_hanging_file_delays_only_its_own_gateways(sshd_factory: SshdFactory, tmp_path: Path) -> None:
    """The file's lock is held, as by a thread that hangs while it writes the file."""
    rotating = Rotating(sshd_factory, tmp_path, "ed25519", "ecdsa")
    with locked(tmp_path / "another file"):
        async with started(rotating.config()):
            assert len(await written(rotating, 1)) == 1
    rotating.learned.unlink()
    with capture_logs() as logs:
        async with started(rotating.config()) as gateway:
            what = f"waiting for another gateway to write {rotating.learned}"
            gateway._dialler._learning = Impatient(what)
            with locked(rotating.learned):
                await gateway.until(lambda: gateway.links == 1)
                async with asyncio.timeout(30):
                    while not [entry for entry in logs if entry["event"] == "host keys not learned"]:
                        await asyncio.sleep(0.01)
                gateway.renew("test")
                await gateway.until(lambda: gateway.metric("gateway_connects_total", result="ok") == 2)
    [message] = {entry["message"] for entry in logs if entry["event"] == "host keys not learned"}
    assert message.startswith(f"{what} has been hanging since 20")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with learning._WRITING.setdefault(path, threading.Lock()):
        yield


async def ends_unlearned(rotating: Rotating, config: GatewayConfig) -> None:
    """Check that a link comes up, and that after all answers of the server nothing was written."""
    async with started(config) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        [link] = gateway._links
        await settled(gateway)
        assert not link.closed.done()
    assert not rotating.file()


@pytest.mark.parametrize("known", ["authority", "pattern", "revoked another"])
async def test_only_a_plain_line_vouches_for_new_keys(
    sshd_factory: SshdFactory, tmp_path: Path, known: str
) -> None:
    rotating = Rotating(sshd_factory, tmp_path, "ed25519", "ecdsa")
    names = f"[{rotating.sshd.host}]:{rotating.sshd.port}"
    line = rotating.known_hosts.read_text()
    if known == "authority":
        line += f"@cert-authority {names} {ssh_keys.public(rotating.sshd.host_ca)}\n"
    elif known == "pattern":
        line = line.replace("127.0.0.1", "127.0.0.*")
    else:
        line += f"@revoked {names} {ssh_keys.public(rotating.sshd.user_ca)}\n"
    rotating.known_hosts.write_text(line)
    await ends_unlearned(rotating, rotating.config())


async def test_without_learned_host_keys_no_proof_is_requested(
    sshd_factory: SshdFactory, tmp_path: Path
) -> None:
    rotating = Rotating(sshd_factory, tmp_path, "ed25519", "ecdsa")
    await ends_unlearned(rotating, config_for(rotating.sshd, known_hosts=[str(rotating.known_hosts)]))


async def test_a_file_that_others_may_write_is_not_trusted(sshd_factory: SshdFactory, tmp_path: Path) -> None:
    rotating = Rotating(sshd_factory, tmp_path, "ed25519", "ecdsa")
    rotating.learned.touch()
    rotating.learned.chmod(0o666)
    async with started(rotating.config()) as gateway:
        await gateway.until(lambda: gateway.snapshot().state is GatewayState.DOWN)
        assert gateway.snapshot().reason == "credentials_unusable"
        assert "could have been written by others" in gateway.snapshot().message


async def test_a_missing_folder_does_not_prevent_the_link(sshd_factory: SshdFactory, tmp_path: Path) -> None:
    rotating = Rotating(sshd_factory, tmp_path, "ed25519", "ecdsa")
    rotating.learned = tmp_path / "missing" / "learned"
    await ends_unlearned(rotating, rotating.config())


async def test_a_file_with_lines_of_others_is_left_alone(sshd_factory: SshdFactory, tmp_path: Path) -> None:
    """The file may be known_hosts itself, under another name."""
    rotating = Rotating(sshd_factory, tmp_path, "ed25519", "ecdsa")
    before = rotating.known_hosts.read_text() + f"@revoked * {ssh_keys.public(rotating.sshd.user_ca)}\n"
    rotating.known_hosts.write_text(before)
    rotating.learned.symlink_to(rotating.known_hosts)
    with capture_logs() as logs:
        async with started(rotating.config()) as gateway:
            await gateway.until(lambda: gateway.links == 1)
            await settled(gateway)
    assert rotating.known_hosts.read_text() == before
    assert rotating.learned.is_symlink()
    [message] = [
        entry["message"] for entry in logs if entry["event"] == "host keys not learned" and "message" in entry
    ]
    assert message == f"learned_host_keys {rotating.learned} has lines that kubemux has not written (line 1)"


async def test_a_malformed_hash_in_known_hosts_is_no_line(sshd_factory: SshdFactory, tmp_path: Path) -> None:
    rotating = Rotating(sshd_factory, tmp_path, "ed25519", "ecdsa")
    with rotating.known_hosts.open("a") as file:
        file.write(f"|1|nonsense {ssh_keys.public(rotating.keys[1])}\n")
    async with started(rotating.config()):
        assert len(await written(rotating, 1)) == 1


class Lying(asyncssh.SSHServer):
    """Accepts every login, lists `keys`, and answers the request for proofs with `proofs`."""

    def __init__(self, keys: bytes, proofs: bytes | None) -> None:
        self._keys = keys
        self._proofs = proofs

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = cast("Any", conn)

        def prove(_packet: object) -> None:
            self._conn._report_global_response(self._proofs or False)

        self._conn._process_hostkeys_prove_00_at_openssh_dot_com_global_request = prove

    def begin_auth(self, username: str) -> bool:
        del username
        return False

    def auth_completed(self) -> None:
        self._conn._send_global_request(b"hostkeys-00@openssh.com", self._keys)


def strings(*keys: bytes) -> bytes:
    return b"".join(len(key).to_bytes(4) + key for key in keys)


@asynccontextmanager
async def lying(
    config: GatewayConfig, host_key: Path, keys: bytes, proofs: bytes | None
) -> AsyncIterator[Watched]:
    acceptor = await asyncssh.listen(
        config.host,
        config.port or 0,
        server_factory=lambda: Lying(keys, proofs),
        server_host_keys=[str(host_key)],
    )
    try:
        async with started(config) as gateway:
            yield gateway
    finally:
        acceptor.close()
        await acceptor.wait_closed()


def public(key: Path) -> bytes:
    return asyncssh.read_public_key(f"{key}.pub").public_data


@pytest.mark.usefixtures("data_plane")
@pytest.mark.parametrize("answer", ["nothing", "garbage", "another's", "too many", "one twice", "a torn key"])
async def test_keys_that_a_server_only_claims_are_not_learned(
    sshd: Sshd, tmp_path: Path, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The link stays nevertheless: the false list may be a mistake of the server's operator."""
    await asyncio.to_thread(sshd.stop)  # its port and keys are taken
    claimed, mine = ssh_keys.new_key(tmp_path / "claimed"), sshd.host_key
    own, victim = public(mine), public(claimed)
    signature = asyncssh.read_private_key(mine).sign(b"something", b"ssh-ed25519")
    string = len(signature).to_bytes(4) + signature
    keys, proofs = (
        [own, victim],
        {"nothing": None, "garbage": b"\0\0\0\x09", "another's": string}.get(answer, string),
    )
    if answer == "too many":
        keys = [own, *(victim[:-1] + bytes([n]) for n in range(60))]
    elif answer == "one twice":
        keys = [own, victim, victim]
    elif answer == "a torn key":
        keys = [own, victim[:-1]]
    learned = tmp_path / "learned"
    config = config_for(sshd, learned_host_keys=str(learned))
    async with lying(config, mine, strings(*keys), proofs) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        [link] = gateway._links
        await settled(gateway)
        assert not link.closed.done()
        assert not learned.exists()
    assert ("not proven" in capsys.readouterr().out) == (answer in {"nothing", "another's", "a torn key"})


@pytest.mark.usefixtures("data_plane")
@pytest.mark.parametrize(
    "listed", [b"", b"\0\0\0\x63short", b"\0"], ids=["none", "a torn list", "a torn length"]
)
async def test_a_malformed_list_removes_no_learned_key(sshd: Sshd, tmp_path: Path, listed: bytes) -> None:
    await asyncio.to_thread(sshd.stop)  # its port and keys are taken
    learned = tmp_path / "learned"
    key = ssh_keys.public(ssh_keys.new_key(tmp_path / "other"))
    voucher = learned_keys.fingerprint(public(sshd.host_key))
    learned.write_text(f"[{sshd.host}]:{sshd.port} {key} vouched-for-by {voucher}\n")
    before = learned.read_text()
    async with lying(
        config_for(sshd, learned_host_keys=str(learned)), sshd.host_key, listed, None
    ) as gateway:
        await gateway.until(lambda: gateway.links == 1)
        await settled(gateway)
        assert learned.read_text() == before


@pytest.mark.parametrize(
    ("kind", "algorithm", "holds"),
    [
        ("ed25519", b"ssh-ed25519", True),
        ("ecdsa", b"ecdsa-sha2-nistp256", True),
        ("rsa", b"rsa-sha2-512", True),
        ("rsa", b"rsa-sha2-256", True),
        ("rsa", b"ssh-rsa", False),
    ],
)
def test_a_proof_is_valid_only_for_its_session_and_key(
    tmp_path: Path, kind: str, algorithm: bytes, *, holds: bool
) -> None:
    key = asyncssh.read_private_key(ssh_keys.new_key(tmp_path / "key", kind=kind))
    blob, session = key.public_data, b"s" * 32
    signed = b"".join(
        len(part).to_bytes(4) + part for part in (b"hostkeys-prove-00@openssh.com", session, blob)
    )
    proof = key.sign(signed, algorithm)
    assert is_proof(proof, session, blob) is holds
    assert not is_proof(proof, b"t" * 32, blob)
    assert not is_proof(proof, session, blob[:-1])
    assert not is_proof(b"", session, blob)


def test_a_truncated_list_is_empty() -> None:
    assert split(b"") == ()
    assert split(b"\0\0\0\1a\0\0\0\0\0\0\0\2bc") == (b"a", b"", b"bc")
    assert split(b"\0\0\0\1a\0\0\0\2b") == ()
