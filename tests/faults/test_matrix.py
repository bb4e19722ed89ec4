"""Tests of the matrix itself: its clients and its leak law notice what they are there to notice."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.faults.api import Api
from tests.faults.bed import PATIENCE_S
from tests.faults.client import Saw, Wrong, classify
from tests.faults.doors import Answered, Port, Unread
from tests.faults.law import Holdings
from tests.faults.load import Load
from tests.faults.table import lines
from tests.support.https import Answer
from tests.support.shim import NAME, Shim
from tests.support.tls import Certificates

HELD = Holdings(
    tasks=9, descriptors=20, channels=0, connections=0, buffered_bytes=0, links=4, missing=0, sessions=4
)


@pytest.mark.parametrize(
    "what",
    ["tasks", "descriptors", "channels", "connections", "buffered_bytes", "links", "missing", "sessions"],
)
def test_each_kind_of_leak_breaks_the_law(what: str) -> None:
    (said,) = replace(HELD, **{what: getattr(HELD, what) + 1}).above(HELD)
    assert said.startswith(what)
    assert HELD.above(HELD) == []


@pytest.mark.parametrize(
    ("exc", "saw"),
    [
        (ConnectionRefusedError(), Saw.REFUSED),
        (ConnectionResetError(), Saw.RESET),
        (BrokenPipeError(), Saw.RESET),
        (TimeoutError(), Saw.TIMEOUT),
        (asyncio.IncompleteReadError(b"", 1), Saw.CUT),
        (ssl.SSLEOFError(), Saw.CUT),
        (ssl.SSLError("bad record mac"), Saw.WRONG),
        (Wrong(), Saw.WRONG),
        (Answered(), Saw.ANSWER),
        (Unread(), Saw.WRONG),
    ],
)
def test_each_result_of_a_client_has_a_name(exc: Exception, saw: Saw) -> None:
    assert classify(exc) is saw


class Liar(Api):
    """Sends wrong bytes."""

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
        if not data.endswith(b"\r\n\r\n"):  # an answer that is only a head
            at = len(data) - (3 if data.endswith(b"\n\r\n") else 1)
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        await super()._send(reader, writer, data)


async def test_every_client_notices_wrong_bytes(certificates: Certificates) -> None:
    async with (
        Liar(certificates) as server,
        Load("liar", Port(server.endpoint.port), certificates, patience=PATIENCE_S) as load,
    ):
        await load.wait_seen(frozenset({Saw.WRONG}))
        assert not load.is_unbroken


async def test_a_load_is_unbroken_until_something_happens(certificates: Certificates) -> None:
    async with (
        Api(certificates) as server,
        Load("api", Port(server.endpoint.port), certificates, patience=PATIENCE_S) as load,
    ):
        await load.wait_served(times=3)
        assert load.is_unbroken
        assert load.connected == server.accepted == len(load.clients)
        load.be_patient(0.5)
        await load.wait_served(times=2)  # no request has the longer patience any more
        server.answer = Answer.SILENCE
        await load.wait_seen(frozenset({Saw.TIMEOUT}))
        load.be_patient(PATIENCE_S)
        server.answer = Answer.RESET
        await load.wait_seen(frozenset({Saw.CUT, Saw.RESET}))
        server.answer = Answer.OK
        load.expect()
        await load.wait_back(asyncio.get_running_loop().time(), seconds=60)
        await server.refuse()
        await server.disconnect()
        await load.wait_seen(frozenset({Saw.REFUSED}))
    assert load.connected == server.accepted


@pytest.mark.gcc
def test_the_shim_changes_the_clock_and_a_name_and_blocks(tmp_path: Path) -> None:
    shim = Shim(tmp_path)
    shim.resolve("127.0.0.3")
    shim.turn_clock(-3600)
    shim.block(0.05)
    asked = "import socket, time; print(time.time(), time.monotonic(), socket.getaddrinfo('{}', 1)[0][4][0])"

    def ask(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", asked.format(name)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=shim.environment)

    wall, _, address = ask(NAME).stdout.split()
    assert abs(time.time() - 3600 - float(wall)) < 60
    assert address == "127.0.0.3"
    assert shim.has_blocked
    assert ask("127.0.0.1").stdout.split()[2] == "127.0.0.1"
    shim.resolve("")
    assert "gaierror" in ask(NAME).stderr
    shim.close()


def test_the_table_has_a_line_for_each_finding() -> None:
    found = {
        "row": "sshd killed",
        "plane": "native",
        "clients": "8 reset",
        "others": "nothing",
        "leaks": "none",
        "says": "unreachable",
    }
    drawn = lines([{**found, "recovery": 0.5}, {**found, "row": "another", "recovery": None}])
    assert [line.split("  ")[0] for line in drawn] == ["fault", "another", "sshd killed"]
    assert "0.50 s" in drawn[2]


TURNS: Final = """
import asyncio, time, uvloop

async def main():
    for _ in range(2):
        await asyncio.sleep(0.001)
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            pass
        time.sleep(0.3)
    await asyncio.sleep(0.001)

uvloop.run(main())
"""


@pytest.mark.gcc
def test_the_shim_measures_the_cpu_time_of_the_longest_turn(tmp_path: Path) -> None:
    """It measures neither the sum of two turns nor the time that a turn sleeps."""
    with closing(Shim(tmp_path)) as shim:
        assert shim.longest_turn == 0
        environment = os.environ | shim.environment
        subprocess.run([sys.executable, "-c", TURNS], check=True, timeout=60, env=environment)
        assert 0.2 <= shim.longest_turn < 0.4
        shim.forget_turns()
        assert shim.longest_turn == 0
