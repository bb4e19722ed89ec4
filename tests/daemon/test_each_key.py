"""Each key of the configuration, changed alone by a reload while clients are connected: what leads to another
server cuts its own clients, and nothing else cuts any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import pytest

from proxy.config.apart import Loaded
from proxy.config.keys import Key, Section, _metadata, keys, plain_type
from proxy.config.model import (
    AdminConfig,
    ClusterConfig,
    Config,
    GatewayConfig,
    LimitsConfig,
    LogConfig,
    ProbeConfig,
)
from proxy.config.values import Written
from proxy.daemon import reload
from proxy.daemon.daemon import Daemon
from proxy.daemon.orders import Controller
from proxy.daemon.served import ServedCluster
from proxy.runtime import logging
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.supervision.gateway import Gateway
from tests.support.echo import Echo
from tests.support.ports import free_port
from tests.support.serving import closed
from tests.support.sshd import Sshd

pytestmark = pytest.mark.sshd

Place = tuple[str, ...]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

CUTS: Final = {
    *(("gateways", "edge", key) for key in ("host", "port", "user", "jump", "ssh_config")),
    *(("clusters", "subject", key) for key in ("gateway", "listen", "api_servers")),
}
"""What decides which server answers, or where. All others keep every client."""
ENTRIES: Final = {"gateways": ("edge", GatewayConfig), "clusters": ("subject", ClusterConfig)}


def places(section: type[Section] = Config, above: Place = ()) -> Iterator[tuple[Place, Key]]:
    """Every key of the model, as far as it is the daemon's, one gateway's or one cluster's."""
    for name, key in keys(section).items():
        kind = plain_type(key.kind)
        if not above and name in ENTRIES:
            entry, kind = ENTRIES[name]
            yield from places(kind, (name, entry))
        elif isinstance(kind, type) and issubclass(kind, Section):
            yield from places(kind, (*above, name))
        elif name != "version" and key.examples:  # lists and maps of sections have none
            yield (*above, name), key


def found(config: Any, place: Place) -> Any:
    for step in place:
        config = config[step] if isinstance(config, dict) else getattr(config, step)
    return config


def changed(config: Any, place: Place, value: object) -> Any:
    """The same with another value there."""
    if not place:
        return value
    step, *below = place
    inner = changed(found(config, (step,)), tuple(below), value)
    return {**config, step: inner} if isinstance(config, dict) else config.model_copy(update={step: inner})


def another(key: Key, now: object) -> object:
    """A value for `key` that is not `now`."""
    kind = plain_type(key.kind)
    if get_origin(kind) is Literal:
        return next(word for word in get_args(kind) if word != now)
    if isinstance(now, bool):
        return not now
    if isinstance(now, int | float):
        return now + 1
    parse = next((one.parse for one in _metadata(key.kind) if isinstance(one, Written)), lambda text: text)
    example = key.examples[0]
    value = tuple(map(parse, example)) if isinstance(example, list) else parse(example)
    return value if value != now else parse(f"{example}x")


