"""Gateways that share a server and a key: one of them tries the key first, so that sshd refuses it once, not
once for each.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine

import pytest

from proxy.errors import AuthFailed, LinkError, RetryClass, Unreachable
from proxy.snapshots import GatewayState
from proxy.ssh import governor
from proxy.ssh import handshakes as module
from proxy.ssh.governor import HANDSHAKES_IN_FLIGHT
from proxy.ssh.handshakes import Handshakes
from tests.ssh.conftest import Watched, config_for
from tests.support import ssh_keys
from tests.support.sshd import Sshd

CONNECTION = "Connection from"
"""What sshd logs before its version line."""


class Party:
    """A gateway that dials; the server answers when the test says so."""

    def __init__(self, shared: Handshakes, answer: Callable[[], Awaitable[None]]) -> None:
        self._shared = shared
        self._answer = answer
        self.hurries = 0
        self.has_tried = False

    def dial_now(self) -> None:
        self.hurries += 1

    async def dial(self, *, is_ordered: bool = False, identity: str = "key") -> str:
        try:
            async with self._shared.trial("edge:22", identity, who=self, is_ordered=is_ordered):
                self.has_tried = True
                await self._answer()
        except LinkError as exc:
            return exc.reason
        return "ok"


class Server:
    """Counts the gateways that dialled, and answers all waiting ones when the test calls `answer`."""

    def __init__(self) -> None:
        self.asked = 0
        self.says: LinkError | None = None
        self.go = asyncio.Event()

    async def answer(self) -> None:
        self.asked += 1
        await self.go.wait()
        if self.says is not None:
            # An exception that was raised keeps the frames it went through alive.
            raise type(self.says)(str(self.says))


class Clockwork(asyncio.SelectorEventLoop):
    """An event loop with a virtual clock: when it has nothing to do, it jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        selector = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def at_once(timeout: float | None) -> object:
            assert timeout is not None, "there is no timer to wait for"
            self._now += timeout
            return select(0)

        selector.select = at_once

    def time(self) -> float:
        return self._now


async def until_idle() -> None:
    """Wait until all others wait for the test, or for a timer of the virtual clock."""
    await asyncio.sleep(1e-6)


def seconds_of(scenario: Coroutine[None, None, object]) -> float:
    """Run it with a virtual clock. Returns how long it waits."""
    with asyncio.Runner(loop_factory=Clockwork) as runner:
        runner.run(scenario)
        return runner.get_loop().time()


async def all_of(parties: list[Party], server: Server) -> tuple[int, list[str]]:
    """All dial at once. Returns how many reach the server before its first answer, and the results of all."""
    server.asked = 0
    server.go.clear()
    async with asyncio.TaskGroup() as group:
        dials = [group.create_task(party.dial()) for party in parties]
        await until_idle()
        first = server.asked
        server.go.set()
    return first, [dial.result() for dial in dials]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def parties(server: Server) -> list[Party]:
    shared = Handshakes()
    return [Party(shared, server.answer) for _ in range(20)]


def test_after_one_login_is_accepted_all_others_start(parties: list[Party], server: Server) -> None:
    async def dial_all() -> None:
        assert await all_of(parties, server) == (1, ["ok"] * 20)
        assert server.asked == 20
        assert await all_of(parties, server) == (HANDSHAKES_IN_FLIGHT, ["ok"] * 20), (
            "the key was accepted a moment ago"
        )

    seconds_of(dial_all())


def test_one_refused_login_fails_all_that_wait_with_the_same_key(
    parties: list[Party], server: Server
) -> None:
    async def dial_all() -> None:
        server.says = AuthFailed("edge:22 refuses user")
        assert await all_of(parties, server) == (1, ["auth_failed"] * 20)
        assert server.asked == 1
        (first,) = (party for party in parties if party.has_tried)
        one, another = [party for party in parties if party is not first][:2]
        assert await one.dial() == "auth_failed"
        assert server.asked == 1, "the wait after the refusal is not over"
        assert await one.dial(identity="another key") == "auth_failed"
        assert server.asked == 2

        assert await first.dial() == "auth_failed"
        assert server.asked == 3, "its own backoff is over, so it dials"
        server.says = None
        assert await another.dial(is_ordered=True) == "ok"
        assert [party.hurries for party in parties] == [1] * 20
        assert (await all_of(parties, server))[1] == ["ok"] * 20

    seconds_of(dial_all())


def test_all_gateways_dial_a_server_that_does_not_answer(parties: list[Party], server: Server) -> None:
    """Otherwise each gateway would wait for the timeout of the one before it."""

    async def dial_all() -> None:
        server.says = Unreachable("no route")
        assert await all_of(parties, server) == (1, ["unreachable"] * 20)
        assert server.asked == 20

    seconds_of(dial_all())


def test_after_a_cancelled_trial_the_next_gateway_tries(parties: list[Party], server: Server) -> None:
    async def dial_both() -> None:
        loop = asyncio.get_running_loop()
        first = loop.create_task(parties[0].dial())
        await until_idle()
        second = loop.create_task(parties[1].dial())
        await until_idle()
        assert server.asked == 1
        first.cancel()
        server.go.set()
        assert await second == "ok"

    seconds_of(dial_both())


