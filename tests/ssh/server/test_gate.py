"""Steps of logins take turns."""

from __future__ import annotations

import asyncio

from proxy.ssh.server.gate import AT_ONCE, Gate


async def test_a_limited_number_of_steps_runs_in_each_turn_in_the_order_of_asking() -> None:
    gate, done = Gate(), list[int]()
    loop, turns = asyncio.get_running_loop(), list[int]()

    def turn_ends() -> None:
        turns.append(len(done))
        if len(done) < 3 * AT_ONCE:
            loop.call_soon(turn_ends)

    for number in range(3 * AT_ONCE):
        if gate(lambda number=number: done.append(number)):  # type: ignore[misc]  # a default of a lambda
            done.append(number)
    turn_ends()
    async with asyncio.timeout(30):
        while len(done) < 3 * AT_ONCE:
            await asyncio.sleep(0)
    assert done == list(range(3 * AT_ONCE))
    steps = [after - before for before, after in zip([0, *turns], turns, strict=False)]
    assert max(steps) == AT_ONCE


async def test_waiting_steps_run_before_new_ones() -> None:
    gate, done = Gate(), list[str]()
    taken = sum(gate(lambda: done.append("waited")) for _ in range(AT_ONCE + 1))
    assert taken == AT_ONCE
    await asyncio.sleep(0)
    assert done == ["waited"]
    assert [gate(lambda: None) for _ in range(AT_ONCE)] == [True] * (AT_ONCE - 1) + [False]
