"""An sshd with PerSourcePenalties (OpenSSH 9.8), which refuses an address after failures. kubemux dials
slowly enough that sshd never refuses its address.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from proxy.snapshots import GatewayState
from proxy.ssh.handshakes import Handshakes
from tests.ssh.conftest import Watched, config_for, failure
from tests.support import ssh_keys
from tests.support.sshd import NewerSshd

pytestmark = pytest.mark.newer_sshd

REFUSES = "activating|active penalty"
"""What sshd logs when it begins to refuse an address: `activating` if the address has a penalty already,
as for a second after the connection that checked whether sshd listens.
"""


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[NewerSshd]:
    with NewerSshd(tmp_path / "sshd") as sshd:
        yield sshd


def is_down(gateway: Watched) -> bool:
    return gateway.snapshot().state is GatewayState.DOWN


def refuses_key(gateway: Watched) -> bool:
    return gateway.snapshot().reason == "host_key_changed"


async def test_refused_keys_do_not_lock_out_a_good_key(sshd: NewerSshd) -> None:
    """Six gateways with wrong keys, under three names of the same sshd, and one with a good key, which dials
    last.
    """
    shared = Handshakes()
    keys = [sshd.new_identity(f"wrong{number}", authorize=False) for number in range(6)]
    hosts = ["127.0.0.1", "localhost", "LOCALHOST"]
    gateways = [
        Watched(
            config_for(sshd, host=hosts[number % 3], identity_files=[str(key)], known_hosts=[any_name(sshd)])
        )
        for number, key in enumerate(keys)
    ]
    gateways.append(Watched(config_for(sshd, host="localhost", known_hosts=[any_name(sshd)])))
    try:
        for gateway in gateways:
            gateway._dialler._handshakes = shared
            gateway.start()
        *bad, good = gateways
        await good.until(lambda: good.links == 1, seconds=120)
        tried = [gateway.metric("gateway_connects_total", result="auth_failed") for gateway in bad]
        assert max(tried) == 1, "no wrong key was tried a second time before it"
        for gateway in bad:
            await gateway.until(partial(is_down, gateway), seconds=60)
            assert gateway.snapshot().reason == "auth_failed"
        good.renew("test")
        await good.until(lambda: good.metric("gateway_connects_total", result="ok") == 2, seconds=60)
        log = await counted(sshd, "penalty")
        assert not re.search(REFUSES, log)
        assert "drop connection" not in log
    finally:
        await asyncio.gather(*(gateway.close() for gateway in gateways))


async def counted(sshd: NewerSshd, what: str) -> str:
    """Wait until sshd has written this pattern to its log: it has counted a failure. Returns the log.

    Its listener learns of a failed login from its child process, a moment later.
    """
    async with asyncio.timeout(60):
        while not re.search(what, log := await asyncio.to_thread(sshd.log)):
            await asyncio.sleep(0.05)
    return log


def any_name(sshd: NewerSshd) -> str:
    path = sshd.folder / "known_hosts_any"
    path.write_text(f"[*]:{sshd.port} {ssh_keys.public(sshd.host_key)}\n")
    return str(path)


async def test_refused_host_keys_do_not_lock_out_a_good_gateway(sshd: NewerSshd, tmp_path: Path) -> None:
    """sshd also penalises a connection that leaves without a login, though less."""
    shared = Handshakes()
    other = ssh_keys.new_key(tmp_path / "other")
    gateways = [
        Watched(config_for(sshd, known_hosts=[str(sshd.known_hosts(key=other))], user=f"user{number}"))
        for number in range(20)
    ]
    good = Watched(config_for(sshd))
    try:
        for gateway in (*gateways, good):
            gateway._dialler._handshakes = shared
            gateway.start()
        await good.until(lambda: good.links == 1, seconds=120)
        for gateway in gateways:
            await gateway.until(partial(refuses_key, gateway), seconds=120)
        log = await counted(sshd, "without attempting authentication")
        assert not re.search(REFUSES, log)
    finally:
        await asyncio.gather(*(gateway.close() for gateway in (*gateways, good)))


async def test_the_message_says_that_sshd_penalises_the_address(tmp_path: Path) -> None:
    with NewerSshd(tmp_path / "sshd", config={"PerSourcePenalties": "authfail:60s"}) as sshd:
        wrong = config_for(sshd, identity_files=[str(sshd.new_identity("wrong", authorize=False))])
        assert (await failure(wrong)).reason == "auth_failed"
        await counted(sshd, REFUSES)
        found = await failure(config_for(sshd))
        assert found.reason == "handshake_failed"
        assert "PerSourcePenalties" in found.hint
        assert "hung up during the SSH handshake: it says 'Not allowed at this time'" in str(found)
