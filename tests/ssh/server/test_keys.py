"""Options of keys, and fields of certificates, decide about logins of OpenSSH's own client."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import asyncssh
import pytest
from structlog.testing import capture_logs

from proxy.errors import KeyRemoved
from proxy.errors.reasons import Reason
from tests.support import ssh_keys
from tests.support.ssh_bed import WAIT_S, SshBed

pytestmark = pytest.mark.sshd

OWN: Final = [{"networks": ["127.0.0.0/8"]}]
"""`sources` with the test's own address, so that refusals cause no penalty."""


async def tried(bed: SshBed, key: Path, *args: str, user: str = "somebody") -> Reason | str:
    """Log in. Returns the reason of a refusal, or the identity."""
    with capture_logs() as logs:
        await bed.ssh(key, *args, "true", user=user)
    [line] = [line for line in logs if line["event"] in {"logged in", "login refused"}]
    return Reason(line["reason"]) if line["event"] == "login refused" else str(line["caller"])


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ('from="127.0.0.1"', "ssh-user:ops"),
        ('from="127.0.0.*,!127.0.0.2"', "ssh-user:ops"),
        ('from="10.0.0.0/8"', Reason.KEY_SOURCE),
        ('from="127.0.0.0/8,!127.0.0.1"', Reason.KEY_SOURCE),
        ('expiry-time="20000101"', Reason.KEY_EXPIRED),
        ('expiry-time="29990101Z"', "ssh-user:ops"),
        ('restrict,permitopen="a:22"', "ssh-user:ops"),
        ('command="true"', Reason.KEY_OPTION),
        ("verify-required", Reason.KEY_OPTION),
        ("cert-authority", Reason.UNKNOWN_KEY),
    ],
)
async def test_the_options_of_a_key_decide_about_the_login(
    tmp_path: Path, options: str, outcome: Reason | str
) -> None:
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        bed.authorize("users", "ops", f"{options} {ssh_keys.public(bed.ops)}")
        bed.reread()
        assert await tried(bed, bed.ops) == outcome
        assert len(bed.guests) == (outcome == "ssh-user:ops")


class Certified:
    """An unknown key, and a CA of the users `sre` and `oncall`, whose principals have these names."""

    def __init__(self, bed: SshBed, options: str = "") -> None:
        self.bed = bed
        self.ca = ssh_keys.new_key(bed.folder / "ca")
        if options:
            bed.authorize("users", "sre", f"{options} {ssh_keys.public(self.ca)}")
        else:
            path = bed.folder / "ca.pub"
            path.chmod(0o644)
            bed.authorize("users", "sre", cert_authority=[str(path)], principals=["sre", "oncall"])
        bed.reread()

    async def tried(self, principals: str = "sre", **how: object) -> Reason | str:
        ssh_keys.sign(self.bed.stranger, ca=self.ca, principals=principals, **how)  # type: ignore[arg-type]  # as given
        return await tried(self.bed, self.bed.stranger)


@pytest.mark.parametrize("principals", ["sre", "oncall", "other,oncall", "sre,oncall"])
async def test_the_principal_of_a_certificate_decides_the_identity(tmp_path: Path, principals: str) -> None:
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        assert await Certified(bed).tried(principals) == "ssh-user:sre"
        login = bed.guests[0].session.login
        assert login
        assert login.fingerprint == ssh_keys.fingerprint(bed.stranger)
        assert login.may_forward
        assert login.expires is not None


async def test_the_log_names_the_certificate(tmp_path: Path) -> None:
    """Several people may be one user: the key ID says which of them it is."""
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        ssh_keys.sign(bed.stranger, ca=Certified(bed).ca, principals="sre", more=["-I", "alice", "-z", "77"])
        with capture_logs() as logs:
            await bed.ssh(bed.stranger, "true", user="somebody")
            await bed.ssh(bed.ops, "true", user="somebody")
    lines = [line for line in logs if line["event"] == "logged in"]
    assert [(line["caller"], line.get("certificate")) for line in lines] == [
        ("ssh-user:sre", "alice (serial 77)"),
        ("ssh-user:ops", None),
    ]


@pytest.mark.parametrize(
    ("principals", "how", "reason"),
    [
        ("ops", {}, Reason.CERTIFICATE),
        ("", {}, Reason.CERTIFICATE),
        ("sre", {"validity": "-2h:-1h"}, Reason.KEY_EXPIRED),
        ("sre", {"validity": "+1h:+2h"}, Reason.CERTIFICATE),
        ("sre", {"more": ["-O", "force-command=true"]}, Reason.CERTIFICATE),
        ("sre", {"more": ["-O", "critical:new@example.com=x"]}, Reason.CERTIFICATE),
        ("sre", {"more": ["-O", "verify-required"]}, Reason.CERTIFICATE),
        ("sre", {"more": ["-O", "source-address=10.0.0.0/8"]}, Reason.KEY_SOURCE),
    ],
    ids=["principal", "no principal", "expired", "early", "command", "critical", "verify", "source"],
)
async def test_certificates_that_do_not_allow_the_login_are_refused(
    tmp_path: Path, principals: str, how: dict[str, object], reason: Reason
) -> None:
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        assert await Certified(bed).tried(principals, **how) == reason
        assert not bed.guests


