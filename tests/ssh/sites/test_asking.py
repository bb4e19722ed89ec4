"""Each end of an opening through a site's SOCKS5 server, at each stage of it, leaves no channel behind.

The site is scripted. On both data planes. Replies in pieces, and with bytes of the target behind them, are in
tests/ssh/test_last_bytes.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from proxy.errors import ChannelError, ChannelRefused, ChannelTimeout, LinkDown
from proxy.relay.interfaces import Channel
from proxy.ssh.native.wire import messages
from proxy.ssh.sites.asking import Asking
from proxy.ssh.sites.socks5 import connect_request
from tests.ssh.carried import until
from tests.ssh.scripted_site import REPLY, TARGET, Site, SiteServed, site

pytestmark = pytest.mark.usefixtures("data_plane")

Reaching = asyncio.Task[Channel]
Stage = Callable[[Site], Awaitable[Reaching]]
SHORT = 5
"""Bytes of a window that is too small for the request."""


async def opening(peer: Site) -> Reaching:
    """The site has not answered the request for a channel."""
    return await peer.opening()


async def asking(peer: Site) -> Reaching:
    """Only a part of the request has room in the site's window."""
    reaching = await peer.opening()
    peer.confirm(SHORT)
    await peer.heard(messages.DATA)
    return reaching


async def asked(peer: Site) -> Reaching:
    """The request has arrived."""
    return await peer.asked()


async def half_answered(peer: Site) -> Reaching:
    """A part of the reply was sent."""
    reaching = await peer.asked()
    peer.data(REPLY[:7])
    return reaching


@pytest.fixture(params=[opening, asking, asked, half_answered], ids=lambda stage: stage.__name__)
def stage(request: pytest.FixtureRequest) -> Stage:
    one: Stage = request.param
    return one


async def nothing_is_left(peer: Site, served: SiteServed) -> None:
    """Wait until no channel is left, and check that the next client gets its own channel."""
    await until(lambda: not peer.link.load)
    assert served.budget.used == 0
    reaching = await peer.asked()
    peer.data(REPLY)
    channel = await reaching
    channel.abort()
    assert await peer.heard_until_close() == [messages.CLOSE]
    peer.close()
    await until(lambda: not peer.link.load)


async def is_given_up(peer: Site, stage: Stage) -> None:
    """The site hears an EOF before the CLOSE, and closes the channel.

    asyncssh drops the EOF together with data that waits for window. OpenSSH grants 2 MiB.
    """
    if stage is opening:
        peer.confirm()
    kinds = await peer.heard_until_close()
    if stage is asking and peer.link.data_plane == "asyncssh":
        assert kinds == [messages.CLOSE]
    else:
        assert kinds == [messages.EOF, messages.CLOSE]
    peer.close()


async def test_a_client_that_gives_up_leaves_no_channel(tmp_path: Path, stage: Stage) -> None:
    async with site(tmp_path) as (peer, served):
        reaching = await stage(peer)
        reaching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reaching
        await is_given_up(peer, stage)
        await nothing_is_left(peer, served)


async def test_a_deadline_that_passes_leaves_no_channel(tmp_path: Path, stage: Stage) -> None:
    async with site(tmp_path) as (peer, served):
        reaching = await stage(peer)
        next(iter(peer.link._openings)).expired()  # as its timer does
        with pytest.raises(ChannelTimeout, match="did not reach node-a:10250 within"):
            await reaching
        assert bool(peer.link._abandoned) == (stage is opening)
        await is_given_up(peer, stage)
        await nothing_is_left(peer, served)
        assert not peer.link._abandoned


async def test_only_an_open_without_an_answer_makes_a_link_stuck(tmp_path: Path, stage: Stage) -> None:
    async with site(tmp_path) as (peer, served):
        reaching = await stage(peer)
        for _ in range(2):
            peer.link.sample()
        assert bool(peer.link._stuck) == (stage is opening)
        reaching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reaching
        await is_given_up(peer, stage)
        await nothing_is_left(peer, served)


