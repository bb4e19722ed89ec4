"""Faults of one API server. Clients of its neighbour behind the same gateway must not notice them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.faults.bed import Bed
from tests.faults.row import CUT, RESET, TIMEOUT, Hits, Row, Step
from tests.support.https import Answer

pytestmark = pytest.mark.sshd

PATIENCE_S = 0.7
"""Seconds after which clients give up a request that the server does not answer."""


async def refuse(bed: Bed) -> None:
    await bed.prod.refuse()
    await bed.prod.disconnect()


async def listen(bed: Bed) -> None:
    await bed.prod.listen()


def answer(how: Answer) -> Step:
    async def step(bed: Bed) -> None:
        bed.prod.answer = how

    return step


ROWS = (
    Row(
        name="API server refuses",
        hits=Hits.CLUSTER,
        breaks=refuse,
        mends=listen,
        clients=RESET | CUT,
        results=frozenset({"channel_refused"}),
        may=frozenset({"cluster_closed", "cluster_reset"}),
        probe="channel_refused",
    ),
    Row(
        name="API server accepts and never answers",
        hits=Hits.CLUSTER,
        breaks=answer(Answer.SILENCE),
        mends=answer(Answer.OK),
        clients=TIMEOUT,
        patience=PATIENCE_S,
        may=frozenset({"cluster_closed", "cluster_reset"}),
        probe="timeout",
    ),
    Row(
        name="API server resets in the middle of an answer",
        hits=Hits.CLUSTER,
        breaks=answer(Answer.RESET),
        mends=answer(Answer.OK),
        clients=CUT | RESET,
        may=frozenset({"cluster_closed", "cluster_reset"}),
        probe="closed",
    ),
    Row(
        name="API server sends a byte per second",
        hits=Hits.CLUSTER,
        breaks=answer(Answer.TRICKLE),
        mends=answer(Answer.OK),
        clients=TIMEOUT,
        patience=PATIENCE_S,
        may=frozenset({"cluster_closed", "cluster_reset"}),
        probe="timeout",
    ),
)


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()
