"""Faults as clients of an entry see them: a proxy's clients ask for clusters, kube-apiserver asks for nodes.

A client that waits for an answer gets one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import pytest

from tests.faults.bed import Bed
from tests.faults.doors import Answered, Streams
from tests.faults.row import ANSWER, CUT, RESET, By, Hits, Row
from tests.faults.test_api_server import listen, refuse
from tests.faults.test_network import reset
from tests.faults.test_sshd import kill
from tests.faults.test_supervision import come_back
from tests.support.faulty import Direction
from tests.support.serving import closed, send

pytestmark = pytest.mark.sshd

SOME: Final = 10


async def asked(bed: Bed) -> list[Streams]:
    """Clients that wait for an answer: the server has their connections, but the network holds the answers
    back.
    """
    bed.path.stall(Direction.TO_CLIENT)
    before = bed.source.accepted
    clients = [await bed.entry("plain").ask() for _ in range(SOME)]
    bed.visitors += SOME
    await bed.source.wait_accepted(before + SOME)
    return clients


async def are_served(bed: Bed, clients: list[Streams]) -> list[bool]:
    """Whether each client is served. One that is not got the reason, or its connection ended.

    Raises TimeoutError if a client still waits.
    """
    return await asyncio.gather(*(is_served(bed, *client) for client in clients))


async def is_served(bed: Bed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    try:
        async with asyncio.timeout(bed.row.patience):
            await bed.entry("plain").accepted(reader)
            send(writer, b"5\n")
            return len(await reader.readexactly(5)) == 5
    except (Answered, ConnectionError, EOFError):
        return False
    finally:
        await closed(writer)


async def lose_before_and_during(bed: Bed) -> None:
    """Lose the link before waiting clients have an answer, and again while answers arrive.

    The load's clients have their answers already, and lose their connections.
    """
    clients = await asked(bed)
    await reset(bed)
    bed.path.resume()
    assert all(await are_served(bed, clients)), "the next link carries their connections"
    clients = await asked(bed)
    carried = bed.path.carried[Direction.TO_CLIENT]
    bed.path.resume()
    async with asyncio.timeout(bed.row.patience):
        while bed.path.carried[Direction.TO_CLIENT] == carried:
            await asyncio.sleep(0)  # no longer: it is in these few turns that the answers come
    await reset(bed)
    await bed.reconnect()
    await are_served(bed, clients)


async def deny(bed: Bed) -> None:
    """Deny all new connections by a reload. Open ones stay until their server ends them."""
    config = json.loads(bed.good)
    routes = {route["name"]: route for route in config.get("routes", ())}
    routes.get("prod", config["clusters"]["prod"])["allow"] = ["uid:4294967294"]
    bed.daemon.config.write_text(json.dumps(config))
    await bed.reload()
    await bed.prod.disconnect()


async def allow(bed: Bed) -> None:
    bed.daemon.config.write_bytes(bed.good)
    await bed.reload()


def rows(by: By, who: str, server: str) -> Iterator[Row]:
    yield Row(
        name=f"{who}: link lost before, during and after the answer",
        by=by,
        breaks=lose_before_and_during,
        clients=RESET | CUT,
        may_see=ANSWER,
        gateway="link_lost",
        lost="link_lost",
        results=frozenset({"link_lost"}),
        may=frozenset({"link_down"}),
        is_through_relay=True,
        has_plain=True,
    )
    yield Row(
        name=f"{who}: gateway gone for longer than hold_timeout",
        by=by,
        breaks=kill,
        mends=come_back,
        clients=ANSWER,
        may_see=RESET | CUT,
        gateway="unreachable",
        lost="link_lost",
        results=frozenset({"link_lost", "link_down"}),
        limits={"hold_timeout": "1s"},
    )
    yield Row(
        name=f"{who}: {server} refuses",
        by=by,
        hits=Hits.CLUSTER,
        breaks=refuse,
        mends=listen,
        clients=ANSWER,
        may_see=RESET | CUT,
        results=frozenset({"channel_refused"}),
        may=frozenset({"cluster_closed", "cluster_reset"}),
        probe="channel_refused",
    )
    yield Row(
        name=f"{who}: the caller's rule is removed",
        by=by,
        hits=Hits.CLUSTER,
        breaks=deny,
        mends=allow,
        clients=ANSWER,
        may_see=RESET | CUT,
        results=frozenset({"denied"}),
        may=frozenset({"cluster_closed", "cluster_reset"}),
    )


ROWS = (*rows(By.PROXY, "proxy clients", "API server"), *rows(By.EGRESS, "kube-apiserver", "kubelet"))


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()
