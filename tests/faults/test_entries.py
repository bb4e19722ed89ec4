"""Faults as clients of the proxy entry see them. A client that waits for an answer gets one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from ruamel.yaml import YAML

from tests.faults.bed import Bed
from tests.faults.row import ANSWER, CUT, RESET, Hits, Row
from tests.faults.test_api_server import listen, refuse
from tests.faults.test_network import reset
from tests.faults.test_sshd import kill
from tests.faults.test_supervision import come_back

pytestmark = pytest.mark.sshd

NOBODY = ["uid:4294967294"]


async def deny(bed: Bed) -> None:
    """Deny all new connections by a reload. Open ones stay until the API server ends them."""
    yaml = YAML(typ="safe")
    config = yaml.load(bed.good)
    config["clusters"]["prod"]["allow"] = NOBODY
    with bed.daemon.config.open("w") as file:
        yaml.dump(config, file)
    await bed.reload()
    await bed.prod.disconnect()


async def allow(bed: Bed) -> None:
    bed.daemon.config.write_bytes(bed.good)
    await bed.reload()


ROWS = (
    Row(
        name="proxy clients: TCP reset of the link",
        is_by_name=True,
        breaks=reset,
        clients=RESET,
        may_see=ANSWER,
        gateway="link_lost",
        lost="link_lost",
        results=frozenset({"link_lost"}),
        may=frozenset({"link_down"}),
        is_through_relay=True,
    ),
    Row(
        name="proxy clients: gateway gone for longer than hold_timeout",
        is_by_name=True,
        breaks=kill,
        mends=come_back,
        clients=ANSWER,
        may_see=RESET,
        gateway="unreachable",
        lost="link_lost",
        results=frozenset({"link_lost", "link_down"}),
        limits={"hold_timeout": "1s"},
    ),
    Row(
        name="proxy clients: API server refuses",
        is_by_name=True,
        hits=Hits.CLUSTER,
        breaks=refuse,
        mends=listen,
        clients=ANSWER,
        may_see=RESET | CUT,
        results=frozenset({"channel_refused"}),
        may=frozenset({"cluster_closed", "cluster_reset"}),
        probe="channel_refused",
    ),
    Row(
        name="proxy clients: the caller's rule is removed",
        is_by_name=True,
        hits=Hits.CLUSTER,
        breaks=deny,
        mends=allow,
        clients=ANSWER,
        may_see=RESET | CUT,
        results=frozenset({"denied"}),
        may=frozenset({"cluster_closed", "cluster_reset"}),
    ),
)


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()
