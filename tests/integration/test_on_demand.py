"""A gateway with `on_demand` in a real daemon: its clients, and what status and metrics show meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from tests.integration.conftest import cluster, gateway
from tests.integration.running import PROBE, ask, connect, get, running, told, wait_for_log, wait_up
from tests.integration.test_life import kubemux
from tests.support.daemon import Daemon
from tests.support.https import Https
from tests.support.ports import free_port
from tests.support.serving import closed
from tests.support.sshd import Sshd, SshdFactory
from tests.support.tls import Certificates

pytestmark = pytest.mark.sshd


def series(daemon: Daemon) -> set[str]:
    """The metrics that alerts use and that exist for the gateway or the cluster `lab`."""
    names = ("kubemux_gateway_connected", "kubemux_cluster_up")
    lines = daemon.get("/metrics")[1].splitlines()
    return {name for name in names for line in lines if line.startswith(name) and '"lab"' in line}


async def until(daemon: Daemon, what: str, condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(daemon.wait_for, what, condition)


def states(daemon: Daemon) -> tuple[str, str]:
    document = json.loads(daemon.get("/status")[1])
    (lab,) = (one for one in document["clusters"] if one["name"] == "lab")
    return told(daemon)["lab"]["state"], lab["state"]


async def test_there_are_links_and_probes_only_while_there_are_clients(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    port = free_port()
    async with Https(certificates) as server:
        probe = {**PROBE, "timeout": "60s"}  # a slow probe would be a warning
        clusters = {"lab": cluster(port, server.endpoint, via="lab", ca=certificates.ca, probe=probe)}
        gateways = {"lab": gateway(sshd, dial="on_demand", idle_timeout="1s")}
        async with running(
            tmp_path, gateways=gateways, clusters=clusters, limits={"hold_timeout": "0s"}
        ) as daemon:
            await until(daemon, "idle", lambda: states(daemon) == ("idle", "idle"))
            code, text = await asyncio.to_thread(daemon.get, "/readyz?verbose")
            assert (code, text.splitlines()[1:3]) == (200, ["[+]gateway lab idle", "[+]cluster lab idle"])
            assert await asyncio.to_thread(series, daemon) == set()
            assert "Accepted" not in await asyncio.to_thread(sshd.log), "probes do not dial the gateway"
            reader, writer = await connect(port, certificates)
            assert await ask(reader, writer) == 200
            await wait_up(daemon, "lab")
            assert len(await asyncio.to_thread(series, daemon)) == 2
            await closed(writer)
            # Probes run meanwhile, five a second.
            await until(daemon, "idle again", lambda: states(daemon) == ("idle", "idle"))
            assert await asyncio.to_thread(series, daemon) == set()
            events = [entry["event"] for entry in daemon.events() if entry["level"] not in ("info", "debug")]
            assert events == [], "none of this is a warning or an error"


async def test_probes_with_keep_up_keep_a_gateway_up(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    async with Https(certificates) as server:
        probe = {**PROBE, "keep_up": True}
        clusters = {"lab": cluster(free_port(), server.endpoint, via="lab", ca=certificates.ca, probe=probe)}
        gateways = {"lab": gateway(sshd, dial="on_demand", idle_timeout="3s", connections=1)}
        async with running(tmp_path, gateways=gateways, clusters=clusters) as daemon:
            await wait_up(daemon, "lab")
            probes = daemon.metric("kubemux_probes_total", cluster="lab")
            await until(
                daemon,
                "probes for longer than idle_timeout",
                lambda: daemon.metric("kubemux_probes_total", cluster="lab") > probes + 17,
            )
            assert daemon.metric("kubemux_gateway_connects_total", gateway="lab") == 1


async def test_a_client_of_a_gateway_that_cannot_be_dialled_is_reset_and_the_next_one_too(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    port = free_port()
    async with Https(certificates) as server:
        clusters = {"lab": cluster(port, server.endpoint, via="lab", ca=certificates.ca, probe=PROBE)}
        gateways = {"lab": gateway(sshd, dial="on_demand", user="nobody")}
        async with running(tmp_path, gateways=gateways, clusters=clusters) as daemon:
            await until(daemon, "idle", lambda: states(daemon) == ("idle", "idle"))
            loop = asyncio.get_running_loop()
            began = loop.time()
            for _ in range(3):
                with pytest.raises(OSError, match="reset"):
                    await get(port, certificates)
            # It is down until the next dial may begin, and idle after that.
            await wait_for_log(daemon, "gateway state", gateway="lab", state="down")
            await wait_for_log(daemon, "cluster down", cluster="lab")
            assert told(daemon)["lab"]["reason"] == "auth_failed"
            (failed,) = daemon.events("gateway dial failed")
            dials = daemon.metric("kubemux_gateway_connects_total", gateway="lab")
            assert dials == 1 or loop.time() - began > cast("float", failed["retry_in"])
            assert daemon.metric("kubemux_connections_total", cluster="lab", result="link_down") == 3
            assert not daemon.events("clients are refused")


async def test_the_next_client_is_served_after_sshd_has_stopped_with_or_without_clients(
    sshd_factory: SshdFactory, tmp_path: Path, certificates: Certificates
) -> None:
    sshd, port = sshd_factory(), free_port()
    await asyncio.to_thread(sshd.stop)
    async with Https(certificates) as server:
        clusters = {"lab": cluster(port, server.endpoint, via="lab", ca=certificates.ca, probe=PROBE)}
        gateways = {"lab": gateway(sshd, dial="on_demand")}
        async with running(tmp_path, gateways=gateways, clusters=clusters) as daemon:
            await until(daemon, "idle", lambda: states(daemon) == ("idle", "idle"))
            with pytest.raises(OSError, match="reset"):
                await get(port, certificates)
            assert told(daemon)["lab"]["reason"] == "unreachable"
            await until(daemon, "idle again, as no dial waits", lambda: states(daemon)[0] == "idle")
            await asyncio.to_thread(sshd.start)
            reader, writer = await connect(port, certificates)
            assert await ask(reader, writer) == 200
            await asyncio.to_thread(sshd.restart)
            with pytest.raises((OSError, EOFError)):
                await ask(reader, writer)
            await closed(writer)
            assert await get(port, certificates) == 200
            assert daemon.metric("kubemux_connections_total", cluster="lab", result="link_lost") == 1
            assert states(daemon)[0] == "up"


async def test_orders_and_reloads_dial_only_if_there_is_a_client(
    sshd: Sshd, tmp_path: Path, certificates: Certificates
) -> None:
    port = free_port()
    async with Https(certificates) as server:
        clusters = {"lab": cluster(port, server.endpoint, via="lab", ca=certificates.ca, probe=PROBE)}
        gateways = {"lab": gateway(sshd, dial="on_demand", connections=1)}
        async with running(tmp_path, gateways=gateways, clusters=clusters) as daemon:

            def dials() -> float:
                return daemon.metric("kubemux_gateway_connects_total", gateway="lab", result="ok")

            async def order(*words: str) -> str:
                return await asyncio.to_thread(kubemux, *words, "--config", daemon.config)

            await until(daemon, "idle", lambda: states(daemon) == ("idle", "idle"))
            await order("reconnect", "lab")
            assert (states(daemon), dials()) == (("idle", "idle"), 0), "nobody needs a link"

            reader, writer = await connect(port, certificates)
            await order("reconnect", "lab")
            await until(daemon, "a link made anew", lambda: dials() == 2)
            assert await ask(reader, writer) == 200
            gateways = {"lab": {**gateways["lab"], "idle_timeout": "1s"}}
            daemon.configure(gateways=gateways, clusters=clusters)
            assert await order("reload") == "changed gateway lab\n"
            assert await ask(reader, writer) == 200
            await closed(writer)
            await until(daemon, "idle by the new idle_timeout", lambda: states(daemon) == ("idle", "idle"))
            assert dials() == 2, "the reload has kept the link"

            await order("drain", "lab")
            with pytest.raises(OSError, match="refused"):
                await get(port, certificates)
            await order("reload")
            assert await get(port, certificates) == 200

            gateways = {"lab": {**gateways["lab"], "dial": "always"}}
            daemon.configure(gateways=gateways, clusters=clusters)
            await order("reload")
            await wait_up(daemon, "lab")
            assert len(await asyncio.to_thread(series, daemon)) == 2
