"""Three hundred gateways that are one sshd, after an outage: all come up, and sshd drops none because of
MaxStartups.
"""

from __future__ import annotations

import asyncio

import pytest

from proxy.ssh.governor import HANDSHAKES_IN_FLIGHT
from proxy.ssh.handshakes import Handshakes
from tests.ssh.conftest import Watched, config_for
from tests.support.sshd import SshdFactory

pytestmark = pytest.mark.sshd

GATEWAYS = 300
SECONDS = 240.0
"""Seconds; far more than needed. 300 handshakes, six at a time, only need CPU time of two cores."""


async def test_three_hundred_gateways_come_up_after_a_restart_of_their_sshd(
    sshd_factory: SshdFactory,
) -> None:
    sshd = sshd_factory(config={"MaxStartups": "10:30:100"})
    await asyncio.to_thread(sshd.stop)
    handshakes = Handshakes()
    config = config_for(sshd, connect_timeout="60s")
    gateways = [Watched(config) for _ in range(GATEWAYS)]
    waiting = handshakes.slots(f"{sshd.host}:{sshd.port}")
    try:
        for gateway in gateways:
            gateway._dialler._handshakes = handshakes
            gateway.start()
        for gateway in gateways:
            await gateway.until(
                lambda gateway=gateway: gateway.snapshot().reason == "unreachable",  # type: ignore[misc]
                seconds=SECONDS,
            )
        await asyncio.to_thread(sshd.start)
        async with asyncio.timeout(SECONDS):
            for gateway in gateways:
                await gateway.until(lambda gateway=gateway: gateway.links == 1, seconds=SECONDS)  # type: ignore[misc]

        def results(result: str) -> float:
            return sum(gateway.metric("gateway_connects_total", result=result) for gateway in gateways)

        assert results("ok") == GATEWAYS
        assert results("handshake_failed") == results("connect_timeout") == 0, (
            "sshd dropped none, and none timed out"
        )
        assert "MaxStartups" not in await asyncio.to_thread(sshd.log)
        assert waiting._value == HANDSHAKES_IN_FLIGHT, "every slot was released"
    finally:
        await asyncio.gather(*(gateway.close() for gateway in gateways))
