"""Faults while the daemon runs, one at a time: each is reported clearly, and everything else still works."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path
from typing import cast

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.conftest import cluster, gateway
from tests.integration.running import PROBE, ask, connect, get, running, settled, told, wait_for_log, wait_up
from tests.support.daemon import Daemon
from tests.support.https import Https
from tests.support.ports import free_port
from tests.support.serving import closed
from tests.support.sshd import Sshd, SshdFactory
from tests.support.tls import Certificates

pytestmark = pytest.mark.sshd

ONCE = {"interval": "1h", "threshold": 1, "timeout": "60s"}


async def wait_down(daemon: Daemon, cluster: str, result: str) -> dict[str, object]:
    """Wait until the log says that the cluster is down for this reason. Returns the entry.

    There may be another reason before: the first probe may not wait until the gateway's first login ends.
    """

    def found() -> list[dict[str, object]]:
        wanted = {"cluster": cluster, "result": result}.items()
        events = (*daemon.events("cluster down"), *daemon.events("cluster still down"))
        return [entry for entry in events if wanted <= entry.items()]

    await asyncio.to_thread(daemon.wait_for, f"{cluster} down: {result}", lambda: bool(found()))
    return found()[0]


async def test_a_busy_port_is_bound_once_it_is_free(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    free, busy = free_port(), free_port()
    with socket.create_server(("127.0.0.1", busy)) as squatter:
        async with Https(certificates) as server:
            clusters = {
                name: cluster(port, server.endpoint, ca=certificates.ca, probe=PROBE)
                for name, port in (("blocked", busy), ("fine", free))
            }
            expected = {"listener failed"}
            async with running(
                tmp_path / "daemon",
                gateways={"edge": gateway(sshd)},
                clusters=clusters,
                expected_errors=expected,
            ) as daemon:
                await wait_up(daemon, "fine")
                assert await get(free, certificates) == 200
                assert daemon.get("/readyz")[0] == 503
                assert daemon.metric("kubemux_cluster_listening", cluster="blocked") == 0
                assert daemon.metric("kubemux_cluster_listening", cluster="fine") == 1
                (said,) = (
                    entry
                    for entry in daemon.events()
                    if entry.get("cluster") == "blocked" and entry["level"] == "error"
                )
                assert f"127.0.0.1:{busy}" in str(said["message"])
                assert f"sport = :{busy}" in str(said["hint"])
                (blocked,) = (
                    one
                    for one in json.loads(daemon.get("/status")[1])["clusters"]
                    if one["name"] == "blocked"
                )
                assert (blocked["message"], blocked["hint"]) == (said["message"], said["hint"])
                squatter.close()
                await asyncio.to_thread(daemon.wait_for, "ready", lambda: daemon.get("/readyz")[0] == 200)
                assert await get(busy, certificates) == 200
                assert daemon.metric("kubemux_cluster_listening", cluster="blocked") == 1


async def test_gateways_that_cannot_be_reached_are_reported(
    sshd_factory: SshdFactory, tmp_path: Path, certificates: Certificates
) -> None:
    sshd, stopped, closed_off, elsewhere = (
        sshd_factory(),
        sshd_factory(),
        sshd_factory(config={"AllowTcpForwarding": "no"}),
        sshd_factory(config={"PermitOpen": "127.0.0.1:1"}),
    )
    await asyncio.to_thread(stopped.stop)
    gateways = {
        "fine": gateway(sshd),
        "unresolvable": gateway(sshd, host="no.such.gateway.invalid"),
        "refusing": gateway(stopped),
        "closed-off": gateway(closed_off),
        "elsewhere": gateway(elsewhere),
    }
    ports = {name: free_port() for name in gateways}
    async with Https(certificates) as server:
        clusters = {
            name: cluster(port, server.endpoint, via=name, ca=certificates.ca, probe=PROBE)
            for name, port in ports.items()
        }
        limits = {"hold_timeout": "200ms"}
        async with running(
            tmp_path / "daemon", gateways=gateways, clusters=clusters, limits=limits
        ) as daemon:
            found = await settled(daemon)
            assert (found["unresolvable"]["reason"], found["refusing"]["reason"]) == (
                "unresolvable",
                "unreachable",
            )
            assert "no.such.gateway.invalid" in found["unresolvable"]["message"]
            assert "Connection refused" in found["refusing"]["message"]
            await wait_up(daemon, "fine")
            await wait_up(daemon, *(name for name in gateways if name != "fine"), up=False)
            for name, result in (
                ("unresolvable", "link_down"),
                ("refusing", "link_down"),
                ("closed-off", "channel_prohibited"),
                ("elsewhere", "channel_prohibited"),
            ):
                down = await wait_down(daemon, name, result)
                assert down["hint"]
                assert daemon.metric("kubemux_probes_total", cluster=name, result=result) >= 1
                # If the gateway was down for longer than hold_timeout, the kernel refuses clients, and the
                # daemon cannot count them.
                refusal: type[OSError] = ConnectionResetError
                if result == "link_down":
                    await wait_for_log(daemon, "clients are refused", cluster=name)
                    refusal = ConnectionRefusedError
                with pytest.raises(refusal):
                    await get(ports[name], certificates)
                assert (daemon.metric("kubemux_connections_total", cluster=name, result=result) or 0) == (
                    result != "link_down"
                )
            assert await get(ports["fine"], certificates) == 200


async def test_a_frozen_sshd_is_noticed_in_time(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    port = free_port()
    async with Https(certificates) as server:
        clusters = {
            "prod": cluster(port, server.endpoint, ca=certificates.ca, probe=ONCE),
        }
        gateways = {
            "edge": gateway(sshd, keepalive={"interval": "1s", "max_missed": 3}, connect_timeout="3s")
        }
        async with running(tmp_path / "daemon", gateways=gateways, clusters=clusters) as daemon:
            await wait_up(daemon, "prod")
            reader, writer = await connect(port, certificates)
            assert await ask(reader, writer) == 200
            await asyncio.to_thread(sshd.pause)
            try:
                # A reset, not an EOF, which the client could take for the regular end.
                with pytest.raises(ConnectionResetError):
                    await ask(reader, writer)
                lost = await wait_for_log(daemon, "link lost")
                assert lost["reason"] == "keepalive_timeout"
                failed = await wait_for_log(daemon, "gateway dial failed", reason="connect_timeout")
                assert "did not finish the SSH handshake within 3 s" in str(failed["message"])
            finally:
                await asyncio.to_thread(sshd.resume)
            await closed(writer)
            await asyncio.to_thread(
                daemon.wait_for,
                "the loss is mended",
                lambda: (
                    daemon.metric(
                        "kubemux_gateway_reconnects_total", gateway="edge", reason="keepalive_timeout"
                    )
                    >= 1
                ),
            )
            assert await get(port, certificates) == 200


async def test_clients_are_held_while_the_link_is_down(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    """Clients are served if a link is up within hold_timeout, and reset if not.

    A reload changes hold_timeout.
    """
    port = free_port()
    async with Https(certificates) as server:
        sections = {
            "gateways": {"edge": gateway(sshd, connect_timeout="5m")},
            "clusters": {"prod": cluster(port, server.endpoint, ca=certificates.ca, probe=ONCE)},
        }
        async with running(tmp_path / "daemon", **sections, limits={"hold_timeout": "400ms"}) as daemon:
            await wait_up(daemon, "prod")
            # The next dial gets no answer, and does not fail: then the kernel would soon refuse clients.
            await asyncio.to_thread(sshd.pause)
            sshd.signal_sessions(signal.SIGKILL, sshd.sessions())
            await wait_for_log(daemon, "gateway state", state="down")
            with pytest.raises(ConnectionResetError):
                await get(port, certificates)
            closed = await wait_for_log(daemon, "connection closed", cluster="prod", reason="link_down")
            assert cast("float", closed["seconds"]) > 0.35
            assert daemon.metric("kubemux_connections_total", cluster="prod", result="link_down") == 1

            daemon.configure(
                **sections, sections={"limits": {"hold_timeout": "60s", "drain_timeout": "500ms"}}
            )
            daemon.signal(signal.SIGHUP)
            await wait_for_log(daemon, "reloaded")
            loop = asyncio.get_running_loop()
            early = loop.create_task(get(port, certificates), name="early client")
            await asyncio.to_thread(
                daemon.wait_for,
                "a client waits",
                lambda: daemon.metric("kubemux_connections_active", cluster="prod") == 1,
            )
            await asyncio.to_thread(sshd.resume)
            assert await early == 200


async def test_a_reload_replaces_only_changed_parts(
    sshd_factory: SshdFactory, tmp_path: Path, certificates: Certificates
) -> None:
    """One connection through an unchanged cluster survives reloads that change all others."""
    sshd, other = sshd_factory(), sshd_factory()
    ports = {name: free_port() for name in ("kept", "moved", "gone", "added")}
    async with Https(certificates) as server:

        def section(name: str, via: str = "edge", **more: object) -> object:
            return cluster(ports[name], server.endpoint, via=via, ca=certificates.ca, probe=PROBE, **more)

        limits = {"hold_timeout": "60s", "drain_timeout": "500ms"}
        gateways = {"edge": gateway(sshd), "other": gateway(sshd), "leaving": gateway(sshd)}
        clusters = {
            "kept": section("kept"),
            "moved": section("moved", "other"),
            "gone": section("gone", "leaving"),
        }
        async with running(
            tmp_path / "daemon",
            gateways=gateways,
            clusters=clusters,
            limits=limits,
            expected_errors={"reload rejected"},
        ) as daemon:
            await wait_up(daemon, *clusters)
            links = told(daemon)["edge"]["links"]
            reader, writer = await connect(ports["kept"], certificates)
            assert await ask(reader, writer) == 200

            # A gateway changed, one removed, one cluster removed, one added.
            after = {"kept": clusters["kept"], "moved": clusters["moved"], "added": section("added", "new")}
            daemon.configure(
                gateways={"edge": gateways["edge"], "other": gateway(other), "new": gateway(other)},
                clusters=after,
                sections={"limits": limits},
            )
            daemon.signal(signal.SIGHUP)
            reloaded = await wait_for_log(daemon, "reloaded")
            assert reloaded["added"] == ["gateway new", "cluster added"]
            assert reloaded["changed"] == ["gateway other"]
            assert reloaded["removed"] == ["gateway leaving", "cluster gone"]
            await wait_up(daemon, *after)
            assert await get(ports["moved"], certificates) == 200
            assert await get(ports["added"], certificates) == 200
            with pytest.raises(ConnectionRefusedError):
                await get(ports["gone"], certificates)
            assert await ask(reader, writer) == 200, "the same connection"
            assert told(daemon)["other"]["links"][0]["server"] == f"127.0.0.1:{other.port}"
            assert 'cluster="gone"' not in daemon.get("/metrics")[1]
            assert 'gateway="leaving"' not in daemon.get("/metrics")[1]

            # A bad file changes nothing.
            good = daemon.config.read_text()
            daemon.config.write_text(good.replace('"127.0.0.1:', '"nowhere:'))
            daemon.signal(signal.SIGHUP)
            rejected = await wait_for_log(daemon, "reload rejected")
            assert "nowhere" in json.dumps(rejected["problems"])
            assert daemon.metric("kubemux_config_reloads_total", result="rejected") == 1
            assert await ask(reader, writer) == 200
            assert await get(ports["added"], certificates) == 200
            assert told(daemon)["edge"]["links"][0]["age"] > links[0]["age"], "the same link"  # type: ignore[operator]
            await closed(writer)


async def test_an_api_server_that_cannot_be_reached_from_the_gateway(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    port = free_port()
    nobody = Endpoint("127.0.0.1", free_port())
    clusters = {"prod": cluster(port, nobody, ca=certificates.ca, probe=PROBE)}
    async with running(tmp_path / "daemon", gateways={"edge": gateway(sshd)}, clusters=clusters) as daemon:
        down = await wait_down(daemon, "prod", "channel_refused")
        assert str(nobody) in str(down["message"])
        assert "as seen from the gateway" in str(down["hint"])
