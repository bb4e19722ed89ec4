"""Makes a link of a dialled connection.

Every failure is a LinkError, and leaves nothing open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from proxy.errors import DialBroken, LinkError
from proxy.runtime.tasks import is_cancelled
from proxy.runtime.text import printable
from proxy.ssh import internals
from proxy.ssh.errors import describe_loss
from proxy.ssh.link import Link
from proxy.ssh.login.client import Lost
from proxy.ssh.login.dial import Dialled


async def establish(
    dial: Callable[[Lost], Awaitable[Dialled]], make: Callable[[Dialled], Link], *, name: str
) -> Link:
    """Make a link of the connection that `dial` returns.

    `dial` gets a callback for the connection's end; `name` is the gateway's. Raises LinkError. An unexpected
    exception becomes the cause of a DialBroken.
    """
    # asyncssh may report the end before there is a Link.
    early: list[Exception | None] = []
    link: Link | None = None

    def on_lost(exc: Exception | None) -> None:
        if link is None:
            early.append(exc)
        else:
            link.lost(exc)

    try:
        dialled = await dial(on_lost)
        try:
            await _check(dialled, early)
            link = make(dialled)
        except BaseException:
            await dialled.close()
            raise
    except LinkError:
        raise
    except (Exception, asyncio.CancelledError) as exc:
        if isinstance(exc, asyncio.CancelledError) and is_cancelled():
            raise
        raise DialBroken(f"dialling {name} failed in a way that nobody expected: {_text(exc)}") from exc
    return link


async def _check(dialled: Dialled, early: list[Exception | None]) -> None:
    """Raise LinkError if the server has accepted the login and hung up at once: the link is lost already."""
    if any(internals.is_gone(conn) for conn in dialled.conns):
        await asyncio.sleep(0)  # asyncssh reports the reason in the next turn of the loop
        raise describe_loss(dialled.server, early[0] if early else None)


def _text(exc: BaseException) -> str:
    return printable(f"{type(exc).__name__}: {exc}")
