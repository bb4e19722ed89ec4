"""For each key of the configuration: a reload changes it while clients are connected.

A key that decides which server answers cuts the clients of that server. No other key cuts a client. Neither
does another address of an entry: its clients are connected to their targets already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import pytest

from proxy.config.apart import Loaded
from proxy.config.keys import Key, Section, _metadata, keys, plain_type
from proxy.config.matches import Match, Target
from proxy.config.model import (
    AdminConfig,
    ClusterConfig,
    Config,
    EntryConfig,
    GatewayConfig,
    LimitsConfig,
    LogConfig,
    ProbeConfig,
    RouteConfig,
)
from proxy.config.written import Written
from proxy.daemon import connections, graph, reload
from proxy.daemon.daemon import Daemon
from proxy.daemon.orders import Controller
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
    *(("routes", "mine", key) for key in ("gateway", "target")),
    ("entries", "door", "listen"),
}
"""The keys that decide which server answers, or where. With all other keys, every client stays."""
SUBJECTS: Final = {"gateways": "edge", "clusters": "subject", "routes": "mine", "entries": "door"}
KINDS: Final = {"gateways": "gateway", "clusters": "cluster", "routes": "route", "entries": "entry"}
CLIENTS: Final = {"gateways": ("subject", "mine"), "clusters": ("subject",), "routes": ("mine",)}
"""For each section: the names whose clients are cut when one of its keys of `CUTS` changes."""


def places(section: Section, above: Place = ()) -> Iterator[tuple[Place, Key]]:
    """Each key of the daemon's own sections, and of the gateway, cluster, route and entry in SUBJECTS."""
    for name, key in keys(type(section)).items():
        if not above and name in SUBJECTS:
            subject = (name, SUBJECTS[name])
            yield from places(found(section, subject), subject)
            continue
        kind, value = plain_type(key.kind), getattr(section, name)
        if isinstance(value, Section):
            yield from places(value, (*above, name))
        elif isinstance(kind, type) and issubclass(kind, Section):
            assert value is None, "a section that is left out"
        elif (*above, name) not in {("version",), ("routes", "mine", "name")} and key.examples:
            yield (*above, name), key


def found(config: Any, place: Place) -> Any:
    for step in place:
        match config:
            case dict():
                config = config[step]
            case tuple():
                [config] = [one for one in config if one.name == step]
            case _:
                config = getattr(config, step)
    return config


def changed(config: Any, place: Place, value: object) -> Any:
    """`config` with `value` at `place`."""
    if not place:
        return value
    step, *below = place
    inner = changed(found(config, (step,)), tuple(below), value)
    if isinstance(config, tuple):
        return tuple(inner if one.name == step else one for one in config)
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
    """A daemon in this process with two gateways, two clusters, two routes, two entries, and clients. Changes
    are about one of each.
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
        mine, apart = (
            RouteConfig(
                name=name,
                match=(Match.parse(f"*.{name}:22"),),
                gateway=gateway,
                target=Target.parse(str(echo.endpoint)),
            )
            for name, gateway in (("mine", "edge"), ("apart", "other"))
        )
        door, side = (EntryConfig(listen=Endpoint("127.0.0.1", free_port())) for _ in range(2))
        self.base = Config(
            version=1,
            admin=AdminConfig(listen=Endpoint("127.0.0.1", free_port())),
            limits=LimitsConfig(drain_timeout=0.1, hold_timeout=30.0),
            log=LogConfig(level="warning"),
            gateways={"edge": edge, "other": edge},
            clusters={"subject": near, "bystander": far},
            routes=(mine, apart),
            entries={"door": door, "side": side},
        )
        self.daemon = Daemon(self.base, config_path=folder / "config.yaml")
        self.graph = self.daemon.graph
        self.clients: dict[str, Streams] = {}

    async def __aenter__(self) -> Bed:
        await self.daemon.start(Controller(self.daemon))
        for name in ("subject", "bystander", "mine", "apart"):
            await self.connect(name)
        self.untouched = self.parts("other", "bystander", "apart", "side")
        return self

    async def __aexit__(self, *_: object) -> None:
        for _reader, writer in self.clients.values():
            await closed(writer)
        await self.daemon.stop(timeout=0)

    async def connect(self, name: str) -> None:
        """Connect a client to the cluster's listener, or to an entry, which it asks for the route."""
        if name in self.clients:
            await closed(self.clients[name][1])
        config = self.graph.config
        entry = {"mine": "door", "apart": "side"}.get(name)
        listen = config.entries[entry].listen if entry else config.clusters[name].listen
        assert isinstance(listen, Endpoint)
        async with asyncio.timeout(30):
            self.clients[name] = reader, writer = await asyncio.open_connection(*listen)
            if entry:
                writer.write(f"CONNECT a.{name}:22 HTTP/1.1\r\n\r\n".encode())
                assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            await self.tick(name)

    async def tick(self, *names: str) -> None:
        """Check that the clients of these names are served."""
        async with asyncio.timeout(30):
            for name in names:
                reader, writer = self.clients[name]
                writer.write(b"tick")
                assert await reader.readexactly(4) == b"tick"

    async def wait_ended(self, name: str) -> None:
        """Wait until the daemon ends the connection of this client."""
        reader, writer = self.clients[name]
        async with asyncio.timeout(30):
            assert await reader.read() == b"", "in order: its server was told first, and it is not reset"
        writer.transport.abort()

    def parts(self, gateway: str, cluster: str, route: str, entry: str) -> tuple[object, ...]:
        """The objects that serve these names, and the entry's socket."""
        graph = self.graph
        door = graph.entries[entry]
        sock = door.listener.listener.sock
        return graph.gateways[gateway], graph.clusters[cluster], graph.routes[route], door, sock

    @property
    def generation(self) -> int:
        """A number that changes when the links of the gateway `edge` are to be replaced."""
        edge = self.graph.gateways["edge"]
        assert isinstance(edge, Gateway)
        return edge._links.generation

    async def relinked(self) -> None:
        """Wait until no link of `edge` has to be replaced any more."""
        edge = self.graph.gateways["edge"]
        assert isinstance(edge, Gateway)
        async with asyncio.timeout(30):
            while not edge._links or edge._links.stale:
                await asyncio.sleep(0.01)

    async def apply(self, config: Config) -> set[str]:
        """Reload. Returns what the daemon says has changed."""
        result = await reload._apply(self.graph, Loaded(config, {}))
        assert not result.added
        assert not result.removed
        admin = () if config.admin == self.base.admin else ("admin: changes take effect at the next restart",)
        assert result.warnings in (admin, ("admin: changes take effect at the next restart",))
        return set(result.changed)

    def assert_applied(self, config: Config) -> None:
        shared, limits = self.graph.shared, config.limits
        assert (shared.hold_timeout, shared.budget.limit) == (limits.hold_timeout, limits.memory)
        assert shared.admission.limit <= limits.max_connections
        assert self.graph.gateways["edge"].config == config.gateways["edge"]
        subject = self.graph.clusters["subject"]
        assert subject.cluster.config == subject.monitor._config == config.clusters["subject"]
        assert subject.listener
        assert subject.listener.address == config.clusters["subject"].listen
        assert self.graph.routes["mine"].config == found(config, ("routes", "mine"))
        door = self.graph.entries["door"]
        assert door.config == config.entries["door"]
        assert (door.listener.address, door.listener.is_bound) == (config.entries["door"].listen, True)


