"""Names are resolved in a thread; if it hangs, no other call waits for it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from proxy.entries import binding
from proxy.entries.listener import Listener
from proxy.errors import ChannelRefused, ChannelTimeout, ListenError
from proxy.relay import direct
from proxy.runtime import names
from proxy.runtime.blocking import Hangs, Place
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.names import resolve
from tests.support.deadlines import Deadline, wait_for_entry
from tests.support.echo import Echo


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::8%lo"])
async def test_an_address_needs_no_thread(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_look_up", None)
    found = await resolve(address, 22, Place("here"), timeout=0)
    assert [one.host for one in found] == [address]
    assert {one.sockaddr[1] for one in found} == {22}


async def test_a_name_is_looked_up() -> None:
    found = await resolve("localhost", 22, Place("here"), family=socket.AF_INET, timeout=60)
    assert found == [(socket.AF_INET, ("127.0.0.1", 22))]


async def test_a_name_that_does_not_resolve_is_an_error() -> None:
    with pytest.raises(socket.gaierror):
        await resolve("no.such.name.invalid", 22, Place("here"), timeout=120)
    with pytest.raises(UnicodeError):
        await resolve("a..b", 22, Place("here"), timeout=60)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A resolver that does not answer until the test is over."""
    over, is_asked = threading.Event(), threading.Event()

    def ask(_host: str, _port: int, _family: int, flags: int) -> list[names.Address]:
        if flags == socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        is_asked.set()
        assert over.wait(60)
        return []

    monkeypatch.setattr(names, "_getaddrinfo", ask)
    wait_for_entry(monkeypatch, is_asked)
    yield
    over.set()


@pytest.mark.usefixtures("silent")
async def test_a_resolver_that_does_not_answer_is_named_in_the_error() -> None:
    with pytest.raises(Hangs, match=r"^looking up bastion has been hanging"):
        await resolve("bastion", 22, Place("here"), timeout=0.05)


@pytest.mark.usefixtures("silent")
async def test_a_direct_cluster_reports_a_lookup_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "CONNECT_TIMEOUT_S", 0.1)
    Deadline(monkeypatch, 0.1)  # the whole connection's never passes: the lookup has half of it
    route = direct.Direct()
    for _ in range(2):
        with pytest.raises(
            ChannelTimeout, match=r"^api\.example:6443 does not resolve: looking up api\.example has been"
        ) as failure:
            await route.open_channel(
                Endpoint("api.example", 6443), origin=Endpoint("127.0.0.1", 1), hold_until=0
            )
        assert "getent hosts api.example" in failure.value.hint


@pytest.mark.parametrize(
    ("error", "remedy"),
    [(socket.EAI_NONAME, "is api.invalid spelt right"), (socket.EAI_AGAIN, "/etc/resolv.conf")],
)
async def test_a_direct_cluster_whose_name_is_not_found_gets_a_remedy(
    error: int, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(host: str, *_: object, **__: object) -> None:
        raise socket.gaierror(error, f"no {host}")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(
        ChannelRefused, match=r"^no TCP connection to api\.invalid:6443: no api\.invalid$"
    ) as failure:
        await direct.Direct().open_channel(
            Endpoint("api.invalid", 6443), origin=Endpoint("127.0.0.1", 1), hold_until=0
        )
    assert remedy in failure.value.hint
    assert "getent hosts api.invalid" in failure.value.hint


@pytest.mark.usefixtures("silent")
async def test_a_listener_reports_a_lookup_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "LOOKUP_S", 0.05)
    listener = Listener(Endpoint("bastion", 16443), lambda sock, _: sock.close())
    for _ in range(2):
        with pytest.raises(
            ListenError, match=r"^cannot listen on bastion:16443: looking up bastion has been hanging"
        ):
            await listener.start()


async def test_a_direct_cluster_takes_the_next_address_when_the_first_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Echo() as server:
        port = server.endpoint.port

        async def two_addresses(*_: object, **__: object) -> list[names.Address]:
            return [
                names.Address(socket.AF_INET, (address, port))
                for address in ("127.0.0.2", server.endpoint.host)
            ]

        monkeypatch.setattr(direct, "resolve", two_addresses)
        target = Endpoint("api.example", port)
        channel = await direct.Direct().open_channel(target, origin=Endpoint("127.0.0.1", 1), hold_until=0)
        channel.close()