class Bed:
    """A daemon in this process with a gateway, a cluster and a client that a change is about, and one of each
    that it is not.
    """

    def __init__(self, sshd: Sshd, echo: Echo, others: dict[Place, object], folder: Path) -> None:
        self.others = others
        edge = GatewayConfig(
            host=sshd.host,
            port=sshd.port,
            user=sshd.user,
            identity_files=(sshd.identity,),
            known_hosts=(sshd.known_hosts(),),
            connections=1,
        )
        near = ClusterConfig(
            gateway="edge",
            listen=Endpoint("127.0.0.1", free_port()),
            api_servers=(echo.endpoint,),
            probe=ProbeConfig(interval=600.0, timeout=0.1),
        )
        far = near.model_copy(update={"gateway": "other", "listen": Endpoint("127.0.0.1", free_port())})
        self.base = Config(
            version=1,
            admin=AdminConfig(listen=Endpoint("127.0.0.1", free_port())),
            limits=LimitsConfig(drain_timeout=0.1, hold_timeout=30.0),
            log=LogConfig(level="warning"),
            gateways={"edge": edge, "other": edge},
            clusters={"subject": near, "bystander": far},
        )
        self.daemon = Daemon(self.base, config_path=folder / "config.yaml")
        self.graph = self.daemon.graph
        self.clients: dict[str, Streams] = {}

    async def __aenter__(self) -> Bed:
        await self.daemon.start(Controller(self.daemon))
        await self.connect("subject")
        await self.connect("bystander")
        self.untouched = self.parts("other", "bystander")
        return self

    async def __aexit__(self, *_: object) -> None:
        for _reader, writer in self.clients.values():
            await closed(writer)
        await self.daemon.stop(timeout=0)

    async def connect(self, name: str) -> None:
        listen = self.graph.config.clusters[name].listen
        assert listen
        async with asyncio.timeout(30):
            self.clients[name] = await asyncio.open_connection(*listen)
            await self.tick(name)

    async def tick(self, name: str) -> None:
        """Its client is served."""
        async with asyncio.timeout(30):
            reader, writer = self.clients[name]
            writer.write(b"tick")
            assert await reader.readexactly(4) == b"tick"

    async def leave(self) -> None:
        """The daemon ends the connection of the changed cluster's client."""
        reader, writer = self.clients["subject"]
        with suppress(ConnectionResetError):
            async with asyncio.timeout(30):
                assert await reader.read() == b""
        writer.transport.abort()

    def parts(self, gateway: str, cluster: str) -> tuple[Gateway, ServedCluster]:
        """What serves them: the objects themselves."""
        one = self.graph.gateways[gateway]
        assert isinstance(one, Gateway)
        return one, self.graph.clusters[cluster]

    async def take(self, config: Config) -> set[str]:
        """Reload; returns what the daemon says has changed."""
        result = await reload._apply(self.graph, Loaded(config, {}))
        assert not result.added
        assert not result.removed
        admin = () if config.admin == self.base.admin else ("admin: changes take effect at the next restart",)
        assert result.warnings in (admin, ("admin: changes take effect at the next restart",))
        return set(result.changed)

    def assert_taken(self, config: Config) -> None:
        shared, limits = self.graph.shared, config.limits
        assert (shared.hold_timeout, shared.budget.limit) == (limits.hold_timeout, limits.memory)
        assert shared.admission.limit <= limits.max_connections
        assert self.graph.gateways["edge"].config == config.gateways["edge"]
        subject = self.graph.clusters["subject"]
        assert subject.cluster.config == subject.monitor._config == config.clusters["subject"]
        assert subject.listener
        assert subject.listener.address == config.clusters["subject"].listen


def about(place: Place) -> set[str]:
    return {f"{place[0].removesuffix('s')} {place[1]}"} if place[0] in ENTRIES else set()


async def test_each_key_changes_what_it_is_about(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs: list[tuple[str, str]] = []
    monkeypatch.setattr(logging, "configure", lambda *words: logs.append(words))
    async with AsyncExitStack() as stack:
        echo, elsewhere = [await stack.enter_async_context(Echo()) for _ in range(2)]
        others: dict[Place, object] = {
            ("gateways", "edge", "host"): "localhost",
            ("gateways", "edge", "port"): free_port(),
            ("gateways", "edge", "jump"): ("other",),
            ("clusters", "subject", "gateway"): "other",
            ("clusters", "subject", "listen"): Endpoint("127.0.0.1", free_port()),
            ("clusters", "subject", "api_servers"): (elsewhere.endpoint,),
        }
        bed = await stack.enter_async_context(Bed(sshd, echo, others, tmp_path))
        for place, key in places():
            now = found(bed.base, place)
            config = changed(bed.base, place, others.get(place, another(key, now)))
            assert found(config, place) != now, place
            parts = bed.parts("edge", "subject")
            assert await bed.take(config) == about(place), place
            assert bool(logs) is (place[0] == "log"), place
            bed.assert_taken(config)
            await bed.tick("bystander")
            assert bed.parts("other", "bystander") == bed.untouched, place
            if place in CUTS:
                await bed.leave()
            else:
                assert bed.parts("edge", "subject") == parts, place
                await bed.tick("subject")
            assert await bed.take(bed.base) == about(place), place
            logs.clear()
            if place in CUTS:
                await bed.connect("subject")
            await bed.tick("subject")
        assert not bed.untouched[0].snapshot().retiring
        assert bed.untouched[0].snapshot().reconnects == 0
