"""Many orders at the same time."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.admin.orders import DrainResult
from proxy.config.loader import load
from proxy.daemon.daemon import Daemon
from proxy.daemon.orders import Controller
from proxy.daemon.reload import Stopping
from proxy.entries import keeping
from proxy.errors import ConfigError, UnknownName
from proxy.runtime import names
from tests.support import ssh_keys
from tests.support.ports import free_port


@asynccontextmanager
async def controlled(folder: Path) -> AsyncIterator[tuple[Daemon, Controller]]:
    """A daemon without clusters, and the controller of its orders."""
    path = folder / "config.yaml"
    path.write_text("version: 1\n")
    daemon = Daemon(load(path), config_path=path)
    try:
        yield daemon, Controller(daemon)
    finally:
        await daemon.stop(timeout=0)


def reloads(daemon: Daemon, result: str) -> float:
    return daemon.metrics.registry.get_sample_value("kubemux_config_reloads_total", {"result": result}) or 0.0


async def crowd(controller: Controller, count: int = 12) -> list[object]:
    return list(await asyncio.gather(*(controller.reload() for _ in range(count)), return_exceptions=True))


async def test_all_orders_share_a_reload_that_has_not_begun(tmp_path: Path) -> None:
    async with controlled(tmp_path) as (daemon, controller):
        results = await crowd(controller)
        assert len(set(map(id, results))) == 1
        assert reloads(daemon, "ok") == 1


async def test_an_order_during_a_reload_gets_the_next_reload(tmp_path: Path) -> None:
    """The file may have changed since the first one read it."""
    async with controlled(tmp_path) as (daemon, controller):
        first = asyncio.get_running_loop().create_task(controller.reload())
        while not controller._reloading.locked():
            await asyncio.sleep(0)
        daemon.config_path.write_text("version: 1\nlimits: {hold_timeout: 7s}\n")
        await crowd(controller)
        assert first.done()
        assert daemon.graph.config.limits.hold_timeout == 7.0
        assert reloads(daemon, "ok") <= 2


async def test_all_orders_get_the_error_of_a_bad_file(tmp_path: Path) -> None:
    async with controlled(tmp_path) as (daemon, controller):
        daemon.config_path.write_text("version: 1\nnonsense: 1\n")
        assert {type(result) for result in await crowd(controller)} == {ConfigError}
        assert reloads(daemon, "rejected") == 1
        daemon.config_path.write_text("version: 1\n")
        await controller.reload()


async def test_the_error_says_of_which_kind_a_wrong_name_is(tmp_path: Path) -> None:
    async with controlled(tmp_path) as (_, controller):
        near = {"gateway": "direct", "listen": f"127.0.0.1:{free_port()}", "api_servers": ["127.0.0.1:1"]}
        entries = {"proxy": {"listen": f"127.0.0.1:{free_port()}"}}
        config = {"version": 1, "clusters": {"near": near}, "entries": entries}
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        await controller.reload()
        for order, name, says in (
            (controller.drain, "direct", "'direct' stands for no gateway at all, and drain takes a cluster"),
            (controller.probe, "direct", "'direct' stands for no gateway at all, and probe takes a cluster"),
            (controller.reconnect, "near", "'near' is a cluster, and reconnect takes a gateway"),
            (
                controller.drain,
                "proxy",
                "'proxy' is an entry, and drain takes a cluster, route, gateway or site",
            ),
            (controller.drain, "nowhere", "no cluster, route, gateway or site is called 'nowhere'"),
        ):
            with pytest.raises(UnknownName) as caught:
                await order(name)
            assert str(caught.value) == says


async def test_a_drain_of_a_gateway_drains_all_that_leads_through_it(tmp_path: Path) -> None:
    """If a cluster has the same name, only the cluster is drained."""
    async with controlled(tmp_path) as (daemon, controller):
        key = ssh_keys.new_key(tmp_path / "key")
        known = tmp_path / "known_hosts"
        known.write_text("")
        login = {"host": "127.0.0.1", "port": 1, "user": "u", "identity_files": [str(key)]}
        gateway = {**login, "known_hosts": [str(known)], "dial": "on_demand"}
        cluster = {"gateway": "edge", "api_servers": ["127.0.0.1:1"]}
        route = {"name": "nodes", "match": ["*.edge:22"], "gateway": "edge"}
        config = {
            "version": 1,
            "gateways": {"edge": gateway, "same": gateway, "unused": gateway},
            "clusters": {"one": cluster, "same": {**cluster, "gateway": "same"}},
            "routes": [route, {**route, "name": "others", "match": ["*.same:22"], "gateway": "same"}],
            "entries": {"proxy": {"listen": f"127.0.0.1:{free_port()}"}},
        }
        daemon.config_path.write_text(json.dumps(config))
        await controller.reload()
        assert await controller.drain("edge") == DrainResult(0, ("cluster one", "route nodes"))
        assert await controller.drain("same") == DrainResult(0, ("cluster same",))
        assert await controller.drain("unused") == DrainResult(0, ())
        graph = daemon.graph
        assert [name for name, one in graph.clusters.items() if one.is_drained] == ["one", "same"]
        assert [name for name, one in graph.routes.items() if one.is_drained] == ["nodes"]
        assert (await controller.reload()).changed == ("cluster one", "cluster same", "route nodes")


async def test_a_caller_that_leaves_does_not_cancel_the_reload_of_others(tmp_path: Path) -> None:
    async with controlled(tmp_path) as (daemon, controller):
        async with controller._reloading:
            leaving, staying = (asyncio.get_running_loop().create_task(controller.reload()) for _ in range(2))
            await asyncio.sleep(0)
            leaving.cancel()
        await staying
        assert leaving.cancelled()
        assert reloads(daemon, "ok") == 1


async def test_a_stop_ends_a_reload(tmp_path: Path) -> None:
    async with controlled(tmp_path) as (daemon, controller):
        waiting = asyncio.get_running_loop().create_task(controller.reload())
        await asyncio.sleep(0)
        await daemon.stop(timeout=0)
        with pytest.raises(Stopping):
            await waiting
        with pytest.raises(Stopping):
            await controller.reload()


async def test_a_reload_that_leaves_no_cluster_warns(tmp_path: Path) -> None:
    """A file that was cut off may still be valid."""
    async with controlled(tmp_path) as (daemon, controller):
        empty = daemon.config_path.read_text()
        assert (await controller.reload()).warnings == (), "there was no cluster before"
        one, two = (
            f"{name}: {{gateway: direct, listen: '127.0.0.1:{free_port()}', api_servers: ['127.0.0.1:1']}}"
            for name in ("one", "two")
        )
        daemon.config_path.write_text(f"{empty}clusters: {{{one}, {two}}}\n")
        await controller.reload()
        daemon.config_path.write_text(f"{empty}clusters: {{{one}}}\n")
        assert (await controller.reload()).warnings == ()
        daemon.config_path.write_text(empty)
        with capture_logs() as logs:
            result = await controller.reload()
        assert (result.removed, result.warnings) == (("cluster one",), ("clusters: none is left",))
        (warned,) = (log for log in logs if log["event"] == "no cluster is left")
        assert (warned["log_level"], warned["removed"]) == ("warning", ("one",))


async def test_a_reload_leaves_everything_in_the_order_of_the_file(tmp_path: Path) -> None:
    """This holds for sections that the reload has replaced, and for clusters that it has opened again."""
    names = ("c", "a", "d", "b")
    ports = {name: free_port() for name in names}

    def write(servers: dict[str, str]) -> None:
        clusters = [
            f"{name}: {{gateway: direct, listen: '127.0.0.1:{ports[name]}', api_servers: ['{server}']}}"
            for name, server in servers.items()
        ]
        daemon.config_path.write_text(f"version: 1\nclusters: {{{', '.join(clusters)}}}\n")

    def shown() -> tuple[str, ...]:
        return tuple(cluster.name for cluster in daemon.snapshot().clusters)

    async with controlled(tmp_path) as (daemon, controller):
        write(dict.fromkeys(("c", "d", "b"), "127.0.0.1:1"))
        await controller.reload()
        assert shown() == ("c", "d", "b")
        await controller.drain("d")
        write({"c": "127.0.0.1:2", "a": "127.0.0.1:1", "d": "127.0.0.1:1", "b": "127.0.0.1:1"})
        await controller.reload()
        assert shown() == names


async def test_a_drained_cluster_does_not_bind_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program had the address when the daemon started, and releases it after the drain."""
    monkeypatch.setattr(keeping, "REBIND_S", 0.001)
    async with controlled(tmp_path) as (daemon, controller):
        with socket.create_server(("127.0.0.1", 0)) as squatter:
            listen = f"127.0.0.1:{squatter.getsockname()[1]}"
            daemon.config_path.write_text(
                f"version: 1\nclusters: {{one: {{gateway: direct, listen: '{listen}', api_servers: "
                f"['127.0.0.1:1']}}}}\n"
            )
            await controller.reload()
            entry = daemon.graph.clusters["one"]
            (binding,) = (task for task in asyncio.all_tasks() if task.get_name().endswith("/bind"))
            await controller.drain("one")
            assert binding.done()
        assert entry.listener
        assert not entry.listener.is_bound
        await controller.reload()
        opened = daemon.graph.clusters["one"].listener
        assert opened
        assert opened.is_bound, "a reload opens it again"


