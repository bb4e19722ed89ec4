"""Several gateways use the same sshd, which refuses an address after failures (PerSourcePenalties). Wrong
keys of some gateways must not lock out the others.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest

from tests.faults.bed import Bed
from tests.faults.row import Row
from tests.integration.conftest import gateway
from tests.integration.running import told

pytestmark = pytest.mark.newer_sshd

PLANES = ("native",)
"""Only one: the fault comes before a link has a data plane, and sshd's delays make the row slow."""

WRONG = [f"wrong{number}" for number in range(6)]


def refused(bed: Bed) -> list[str]:
    return [name for name, entry in told(bed.daemon).items() if entry["reason"] == "auth_failed"]


async def refuse_six(bed: Bed) -> None:
    """Add six gateways with a wrong key each to the configuration; then edge has to log in again."""
    content = json.loads(bed.good)
    for name in WRONG:
        key = bed.edge.new_identity(name, authorize=False)
        content["gateways"][name] = gateway(bed.edge, identity_files=[str(key)])
    bed.daemon.config.write_text(json.dumps(content))
    await bed.reload()
    await bed.wait_for(
        "all are refused",
        lambda: {told(bed.daemon)[name]["reason"] for name in WRONG} == {"auth_failed"},
        seconds=60,
    )
    before = bed.daemon.metric("kubemux_gateway_reconnects_total", gateway="edge", reason="replaced")
    await bed.reconnect()
    await bed.wait_for(
        "edge has another link",
        lambda: (
            bed.daemon.metric("kubemux_gateway_reconnects_total", gateway="edge", reason="replaced") > before
        ),
    )
    # sshd logs only the first failure of an address: here of the connection that showed that it is ready. It
    # logs a refused key through another of its processes, maybe after the answer.
    await bed.wait_for(
        "sshd counts the failures of this machine's address",
        lambda: "deferred penalty" in (log := bed.edge.log()) and log.count("Failed publickey") >= len(WRONG),
    )
    assert "activating" not in bed.edge.log(), "sshd does not refuse this machine's address"


async def forget_them(bed: Bed) -> None:
    bed.daemon.config.write_bytes(bed.good)
    await bed.reload()


ROWS = (
    Row(
        name="six refused keys on one sshd 10",
        breaks=refuse_six,
        mends=forget_them,
        lost="replaced",
        is_newer=True,
    ),
)


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()
