"""From a dialled connection to a link. A connection that has ended meanwhile is a lost link, and no exception
ends the supervision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from proxy.errors import DialBroken, LinkDown
from proxy.snapshots import GatewayState
from proxy.ssh.link import Link
from proxy.ssh.login.dial import Dialled
from proxy.ssh.supervision.establish import establish
from tests.ssh.conftest import ORIGIN, config_for, dialled, started
from tests.support.echo import Echo
from tests.support.hasty_server import Hasty, Then
from tests.support.sshd import Sshd

pytestmark = pytest.mark.usefixtures("data_plane")

WORDS = "the bastion is full \x1b[31m" + "x" * 400


def disconnects(conn: Any) -> bytes:
    conn._send_disconnect(asyncssh.DISC_TOO_MANY_CONNECTIONS, WORDS, "en")
    return b""


def leaves_politely(conn: Any) -> bytes:
    conn._send_disconnect(asyncssh.DISC_BY_APPLICATION, "bye", "en")
    return b""


def talks_nonsense(conn: Any) -> bytes:
    del conn
    return bytes(256)


def hangs_up(conn: Any) -> bytes:
    del conn
    return b""


FATAL: dict[str, tuple[Then, bool, str]] = {
    "DISCONNECT": (disconnects, False, "the bastion is full"),
    "DISCONNECT by application": (leaves_politely, True, "closed the connection"),
    "a broken packet": (talks_nonsense, False, "lost"),
    "the end": (hangs_up, True, "connection"),
}


@pytest.mark.parametrize("name", FATAL)
async def test_a_server_that_lets_us_in_and_leaves_in_one_segment(name: str, tmp_path: Path) -> None:
    then, leaves, says = FATAL[name]
    reason = "protocol_error" if then is talks_nonsense else "link_lost"
    server = Hasty(then, hangs_up=leaves)
    async with Echo() as target, server.serve(tmp_path) as config, started(config) as gateway:
        await gateway.until(lambda: server.logins >= 2)  # the gateway has dialled again
        await gateway.until(lambda: gateway.snapshot().reason == reason)
        told = gateway.snapshot()
        assert says in told.message, told
        assert told.message.isprintable()
        assert len(told.message) < 300
        assert told.state in {GatewayState.DOWN, GatewayState.CONNECTING}
        server.then = None
        gateway.renew("test")
        await gateway.until(lambda: gateway.links == 1)
        assert gateway.snapshot().reason == ""
        hold_until = asyncio.get_running_loop().time() + 30
        (await gateway.open_channel(target.endpoint, origin=ORIGIN, hold_until=hold_until)).abort()


class Stray(asyncio.Future[None]):
    """CancelledError from a library, which has cancelled a future that our code awaits."""


def raises(error: BaseException) -> Callable[..., Any]:
    async def dial(*_: object, **__: object) -> Dialled:
        if isinstance(error, asyncio.CancelledError):
            stray = Stray()
            stray.cancel()
            await stray
        raise error

    return dial


@pytest.mark.sshd
@pytest.mark.parametrize(
    "error", [ZeroDivisionError("by \x07 nobody"), asyncio.CancelledError()], ids=["bug", "cancelled"]
)
async def test_an_unexpected_exception_is_a_failed_dial(
    error: BaseException, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("proxy.ssh.supervision.dialler.dial", raises(error))
        async with started(config_for(sshd)) as gateway:
            await gateway.until(lambda: gateway.metric("gateway_connects_total", result="internal") >= 2)
            told = gateway.snapshot()
            assert told.reason == "internal"
            assert type(error).__name__ in told.message
            assert told.message.isprintable()
            assert "report" in told.hint
            hold_until = asyncio.get_running_loop().time() + 0.05
            with pytest.raises(LinkDown) as down:
                await gateway.open_channel(ORIGIN, origin=ORIGIN, hold_until=hold_until)
            assert isinstance(down.value.__cause__, DialBroken)
            patch.undo()
            gateway.renew("test")
            await gateway.until(lambda: gateway.links == 1)
            assert gateway.snapshot().reason == ""


@pytest.mark.sshd
async def test_a_dialled_connection_is_closed_if_it_cannot_become_a_link(sshd: Sshd) -> None:
    def make(_: Dialled) -> Link:
        raise RuntimeError("no such part")

    async with dialled(config_for(sshd)) as result:

        async def dial(*_: object) -> Dialled:
            return result

        with pytest.raises(DialBroken, match=r"dialling edge failed .* RuntimeError: no such part"):
            await establish(dial, make, name="edge")
        async with asyncio.timeout(30):
            await result.conns[0].wait_closed()


async def test_a_cancelled_dial_stays_cancelled() -> None:
    async def dial(*_: object) -> Dialled:
        forever: asyncio.Future[Dialled] = asyncio.get_running_loop().create_future()
        return await forever

    def make(_: Dialled) -> Link:
        raise AssertionError("there is nothing to make it of")

    task = asyncio.get_running_loop().create_task(establish(dial, make, name="edge"), name="establish")
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
