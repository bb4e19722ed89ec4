"""Jump chains over real sshds: the daemon connects only to the first host, and names the host that failed."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import cast

import pytest

from tests.integration.conftest import cluster, gateway
from tests.integration.running import PROBE, get, peers, running, settled, told, wait_for_log, wait_up
from tests.support.daemon import Sections
from tests.support.https import Https
from tests.support.ports import free_port
from tests.support.sshd import Sshd, SshdFactory
from tests.support.tls import Certificates

pytestmark = pytest.mark.sshd


def hop(sshd: Sshd, *jump: str) -> Sections:
    return gateway(sshd, jump=list(jump), connections=1)


async def test_gateways_come_up_through_two_and_three_hops(
    sshd_factory: SshdFactory, tmp_path: Path, certificates: Certificates
) -> None:
    """`inner` jumps through `middle`, which itself jumps through `first`, as with OpenSSH's ProxyJump."""
    first, middle, last = sshd_factory(), sshd_factory(), sshd_factory()
    gateways = {
        "first": hop(first),
        "middle": hop(middle, "first"),
        "last": hop(last, "first", "middle"),
        "inner": hop(last, "middle"),
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
            # On a busy machine a link may have been replaced meanwhile, and the old one is still closing.
            await asyncio.to_thread(
                daemon.wait_for, "one connection each", lambda: peers(daemon.pid) == [first.port] * 4
            )
            assert told(daemon)["last"]["links"][0]["server"] == f"127.0.0.1:{last.port}"

            daemon.configure(gateways={"first": hop(first)}, clusters={"first": clusters["first"]})
            daemon.signal(signal.SIGHUP)
            await asyncio.to_thread(
                daemon.wait_for, "one link left", lambda: peers(daemon.pid) == [first.port]
            )
            await asyncio.to_thread(
                daemon.wait_for, "no session left behind", lambda: not middle.sessions() | last.sessions()
            )
            assert await get(ports["first"], certificates) == 200


async def test_the_hop_that_is_down_is_named(
    sshd_factory: SshdFactory, tmp_path: Path, certificates: Certificates
) -> None:
    first, middle, last = sshd_factory(), sshd_factory(), sshd_factory()
    closed = sshd_factory(config={"AllowTcpForwarding": "no"})
    await asyncio.to_thread(middle.stop)
    gateways = {
        "first": hop(first),
        "middle": hop(middle, "first"),
        "last": hop(last, "first", "middle"),
        "closed": hop(closed),
        "behind-closed": hop(last, "closed"),
        "stranger": gateway(first, known_hosts=[str(first.known_hosts(key=last.host_key))], connections=1),
        "behind-stranger": hop(last, "stranger"),
    }
    port = free_port()
    async with Https(certificates) as server:
        clusters = {"prod": cluster(port, server.endpoint, via="first", ca=certificates.ca, probe=PROBE)}
        async with running(tmp_path / "daemon", gateways=gateways, clusters=clusters) as daemon:
            found = await settled(daemon)
            refused = (
                f"no TCP connection to 127.0.0.1:{middle.port} from the jump host before it: "
                "Connection refused"
            )
            assert (found["middle"]["reason"], found["middle"]["message"]) == ("unreachable", refused)
            assert (found["last"]["reason"], found["last"]["message"]) == (
                "jump_failed",
                f"jump host middle: {refused}",
            )
            prohibited = f"the jump host before 127.0.0.1:{last.port} does not allow forwarding to it"
            assert found["behind-closed"]["message"].startswith(prohibited)
            assert "AllowTcpForwarding" in found["behind-closed"]["hint"]
            assert found["behind-stranger"]["reason"] == "jump_failed"
            assert found["behind-stranger"]["message"].startswith(
                f"jump host stranger: 127.0.0.1:{first.port} shows host key"
            )
            assert "known_hosts" in found["behind-stranger"]["hint"]
            failed = await wait_for_log(daemon, "gateway dial failed", gateway="behind-stranger")
            assert 5 < cast("float", failed["retry_in"]) <= 15, (
                "a wrong host key is retried slowly, at a jump, too"
            )
            await wait_up(daemon, "prod")
            # A dial that failed at a later hop has left no connection on the hops before.
            await asyncio.to_thread(
                daemon.wait_for,
                "nothing half open",
                lambda: peers(daemon.pid) == sorted((first.port, closed.port)),
            )

            await asyncio.to_thread(middle.start)
            await wait_for_log(daemon, "link up", gateway="last")
            await wait_for_log(daemon, "link up", gateway="middle")


async def test_the_loss_of_a_jump_host_ends_the_links_through_it(
    sshd_factory: SshdFactory, tmp_path: Path, certificates: Certificates
) -> None:
    jump, last, other = sshd_factory(), sshd_factory(), sshd_factory()
    gateways = {"jump": hop(jump), "last": hop(last, "jump"), "other": hop(other)}
    ports = {"behind": free_port(), "beside": free_port()}
    async with Https(certificates) as server:
        clusters = {
            name: cluster(ports[name], server.endpoint, via=via, ca=certificates.ca, probe=PROBE)
            for name, via in (("behind", "last"), ("beside", "other"))
        }
        async with running(tmp_path / "daemon", gateways=gateways, clusters=clusters) as daemon:
            await wait_up(daemon, *clusters)
            await asyncio.to_thread(jump.stop)
            lost = await wait_for_log(daemon, "link lost", gateway="last")
            assert lost["reason"] == "link_lost"
            failed = await wait_for_log(daemon, "gateway dial failed", gateway="last")
            assert failed["reason"] == "jump_failed"
            assert str(failed["message"]).startswith(
                f"jump host jump: no TCP connection to 127.0.0.1:{jump.port}"
            )
            assert await get(ports["beside"], certificates) == 200
            await asyncio.to_thread(jump.start)
            await wait_for_log(daemon, "link up", link="last/2")
            assert await get(ports["behind"], certificates) == 200
            assert daemon.metric("kubemux_gateway_reconnects_total", gateway="last", reason="link_lost") == 1