def about(place: Place) -> set[str]:
    return {f"{KINDS[place[0]]} {place[1]}"} if place[0] in KINDS else set()


async def test_a_change_of_each_key_takes_effect_and_cuts_only_the_clients_it_must(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs: list[tuple[str, str]] = []
    monkeypatch.setattr(logging, "configure", lambda *words: logs.append(words))
    for module in (connections, graph):  # the time that a server has to end in order: this one may be starved
        monkeypatch.setattr(module, "HALF_CLOSE_S", 30.0)
    async with AsyncExitStack() as stack:
        echo, elsewhere = [await stack.enter_async_context(Echo()) for _ in range(2)]
        others: dict[Place, object] = {
            ("gateways", "edge", "host"): "localhost",
            ("gateways", "edge", "port"): free_port(),
            ("gateways", "edge", "jump"): ("other",),
            ("clusters", "subject", "gateway"): "other",
            ("clusters", "subject", "listen"): Endpoint("127.0.0.1", free_port()),
            ("clusters", "subject", "api_servers"): (elsewhere.endpoint,),
            ("routes", "mine", "gateway"): "other",
            ("entries", "door", "listen"): Endpoint("127.0.0.1", free_port()),
        }
        bed = await stack.enter_async_context(Bed(sshd, echo, others, tmp_path))
        mine = ("edge", "subject", "mine", "door")
        seen = set()
        for place, key in places(bed.base):
            seen.add(place[0])
            now = found(bed.base, place)
            config = changed(bed.base, place, others.get(place, another(key, now)))
            assert found(config, place) != now, place
            parts, generation = bed.parts(*mine), bed.generation
            assert await bed.apply(config) == about(place), place
            assert bool(logs) is (place[0] == "log"), place
            bed.assert_applied(config)
            await bed.tick("bystander", "apart")
            assert bed.parts("other", "bystander", "apart", "side") == bed.untouched, place
            cut = CLIENTS.get(place[0], ()) if place in CUTS else ()
            for name in cut:
                await bed.wait_ended(name)
            await bed.tick(*({"subject", "mine"} - set(cut)))
            assert (bed.parts(*mine) == parts) is (place not in CUTS), place
            if place not in CUTS:
                key_of = keys(GatewayConfig).get(place[2]) if place[0] == "gateways" else None
                assert (bed.generation == generation) is (key_of is None or key_of.in_place), place
            assert await bed.apply(bed.base) == about(place), place
            await bed.relinked()
            logs.clear()
            for name in cut:
                await bed.connect(name)
            if place[0] == "entries":
                await bed.connect("mine")
            await bed.tick("subject", "mine")
        assert seen >= SUBJECTS.keys()
        other = bed.graph.gateways["other"].snapshot()
        assert not other.retiring
        assert other.reconnects == 0
