"""If a key or certificate expires while its client is connected, the login ends, and the client gets the
reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.errors import KeyExpired
from proxy.errors.reasons import Reason
from proxy.ssh.server.session import Session
from tests.support import ssh_keys
from tests.support.ssh_bed import WAIT_S, SshBed, ended

pytestmark = pytest.mark.sshd

LATER_S = 3600.0


def by_key(bed: SshBed, when: float) -> None:
    text = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(when))
    bed.authorize("sites", "factory-7", f'expiry-time="{text}" {ssh_keys.public(bed.factory)}')


def by_authority(bed: SshBed, when: float) -> None:
    """A certificate of a CA whose line expires before the certificate does."""
    text = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(when))
    ca = signed(bed, when + LATER_S)
    bed.authorize("sites", "factory-7", f'cert-authority,expiry-time="{text}" {ssh_keys.public(ca)}')


def by_certificate(bed: SshBed, when: float) -> None:
    ca = signed(bed, when)
    bed.authorize("sites", "factory-7", f"cert-authority {ssh_keys.public(ca)}")


def signed(bed: SshBed, when: float) -> Path:
    """Issue a certificate for the site, valid until `when` (Unix time). Returns the CA."""
    ca = ssh_keys.new_key(bed.folder / "ca")
    until = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(when))
    ssh_keys.sign(bed.factory, ca=ca, principals="factory-7", validity=f"always:{until}")
    return ca


def kinds(*sessions: Session) -> list[str]:
    return [session.login.kind for session in sessions if session.login]


@pytest.mark.parametrize("expires", [by_key, by_authority, by_certificate])
async def test_a_login_ends_when_its_time_is_over(
    tmp_path: Path, expires: Callable[[SshBed, float], None]
) -> None:
    async with SshBed(tmp_path / "bed", sources=[{"networks": ["127.0.0.0/8"]}]) as bed:
        expires(bed, time.time() + LATER_S)
        bed.reread()
        site, user = await bed.start(bed.factory, "-N"), await bed.start(bed.ops, "-N")
        try:
            await bed.logged_in(2)
            guest = next(one for one in bed.guests if kinds(one.session) == ["site"])
            with capture_logs() as logs:
                bed.server.now = lambda: time.time() + LATER_S
                async with asyncio.timeout(WAIT_S):
                    _, said = await site.communicate()
                    await guest.gone
            assert isinstance(guest.error, KeyExpired)
            assert b"kubemux: key_expired" in said
            [line] = [line for line in logs if line["event"] == "login ends"]
            assert line["reason"] == Reason.KEY_EXPIRED
            assert " expired at 20" in line["message"]
            found = await bed.ssh(bed.factory, "-N")
            assert "Permission denied" in found.said
            assert bed.record.results[Reason.KEY_EXPIRED] == 1
            assert kinds(*bed.server.live) == ["user"]
            assert user.returncode is None
        finally:
            await ended(site)
            await ended(user)