async def test_any_number_of_ordered_probes_leaves_one_hanging_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    look_up = names._look_up

    def silent(host: str, port: int, family: int) -> list[names.Address]:
        assert over.wait(60)
        return look_up(host, port, family)

    monkeypatch.setattr(names, "_look_up", silent)
    key = ssh_keys.new_key(tmp_path / "key")
    (tmp_path / "known_hosts").touch()
    gateway = (
        f'host: bastion.example, user: u, identity_files: ["{key}"], known_hosts: ["{tmp_path}/known_hosts"]'
    )
    async with controlled(tmp_path) as (daemon, controller):
        daemon.config_path.write_text(
            f"version: 1\ngateways:\n  edge: {{{gateway}, connect_timeout: 200ms}}\n"
            f'clusters:\n  prod: {{gateway: edge, listen: "127.0.0.1:{free_port()}", api_servers: '
            f'["10.0.0.1:6443"]}}\n'
        )
        await controller.reload()
        for _ in range(5):
            report = await controller.probe("prod")
            assert "bastion.example:22 does not resolve: no answer within 0.2 s" in str(report["message"])
        hanging = [thread.name for thread in threading.enumerate() if thread.name.startswith("names of")]
        assert sorted(hanging) == ["names of a probe", "names of gateway edge"]
        over.set()
