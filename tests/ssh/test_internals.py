"""What a link keeps of asyncssh's connection: nothing of the login, and key exchanges still work."""

from __future__ import annotations

import asyncio
import gc
from typing import Any, cast

import asyncssh
import pytest

from proxy.relay.budget import MemoryBudget
from proxy.ssh import internals
from proxy.ssh.link import Link
from proxy.ssh.login.dial import Dialled
from proxy.ssh.turns import Turns
from tests.ssh.conftest import config_for, dialled
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.sshd, pytest.mark.usefixtures("data_plane")]


def linked(result: Dialled) -> Link:
    budget = MemoryBudget(64 << 20, connections=100)
    return Link(result.conns, server=result.server, budget=budget, turns=Turns(), name="edge/1")


def begin_key_exchange(conn: asyncssh.SSHClientConnection) -> None:
    """Start a key exchange, as asyncssh does after enough bytes or seconds."""
    inner = cast("Any", conn)
    inner._send_kexinit()
    inner._kexinit_sent = True


def existing(kind: type[object]) -> list[object]:
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, kind)]


async def rekeyed(conn: asyncssh.SSHClientConnection) -> None:
    """Wait until the key exchange is over, and the server answers under the new keys."""
    async with asyncio.timeout(30):
        while internals.is_exchanging_keys(conn):
            answered = asyncio.Event()
            internals.pinger(conn, answered.set, lambda _: False)()
            await answered.wait()
            assert not internals.is_gone(conn), "the key exchange did not fail"


async def test_a_link_keeps_no_private_key_no_known_hosts_and_no_options(sshd: Sshd) -> None:
    kinds = (asyncssh.SSHKeyPair, asyncssh.SSHKnownHosts, asyncssh.SSHClientConnectionOptions)
    before = [existing(kind) for kind in kinds]  # none of them is freed meanwhile
    async with dialled(config_for(sshd)) as result:
        link = linked(result)
        assert [len(existing(kind)) for kind in kinds] == list(map(len, before))
        await link.close()


async def test_keys_are_exchanged_after_the_login_is_forgotten(sshd: Sshd) -> None:
    async with dialled(config_for(sshd)) as result:
        link, conn = linked(result), result.conns[-1]
        begin_key_exchange(conn)
        await rekeyed(conn)
        assert link.error is None
        await link.close()


async def test_a_key_exchange_that_had_begun_before_goes_on(sshd: Sshd) -> None:
    async with dialled(config_for(sshd)) as result:
        conn = result.conns[-1]
        begin_key_exchange(conn)
        assert internals.is_exchanging_keys(conn)
        link = linked(result)
        await rekeyed(conn)
        assert (link.error, link.data_plane) == (None, "asyncssh")
        await link.close()


@pytest.mark.parametrize("is_exchanging", [False, True])
async def test_each_answer_is_matched_to_its_request(sshd: Sshd, *, is_exchanging: bool) -> None:
    """sshd grants one of them, and refuses the keepalives before and after it."""
    answers: asyncio.Queue[None] = asyncio.Queue()
    async with dialled(config_for(sshd)) as result, asyncio.timeout(30):
        link, conn = linked(result), result.conns[-1]
        ask = internals.pinger(conn, lambda: answers.put_nowait(None), link._plane.send_directly)
        key = asyncssh.read_private_key(sshd.host_key).public_data
        ask()
        if is_exchanging:
            begin_key_exchange(conn)
            ask()
        proofs = asyncio.get_running_loop().create_task(internals.prove_host_keys(conn, [key]))
        await asyncio.sleep(0)  # it begins
        ask()
        assert len(await proofs or ()) == 1
        for _ in range(3 if is_exchanging else 2):
            await answers.get()
        assert link.error is None
        await link.close()
