"""Reloads and orders while clients are connected by name: which connections they end, and which they keep."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from structlog.testing import capture_logs

from proxy.admin.orders import ReloadResult
from proxy.config.loader import load
from proxy.daemon.daemon import Daemon
from proxy.daemon.orders import Controller
from proxy.errors import UnknownName
from proxy.runtime.endpoint import Endpoint
from tests.support.echo import Echo
from tests.support.ports import free_port
from tests.support.serving import closed

ME = f"uid:{os.getuid()}"
OTHERS = [f"uid:{os.getuid() + 4711}"]


class Client(NamedTuple):
    """A client that has connected."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def tick(self) -> None:
        """Check that the client is served."""
        async with asyncio.timeout(30):
            self.writer.write(b"tick")
            assert await self.reader.readexactly(4) == b"tick"

    async def is_reset(self) -> bool:
        async with asyncio.timeout(30):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True


class Bed:
    """A daemon in this process: a cluster with a listener and a name, two routes and an entry."""

    def __init__(self, echo: Echo, folder: Path) -> None:
        self.path = folder / "config.yaml"
        self.proxy, self.listen = (Endpoint("127.0.0.1", free_port()) for _ in range(2))
        target = str(echo.endpoint)
        self.config: dict[str, Any] = {
            "version": 1,
            "admin": {"listen": f"127.0.0.1:{free_port()}"},
            "limits": {"drain_timeout": "0s"},
            "clusters": {
                "prod": {"gateway": "direct", "listen": str(self.listen), "api_servers": [target]},
                "apart": {"gateway": "direct", "api_servers": [target]},
            },
            "routes": [
                {"name": "mine", "match": ["*.mine:*"], "gateway": "direct", "target": target},
                {"name": "far", "match": ["*.far:*"], "gateway": "direct", "target": target},
            ],
            "entries": {"proxy": {"listen": str(self.proxy)}},
        }
        self.write()
        self.daemon = Daemon(load(self.path), config_path=self.path)
        self.controller = Controller(self.daemon)
        self.clients: list[Client] = []

    def write(self) -> None:
        self.path.write_text(json.dumps(self.config))

    async def reload(self) -> ReloadResult:
        self.write()
        return await self.controller.reload()

    async def served_client(self, name: str = "", proxy: Endpoint | None = None) -> Client:
        """Connect a client to the listener, or to the name; it must be served."""
        client = await self.connect(name, proxy)
        if name:
            answer = await client.reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 "), answer
        await client.tick()
        return client

    async def connect(self, name: str, proxy: Endpoint | None = None) -> Client:
        client = Client(*await asyncio.open_connection(*((proxy or self.proxy) if name else self.listen)))
        self.clients.append(client)
        if name:
            client.writer.write(f"CONNECT {name} HTTP/1.1\r\n\r\n".encode())
        return client

    async def refusal(self, name: str) -> str:
        """The status line for a client that is refused."""
        client = await self.connect(name)
        return (await client.reader.readline()).decode().strip()

    async def end(self) -> None:
        for client in self.clients:
            await closed(client.writer)
        await self.daemon.stop(timeout=0)


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with Echo() as echo, serving(echo, tmp_path) as bed:
        yield bed


@asynccontextmanager
async def serving(echo: Echo, folder: Path) -> AsyncIterator[Bed]:
    bed = Bed(echo, folder)
    try:
        await bed.daemon.start(bed.controller)
        yield bed
    finally:
        await bed.end()


async def test_a_new_allow_affects_only_new_connections(bed: Bed) -> None:
    open_ones = [
        await bed.served_client(name) for name in ("", "prod:443", "apart:443", "a.mine:1", "a.far:1")
    ]
    for allow in (OTHERS, [ME], OTHERS):
        bed.config["clusters"]["prod"]["allow"] = bed.config["routes"][0]["allow"] = allow
        assert (await bed.reload()).changed == ("cluster prod", "route mine")
        if allow == [ME]:
            open_ones += [await bed.served_client(name) for name in ("", "prod:443", "a.mine:1")]
        else:
            with pytest.raises(ConnectionResetError):  # connect(2) itself may fail if the reset is fast
                await (await bed.connect("")).reader.read()
            me = ME.replace(":", " ")
            for name in ("prod", "a.mine"):
                said = f"HTTP/1.1 403 kubemux: {name}: denied ({me} is not in allow)"
                assert await bed.refusal(f"{name}:443") == said
        for client in (*open_ones, await bed.served_client("apart:443"), await bed.served_client("a.far:1")):
            await client.tick()