def test_when_the_acceptance_is_old_one_login_goes_first_again(
    parties: list[Party], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROVEN_S", 0.0)

    async def dial_all() -> None:
        for _ in range(2):
            assert await all_of(parties, server) == (1, ["ok"] * 20)

    seconds_of(dial_all())


async def test_a_refusal_keeps_no_gateway_in_memory(server: Server) -> None:
    shared, gone = Handshakes(), []
    server.says = AuthFailed("no")
    server.go.set()

    async def short_lived() -> None:
        party = Party(shared, server.answer)
        gone.append(id(party))
        await party.dial()

    await short_lived()
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Party)]


def different(parties: list[Party]) -> list[asyncio.Task[str]]:
    """All dial at once, each with its own key."""
    loop = asyncio.get_running_loop()
    return [loop.create_task(party.dial(identity=f"key {number}")) for number, party in enumerate(parties)]


def test_different_keys_share_the_pace_of_their_server() -> None:
    """Two at once, and the next one when the server has forgotten a refusal (5 s)."""
    asked: list[float] = []

    async def refuse() -> None:
        asked.append(asyncio.get_running_loop().time())
        raise AuthFailed("edge:22 refuses user")

    async def dial_all() -> list[str]:
        shared = Handshakes()
        return await asyncio.gather(*different([Party(shared, refuse) for _ in range(6)]))

    with asyncio.Runner(loop_factory=Clockwork) as runner:
        assert runner.run(dial_all()) == ["auth_failed"] * 6
    assert asked == pytest.approx([0, 0, 5, 10, 15, 20], abs=1e-6), (
        "a further attempt waits until a refusal is forgotten"
    )


def test_keys_that_were_accepted_before_are_tried_first(parties: list[Party], server: Server) -> None:
    good, *others = parties[:8]

    async def dial_all() -> None:
        server.go.set()
        assert await good.dial(identity="good") == "ok"
        server.says = AuthFailed("edge:22 refuses user")
        bad = different(others)
        await until_idle()
        assert server.asked == 3
        server.says = None
        assert await good.dial(identity="good") == "ok", "a key that was accepted a moment ago does not wait"
        assert server.asked == 4
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "PROVEN_S", 0.0)
            assert await good.dial(identity="good") == "ok"
        assert server.asked == 5, "it waits only until an open attempt is forgotten"
        await asyncio.gather(*bad)

    assert seconds_of(dial_all()) == pytest.approx(5, abs=1e-3)


def test_keys_that_are_all_accepted_wait_for_nothing(parties: list[Party], server: Server) -> None:
    async def dial_all() -> None:
        server.go.set()
        assert await asyncio.gather(*different(parties)) == ["ok"] * 20

    assert seconds_of(dial_all()) == pytest.approx(0, abs=1e-3)


def test_different_keys_all_dial_after_a_timeout(parties: list[Party], server: Server) -> None:
    """After the first timeout all others dial at once: a server that does not answer refuses no keys."""

    async def dial_all() -> None:
        server.says = Unreachable("no route")
        dials = different(parties)
        await until_idle()
        assert server.asked == 2
        server.go.set()
        assert await asyncio.gather(*dials) == ["unreachable"] * 20

    assert seconds_of(dial_all()) == pytest.approx(0, abs=1e-3)


def test_a_cancelled_gateway_in_the_queue_delays_no_other(parties: list[Party], server: Server) -> None:
    async def dial_all() -> None:
        dials = different(parties[:5])
        await until_idle()
        assert server.asked == 2
        dials[2].cancel()
        dials[0].cancel()
        server.go.set()
        assert [await dials[number] for number in (1, 3, 4)] == ["ok"] * 3

    assert seconds_of(dial_all()) == pytest.approx(0, abs=1e-3)


@pytest.mark.sshd
async def test_a_key_that_many_gateways_share_is_refused_once(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sshd 9.8 would refuse the address after the fourth. When sshd accepts the key, all come up at once."""
    hour = 3600.0  # no gateway dials again before the test has looked
    monkeypatch.setitem(governor._LIMITS, RetryClass.SLOW, (hour, hour))
    before = (await asyncio.to_thread(sshd.log)).count(CONNECTION)
    key = sshd.new_identity("shared", authorize=False)
    shared = Handshakes()
    config = config_for(sshd, identity_files=[str(key)])
    gateways = [Watched(config) for _ in range(30)]
    try:
        for gateway in gateways:
            gateway._dialler._handshakes = shared
            gateway.start()
        for gateway in gateways:
            await gateway.until(lambda gateway=gateway: gateway.snapshot().state is GatewayState.DOWN)  # type: ignore[misc]
            assert gateway.snapshot().reason == "auth_failed"
        log = await asyncio.to_thread(sshd.log)
        assert log.count(CONNECTION) == before + 1
        with (sshd.folder / "authorized_keys").open("a") as file:
            file.write(f"{ssh_keys.public(key)}\n")
        gateways[3].renew("test")
        for gateway in gateways:
            await gateway.until(lambda gateway=gateway: gateway.links == 1)  # type: ignore[misc]
    finally:
        await asyncio.gather(*(gateway.close() for gateway in gateways))
