"""Faults that once ended a gateway's supervision, its links or its clients' wait. Supervision must go on, and
clients of other gateways must not notice.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from tests.faults.bed import Bed
from tests.faults.client import Saw
from tests.faults.row import Hits, Row
from tests.faults.test_hostile import leave, meet
from tests.faults.test_sshd import kill, start
from tests.integration.conftest import gateway
from tests.integration.running import told
from tests.support import carrier
from tests.support.daemon import Sections
from tests.support.processes import children, command
from tests.support.serving import closed
from tests.support.sshd import Sshd

pytestmark = pytest.mark.sshd

DIALS: Final = 3
UNUSED: Final = 3


def connects(bed: Bed, result: str) -> float:
    return bed.daemon.metric("kubemux_gateway_connects_total", gateway="rogue", result=result)


async def visit(bed: Bed) -> None:
    """Check that a client is served through the added gateway."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bed.ports["rogue"])
    try:
        writer.write(b"1\n")
        assert len(await reader.readexactly(1)) == 1
    finally:
        await closed(writer)


async def add(bed: Bed, section: Sections) -> None:
    """Add one gateway, and a cluster behind it, to the configuration."""
    content = json.loads(bed.good)
    content["gateways"]["rogue"] = section
    content["clusters"]["rogue"] = bed.rogue_cluster("rogue")
    bed.daemon.config.write_text(json.dumps(content))
    await bed.reload()


async def lets_us_in_and_hangs_up(bed: Bed) -> None:
    await meet(bed, "hasty")
    await bed.wait_for("it is dialled again and again", lambda: connects(bed, "link_lost") >= DIALS)

    def says_why() -> bool:  # except after a dial that took too long
        rogue = told(bed.daemon)["rogue"]
        return rogue["reason"] == "link_lost" and "not today" in rogue["message"]

    await bed.wait_for("status says why", says_why)


async def answers_with_unimplemented(bed: Bed) -> None:
    rogue = await meet(bed, "odd")
    content = json.loads(bed.daemon.config.read_bytes())
    content["gateways"]["rogue"] = {**rogue.section, "keepalive": {"interval": "600ms", "max_missed": 5}}
    bed.daemon.config.write_text(json.dumps(content))
    await bed.reload()
    await visit(bed)

    def age() -> object:
        return (told(bed.daemon)["rogue"]["links"] or [{"age": 0.0}])[0]["age"]

    await bed.wait_for("its idle link lasts", lambda: float(str(age())) > 4)
    await visit(bed)
    assert not told(bed.daemon)["rogue"]["reason"]


async def kill_the_proxy_command(bed: Bed) -> None:
    """Add edge a second time, with a ProxyCommand, and kill the command."""
    path = bed.folder / "ssh_config"
    run = shlex.join([sys.executable, carrier.__file__])
    path.write_text(
        f"Host rogue\n  HostName {bed.edge.host}\n  Port {bed.edge.port}\n  ProxyCommand {run} %h %p\n"
    )
    section = {**gateway(bed.edge), "host": "rogue", "ssh_config": str(path), "connections": 1}
    await add(bed, {key: value for key, value in section.items() if key != "port"})
    await visit(bed)
    (pid,) = (pid for pid in children(bed.daemon.pid) if "carrier.py" in command(pid))
    os.kill(pid, signal.SIGKILL)
    await bed.wait_for("the loss", lambda: bool(bed.daemon.events("link lost")))
    (lost,) = bed.daemon.events("link lost")
    assert lost["reason"] == "proxy_command_failed"
    assert "ended with SIGKILL" in str(lost["message"])
    await visit(bed)
    await take_it_out(bed)
    await bed.wait_for(
        "its command ends", lambda: not any("carrier.py" in command(pid) for pid in children(bed.daemon.pid))
    )


async def leave_links_unused(bed: Bed) -> None:
    """Add a gateway without clients, whose sshd ends unused links after two seconds."""
    sshd = Sshd(bed.folder / "unused", config={"UnusedConnectionTimeout": "2"})
    await asyncio.to_thread(sshd.start)
    bed.also_stop(sshd)
    await add(bed, gateway(sshd))

    def lost() -> list[dict[str, object]]:
        return [
            event
            for event in bed.daemon.events("link lost")
            if "UnusedConnectionTimeout" in str(event.get("hint"))
        ]

    await bed.wait_for("sshd ends unused links", lambda: len(lost()) >= UNUSED)
    assert {(event["gateway"], event["reason"]) for event in lost()} == {("rogue", "link_lost")}
    assert not bed.daemon.events("gateway dial failed")
    retry_in = told(bed.daemon)["rogue"]["retry_in"]
    assert retry_in is None or retry_in <= 0.5, "the backoff does not grow: no dial has failed"
    await visit(bed)


async def take_it_out(bed: Bed) -> None:
    bed.daemon.config.write_bytes(bed.good)
    await bed.reload()


async def stay_away(bed: Bed) -> None:
    await kill(bed)
    await bed.wait_for(
        "clients are refused", lambda: len(bed.daemon.events("clients are refused")) == len(bed.hit)
    )


async def come_back(bed: Bed) -> None:
    await start(bed)
    await bed.reconnect()


ROWS = (
    Row(
        name="another gateway lets us in and hangs up in one segment",
        breaks=lets_us_in_and_hangs_up,
        mends=leave,
    ),
    Row(
        name="another gateway answers keepalives with UNIMPLEMENTED",
        breaks=answers_with_unimplemented,
        mends=leave,
    ),
    Row(name="another gateway's ProxyCommand killed", breaks=kill_the_proxy_command),
    Row(name="UnusedConnectionTimeout hit", breaks=leave_links_unused, mends=take_it_out),
    Row(
        name="sshd gone for longer than hold_timeout",
        breaks=stay_away,
        mends=come_back,
        hits=Hits.GATEWAY,
        clients=frozenset({Saw.RESET, Saw.REFUSED}),
        gateway="unreachable",
        lost="link_lost",
        results=frozenset({"link_lost"}),
        may=frozenset({"link_down"}),
        limits={"hold_timeout": "1s"},
    ),
)


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()