async def test_a_changed_route_touches_nothing_else(bed: Bed) -> None:
    others = [await bed.served_client(name) for name in ("", "prod:443", "apart:443", "a.far:1")]
    mine = await bed.served_client("a.mine:1")
    graph = bed.daemon.graph
    routes, clusters, entries = dict(graph.routes), dict(graph.clusters), dict(graph.entries)
    async with Echo() as elsewhere:
        bed.config["routes"][0]["target"] = str(elsewhere.endpoint)
        result = await bed.reload()
        assert (result.added, result.changed, result.removed) == ((), ("route mine",), ())
        assert await mine.is_reset()
        assert (dict(graph.clusters), dict(graph.entries)) == (clusters, entries)
        assert graph.routes["far"] is routes["far"]
        await bed.served_client("a.mine:1")
        assert elsewhere.accepted == 1
        del bed.config["routes"][0]
        assert (await bed.reload()).removed == ("route mine",)
        assert " unknown_name " in await bed.refusal("a.mine:1")
        for client in (*others, await bed.served_client("a.far:1")):
            await client.tick()


async def test_another_order_of_routes_cuts_no_connection(bed: Bed) -> None:
    first, second = bed.config["routes"]
    second["match"] = ["*.mine:*"]
    second["entries"] = ["proxy"]
    clients = [await bed.served_client("a.mine:1"), await bed.served_client("a.far:1")]
    bed.config["routes"] = [{**second, "match": ["a.mine:*"]}, first]
    assert (await bed.reload()).changed == ("route far",)
    clients.append(await bed.served_client("a.mine:1"))
    for client in clients:
        await client.tick()
    shown = [(route.name, route.connections) for route in bed.daemon.snapshot().routes]
    assert shown == [("far", 2), ("mine", 1)]


async def test_an_entry_keeps_its_socket_until_it_moves(bed: Bed) -> None:
    clients = [await bed.served_client(name) for name in ("prod:443", "a.mine:1")]
    graph = bed.daemon.graph
    entry = graph.entries["proxy"]
    sock = entry.listener.listener.sock
    assert sock is not None
    bed.config["limits"]["hold_timeout"] = "7s"
    bed.config["entries"]["second"] = {"listen": f"127.0.0.1:{free_port()}"}
    assert (await bed.reload()).added == ("entry second",)
    assert graph.entries["proxy"] is entry
    assert entry.listener.listener.sock is sock
    clients.append(await bed.served_client("apart:443"))

    moved = Endpoint("127.0.0.1", free_port())
    bed.config["entries"]["proxy"]["listen"] = str(moved)
    del bed.config["entries"]["second"]
    result = await bed.reload()
    assert (result.changed, result.removed) == (("entry proxy",), ("entry second",))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*bed.proxy)
    clients.append(await bed.served_client("apart:443", moved))
    for client in clients:
        await client.tick()

    # Two entries exchange their addresses: neither refuses a client in between.
    third = Endpoint("127.0.0.1", free_port())
    bed.config["entries"]["third"] = {"listen": str(third)}
    await bed.reload()
    before = graph.entries["proxy"].listener.listener
    bed.config["entries"]["proxy"]["listen"], bed.config["entries"]["third"]["listen"] = (
        str(third),
        str(moved),
    )
    assert (await bed.reload()).changed == ("entry proxy", "entry third")
    assert graph.entries["third"].listener.listener is before
    for client in (
        *clients,
        await bed.served_client("apart:443", moved),
        await bed.served_client("apart:443", third),
    ):
        await client.tick()


async def test_a_reload_reports_which_entry_is_not_bound(bed: Bed) -> None:
    bed.config["entries"]["second"] = {"listen": str(bed.proxy)}
    del bed.config["entries"]["proxy"]
    assert (await bed.reload()).warnings == (), "it gets the address of the other entry"
    async with Echo() as squatter:
        bed.config["entries"]["third"] = {"listen": str(squatter.endpoint)}
        result = await bed.reload()
        assert result.added == ("entry third",)
        assert [str(squatter.endpoint) in warning for warning in result.warnings] == [True]
        assert not bed.daemon.snapshot().ready