@pytest.mark.parametrize("taken", ["the CA", "the principal", "the CA is revoked"])
async def test_a_certificate_that_is_no_longer_accepted_ends_its_connection(
    tmp_path: Path, taken: str
) -> None:
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        ca = Certified(bed).ca
        ssh_keys.sign(bed.stranger, ca=ca, principals="oncall")
        client = await bed.start(bed.stranger, "-N")
        guest = await bed.logged_in()
        if taken == "the CA":
            bed.authorize("users", "sre", ssh_keys.public(bed.stranger))  # the login was by the certificate
            bed.reread()
        elif taken == "the principal":
            bed.authorize("users", "sre", cert_authority=[f"{ca}.pub"], principals=["sre"])
            bed.reread()
        else:
            revoked = frozenset({b64decode(ssh_keys.public(ca).split()[1])})
            bed.server.use_table(replace(bed.server.table, revoked=revoked))
        async with asyncio.timeout(WAIT_S):
            await guest.gone
            _, said = await client.communicate()
        assert isinstance(guest.error, KeyRemoved)
        assert b"kubemux: key_removed" in said


async def test_a_certificate_of_an_unknown_ca_is_refused(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        other = ssh_keys.new_key(bed.folder / "other")
        Certified(bed)
        ssh_keys.sign(bed.stranger, ca=other, principals="sre")
        with capture_logs() as logs:
            await bed.ssh(bed.stranger, "true")
    [line] = [line for line in logs if line["event"] == "login refused"]
    assert line["reason"] == Reason.UNKNOWN_KEY
    assert line["message"].endswith(f"no user and no site has its CA {ssh_keys.fingerprint(other)}")


async def test_a_certificate_may_come_from_its_source_and_extensions_count(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        certified = Certified(bed)
        more = ["-O", "source-address=127.0.0.0/8,10.0.0.1", "-O", "no-port-forwarding"]
        assert await certified.tried(more=more) == "ssh-user:sre"
        login = bed.guests[0].session.login
        assert login
        assert not login.may_forward


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ('cert-authority,principals="a,sre"', "ssh-user:sre"),
        ("cert-authority", "ssh-user:sre"),
        ('cert-authority,principals="a"', Reason.CERTIFICATE),
        ('cert-authority,from="10.0.0.1"', Reason.KEY_SOURCE),
        ('cert-authority,expiry-time="20000101"', Reason.KEY_EXPIRED),
        ("restrict", Reason.UNKNOWN_KEY),
    ],
)
async def test_the_options_of_a_ca_in_authorized_keys_decide_about_the_login(
    tmp_path: Path, options: str, outcome: Reason | str
) -> None:
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        assert await Certified(bed, options).tried() == outcome


async def test_a_certificate_with_principals_of_two_identities_is_refused(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        certified = Certified(bed)
        bed.authorize("sites", "edge", cert_authority=[str(bed.folder / "ca.pub")])
        bed.reread()
        assert await certified.tried("edge") == "site:edge"
        assert await certified.tried("edge,sre") == Reason.CERTIFICATE


async def test_a_sha1_signature_is_refused(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        rsa = ssh_keys.new_key(bed.folder / "rsa", kind="rsa")
        bed.authorize("users", "ops", ssh_keys.public(rsa))
        bed.reread()
        assert await tried(bed, rsa) == "ssh-user:ops"
        with pytest.raises(asyncssh.PermissionDenied):
            await asyncssh.connect(
                *bed.address,
                username="ops",
                client_factory=Sha1,
                client_keys=[str(rsa)],
                signature_algs=["ssh-rsa"],
                agent_path=None,
                known_hosts=None,
                config=None,
            )
        await asyncio.wait_for(bed.quiet(), 60)
        assert bed.record.results == {Reason.OK: 1, Reason.WEAK_SIGNATURE: 1}


class Sha1(asyncssh.SSHClient):
    """A client that signs with SHA-1, although the server does not list it (RFC 8308 3.1)."""

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._conn = conn

    def begin_auth(self, username: str) -> None:
        del username
        cast("Any", self._conn)._server_sig_algs = {b"ssh-rsa"}


async def test_a_certificate_that_was_signed_with_sha1_is_refused(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        ca = ssh_keys.new_key(bed.folder / "rsa_ca", kind="rsa")
        bed.authorize("users", "sre", f"cert-authority {ssh_keys.public(ca)}")
        bed.reread()
        ssh_keys.sign(bed.stranger, ca=ca, principals="sre")
        assert await tried(bed, bed.stranger) == "ssh-user:sre"
        ssh_keys.sign(bed.stranger, ca=ca, principals="sre", more=["-t", "ssh-rsa"])
        assert await tried(bed, bed.stranger) == Reason.WEAK_SIGNATURE


async def test_the_log_has_the_refusal_of_the_known_key_not_of_others(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        bed.authorize("users", "ops", f'expiry-time="20200101" {ssh_keys.public(bed.ops)}')
        bed.reread()
        assert await tried(bed, bed.ops, "-i", str(bed.stranger)) == Reason.KEY_EXPIRED


async def test_a_key_of_two_identities_is_refused(tmp_path: Path) -> None:
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        bed.authorize("sites", "edge", ssh_keys.public(bed.ops))
        bed.reread()
        assert await tried(bed, bed.ops) == Reason.KEY_OPTION


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
async def test_keys_of_each_kind_are_accepted(tmp_path: Path, kind: str) -> None:
    async with SshBed(tmp_path / "bed", sources=OWN) as bed:
        key = ssh_keys.new_key(bed.folder / "key", kind=kind)
        bed.authorize("users", "ops", ssh_keys.public(key))
        bed.reread()
        assert await tried(bed, key) == "ssh-user:ops"