async def test_a_link_that_is_lost_leaves_no_channel(tmp_path: Path, stage: Stage) -> None:
    async with site(tmp_path) as (peer, served):
        reaching = await stage(peer)
        await peer.leave()
        with pytest.raises(LinkDown, match="was lost while a channel was opened"):
            await reaching
        await until(lambda: not peer.link.load)
        assert served.budget.used == 0


async def test_a_channel_that_is_refused_is_reported(tmp_path: Path) -> None:
    async with site(tmp_path) as (peer, served):
        reaching = await peer.opening()
        peer.refuse()
        with pytest.raises(ChannelRefused, match="no such forward"):
            await reaching
        await nothing_is_left(peer, served)


async def test_a_refusal_that_comes_late_leaves_no_channel(tmp_path: Path) -> None:
    async with site(tmp_path) as (peer, served):
        reaching = await peer.opening()
        reaching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reaching
        peer.refuse()
        await nothing_is_left(peer, served)


@pytest.mark.parametrize("has_eof", [True, False])
@pytest.mark.parametrize("stage", [asking, asked, half_answered], ids=lambda stage: stage.__name__)
async def test_a_channel_that_is_closed_in_place_of_the_reply_counts_as_refused(
    tmp_path: Path, stage: Stage, has_eof: bool
) -> None:
    async with site(tmp_path) as (peer, served):
        reaching = await stage(peer)
        if has_eof:
            peer.eof()
        peer.close()
        with pytest.raises(ChannelRefused, match="PermitRemoteOpen"):
            await reaching
        assert (await peer.heard_until_close())[-1] == messages.CLOSE
        await nothing_is_left(peer, served)


async def test_an_eof_does_not_end_the_wait_for_the_reply(tmp_path: Path) -> None:
    async with site(tmp_path) as (peer, served):
        reaching = await peer.asked()
        peer.eof()
        await until(lambda: peer.link.load == 1)
        assert not reaching.done()
        reaching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reaching
        await is_given_up(peer, asked)
        await nothing_is_left(peer, served)


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (b"SSH-2.0-", ChannelError, "not SOCKS5"),
        (b"\5\xff", ChannelError, "not SOCKS5"),
        (b"\5\0\5\5\0\1" + bytes(6), ChannelRefused, "connection refused"),
    ],
)
async def test_a_reply_that_is_no_success_is_an_error(
    tmp_path: Path, said: bytes, error: type[ChannelError], words: str
) -> None:
    async with site(tmp_path) as (peer, served):
        reaching = await peer.asked()
        peer.data(said)
        with pytest.raises(error, match=words):
            await reaching
        await is_given_up(peer, asked)
        await nothing_is_left(peer, served)


async def test_a_client_that_gives_up_in_the_turn_of_the_reply_leaves_no_channel(tmp_path: Path) -> None:
    async with site(tmp_path) as (peer, served):
        reaching = await peer.asked()
        one = next(iter(peer.link._openings))
        assert isinstance(one, Asking)
        one.channel_data([REPLY], len(REPLY))  # as the data plane does
        reaching.cancel()  # its task has not run since
        with pytest.raises(asyncio.CancelledError):
            await reaching
        await is_given_up(peer, asked)
        await nothing_is_left(peer, served)


@pytest.mark.parametrize("window", [0, 1, SHORT])
async def test_a_question_waits_for_the_sites_window(tmp_path: Path, window: int) -> None:
    asks, heard = connect_request(TARGET), b""
    async with site(tmp_path) as (peer, served):
        reaching = await peer.opening()
        peer.confirm(window)
        while len(heard) < len(asks):
            peer.adjust(1)
            heard += (await peer.heard(messages.DATA))[9:]
        assert heard == asks
        peer.data(REPLY)
        (await reaching).abort()
        await peer.heard(messages.CLOSE)
        peer.close()
        await nothing_is_left(peer, served)