async def test_connections_of_one_caller_are_ended(bed: Bed) -> None:
    bed.config["routes"][0]["allow"] = [ME]  # kubemux asks for uids
    await bed.reload()
    prod, mine, far = [await bed.served_client(name) for name in ("", "a.mine:1", "a.far:1")]
    controller = bed.controller
    assert await controller.end(OTHERS[0], None) == 0
    assert await controller.end(ME, "apart") == 0
    for client in (prod, mine, far):
        await client.tick()
    with capture_logs() as logs:
        assert await controller.end(ME, "mine") == 1
        assert await mine.is_reset()
    [ended] = [log for log in logs if log["event"] == "connections ended"]
    assert (ended["caller"], ended["of"], ended["ended"]) == (ME, "mine", 1)
    [trail] = [log for log in logs if log["event"] == "connection closed"]
    assert (trail["route"], trail["caller"], trail["reason"]) == ("mine", ME, "shutdown")
    await prod.tick()
    mine = await bed.served_client("a.mine:1")
    port = prod.writer.get_extra_info("sockname")[1]
    assert await controller.end(f"127.0.0.1:{port}", None) == 1
    assert await prod.is_reset()
    await far.tick()
    assert await controller.end("127.0.0.1", None) == 2
    assert (await mine.is_reset(), await far.is_reset()) == (True, True)
    await bed.served_client("a.mine:1")
    with pytest.raises(UnknownName, match="no cluster, route or site is called 'mime'"):
        await controller.end(ME, "mime")


async def test_a_request_for_a_drained_route_is_refused_and_counted(bed: Bed) -> None:
    """Requests are refused until the next reload. Clients of other names do not notice."""
    bed.config["limits"]["drain_timeout"] = "10m"
    await bed.reload()
    others = [await bed.served_client(name) for name in ("", "prod:443", "a.far:1")]
    mine = await bed.served_client("a.mine:1")
    for name, kind, asked in (("apart", "cluster", "apart"), ("mine", "route", "a.mine")):
        draining = asyncio.get_running_loop().create_task(bed.controller.drain(name))
        graph = bed.daemon.graph
        async with asyncio.timeout(30):
            while not (graph.clusters.get(name) or graph.routes[name]).is_drained:
                await asyncio.sleep(0)
        with capture_logs() as logs:
            said = f"HTTP/1.1 503 kubemux: {asked}: drained ({kind} {name} is drained)"
            assert await bed.refusal(f"{asked}:443") == said
        [refused] = [log for log in logs if log["event"] == "connection refused"]
        assert (refused[kind], refused["reason"], refused["entry"]) == (name, "drained", "proxy")
        if name == "mine":
            await mine.tick()
            mine.writer.close()
        async with asyncio.timeout(30):
            assert (await draining).cut == 0
    for client in others:
        await client.tick()
    [entry] = bed.daemon.snapshot().entries
    assert (entry.connections, entry.connections_total) == (2, 5), "those that were refused are gone"
    assert [route.drained for route in bed.daemon.snapshot().routes] == [True, False]
    bed.config["limits"]["drain_timeout"] = "0s"
    assert (await bed.reload()).changed == ("cluster apart", "route mine")
    for name in ("apart:443", "a.mine:1"):
        await bed.served_client(name)


async def test_connections_that_outlive_a_reload_are_ended_too(bed: Bed) -> None:
    bed.config["limits"]["drain_timeout"] = "10m"
    await bed.reload()
    mine, prod = await bed.served_client("a.mine:1"), await bed.served_client("prod:443")
    del bed.config["routes"][0]
    bed.config["clusters"]["prod"]["listen"] = f"127.0.0.1:{free_port()}"
    await bed.reload()
    await mine.tick()
    await prod.tick()
    for client, of in ((prod, "prod"), (mine, None)):
        assert await bed.controller.end("127.0.0.1", of) == 1
        assert await client.is_reset()
    await bed.daemon.graph._retiring.wait(30)
    assert not list(bed.daemon.graph._retiring)


async def test_a_direct_route_to_kubemux_itself_is_refused(bed: Bed) -> None:
    wide = free_port()
    bed.config["entries"]["wide"] = {"listen": f"0.0.0.0:{wide}", "allow_remote": True, "allow": ["any"]}
    bed.config["routes"].append({"name": "all", "match": ["**:*", "0.0.0.0/0:*"], "gateway": "direct"})
    await bed.reload()
    admin, listen = bed.config["admin"]["listen"], str(bed.listen)
    for address in (admin, listen, f"localhost:{bed.proxy.port}", f"127.0.0.3:{wide}"):
        answer = await bed.refusal(address)
        assert f"channel_refused ({address} is kubemux's own " in answer, answer
