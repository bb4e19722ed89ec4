"""Names to addresses, in a thread that hangs nobody else."""

from __future__ import annotations

import socket
import threading

import pytest

from proxy import names
from proxy.blocking import Hangs, Place
from proxy.names import resolve


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::8%lo"])
async def test_an_address_needs_no_thread(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_look_up", None)
    found = await resolve(address, 22, Place("here"), timeout=0)
    assert [one.host for one in found] == [address]
    assert {one.sockaddr[1] for one in found} == {22}


async def test_a_name_is_looked_up() -> None:
    found = await resolve("localhost", 22, Place("here"), family=socket.AF_INET, timeout=5)
    assert found == [(socket.AF_INET, ("127.0.0.1", 22))]


async def test_a_name_that_is_none() -> None:
    with pytest.raises(socket.gaierror):
        await resolve("no.such.name.invalid", 22, Place("here"), timeout=20)
    with pytest.raises(UnicodeError):
        await resolve("a..b", 22, Place("here"), timeout=5)


async def test_a_resolver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def ask(_host: str, _port: int, _family: int, flags: int) -> list[names.Address]:
        if flags == socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        assert answer.wait(20)
        return []

    monkeypatch.setattr(names, "_ask", ask)
    with pytest.raises(Hangs, match=r"^looking up bastion has been hanging"):
        await resolve("bastion", 22, Place("here"), timeout=0.05)
    answer.set()
