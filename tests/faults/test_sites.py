"""Faults of a site (an OpenSSH client that has dialled the daemon), and of the network between them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from tests.faults.bed import Bed
from tests.faults.row import CUT, REFUSED, RESET, Hits, Row
from tests.faults.site_edge import NAME, RIVAL
from tests.faults.test_api_server import listen, refuse
from tests.faults.test_sshd import LINK_DOWN, LINK_LOST
from tests.support import ssh_keys
from tests.support.serving import closed
from tests.support.site import RemoteSite

pytestmark = pytest.mark.sshd

SHORT: Final = {"interval": "500ms", "max_missed": 5}
SILENT: Final = frozenset({"keepalive_timeout"})


async def kill(bed: Bed) -> None:
    await asyncio.to_thread(bed.site.stop)


async def start(bed: Bed) -> None:
    await asyncio.to_thread(bed.site.start)


async def freeze(bed: Bed) -> None:
    await asyncio.to_thread(bed.site.pause)


async def thaw(bed: Bed) -> None:
    """ssh ends because its connection was closed. The service manager starts it again."""
    await asyncio.to_thread(bed.site.resume)
    await asyncio.to_thread(bed.site.wait_ended)
    await asyncio.to_thread(bed.site.start)


async def swallow(bed: Bed) -> None:
    """The site's NAT drops the state of the connection: neither side gets a packet again. Both detect it."""
    bed.path.stall()
    await asyncio.to_thread(bed.site.wait_ended)


async def pass_again(bed: Bed) -> None:
    bed.path.forget()
    bed.path.resume()
    await asyncio.to_thread(bed.site.start)


async def login_refused(bed: Bed) -> dict[str, object]:
    """Wait for the first refused login in the log, and return its entry."""
    await bed.wait_for("a login is refused", lambda: bool(bed.daemon.events("login refused")))
    return bed.daemon.events("login refused")[0]


async def remove_key(bed: Bed) -> None:
    """Remove the site's key from its file, and reload. The site's next logins are refused with a message."""
    bed.site.authorize("nobody")
    await bed.reload()
    await asyncio.to_thread(bed.site.wait_ended)
    assert "key_removed" in bed.site.log()
    await asyncio.to_thread(bed.site.start)
    await asyncio.to_thread(bed.site.wait_ended)
    refused = await login_refused(bed)
    assert (refused["reason"], refused["user"]) == ("unknown_key", NAME)


async def restore_key(bed: Bed) -> None:
    bed.site.authorize(NAME)
    await bed.reload()
    await asyncio.to_thread(bed.site.start)


async def claim_name(bed: Bed) -> None:
    """Another site logs in with this site's name, and then with its own name but this site's forward."""
    files = bed.site.files
    async with RemoteSite(files, RIVAL, "-R", f"{NAME}:1080", user=NAME) as other:
        assert "Permission denied" in await other.ended()
    refused = await login_refused(bed)
    assert refused["reason"] == "other_name"
    keys = [ssh_keys.fingerprint(files.key(name)) for name in (NAME, RIVAL)]
    assert all(key in str(refused["message"]) for key in keys)
    async with RemoteSite(files, RIVAL, "-R", f"{NAME}:1080") as other:
        assert f"has the name of another site, and this is {RIVAL}" in await other.ended()


async def visit(bed: Bed) -> None:
    """Connect a new client through the site."""
    bed.visitors += 1
    reader, writer = await asyncio.open_connection(*bed.plain)
    try:
        writer.write(b"5\n")
        async with asyncio.timeout(bed.row.patience):
            assert len(await reader.readexactly(5)) == 5
    finally:
        await closed(writer)


async def take_over(bed: Bed) -> None:
    """ssh freezes, and the site dials again. New clients are served before kubemux detects the dead link,
    which takes 45 s until a reload shortens it.
    """
    await asyncio.to_thread(bed.site.pause)
    await asyncio.to_thread(bed.site.start)
    await bed.wait_for("a second link", lambda: bed.daemon.metric("kubemux_gateway_links", gateway=NAME) == 2)
    await visit(bed)
    assert not bed.daemon.events("link lost")
    content = json.loads(bed.good)
    content["sites"][NAME]["keepalive"] = SHORT
    bed.daemon.config.write_text(json.dumps(content))
    await bed.reload()


async def end_frozen_ssh(bed: Bed) -> None:
    """End the frozen ssh. The newer ssh stays."""
    await asyncio.to_thread(bed.site.stop_oldest)


ROWS = (
    Row(
        name="site: ssh killed",
        is_site=True,
        breaks=kill,
        mends=start,
        clients=RESET,
        may_see=REFUSED,
        gateway="link_lost",
        lost="link_lost",
        results=LINK_LOST,
        may=LINK_DOWN,
    ),
    Row(
        name="site: ssh stopped (SIGSTOP), and continued",
        is_site=True,
        breaks=freeze,
        mends=thaw,
        clients=RESET,
        may_see=REFUSED,
        gateway="keepalive_timeout",
        lost="keepalive_timeout",
        results=SILENT,
        may=LINK_DOWN,
        edge={"keepalive": SHORT},
    ),
    Row(
        name="site: its NAT forgets the connection",
        is_site=True,
        breaks=swallow,
        mends=pass_again,
        clients=RESET,
        may_see=REFUSED,
        gateway="keepalive_timeout",
        lost="keepalive_timeout",
        results=SILENT,
        may=LINK_DOWN,
        edge={"keepalive": SHORT},
        is_through_relay=True,
    ),
    Row(
        name="site: a target refuses",
        is_site=True,
        hits=Hits.CLUSTER,
        breaks=refuse,
        mends=listen,
        clients=RESET,
        may_see=CUT,
        results=frozenset({"channel_refused"}),
        may=frozenset({"cluster_closed", "cluster_reset"}),
        probe="channel_refused",
    ),
    Row(
        name="site: its key is taken away by a reload, and it dials again",
        is_site=True,
        breaks=remove_key,
        mends=restore_key,
        clients=RESET,
        may_see=REFUSED,
        gateway="key_removed",
        lost="key_removed",
        results=frozenset({"key_removed"}),
        may=LINK_DOWN,
    ),
    Row(name="site: another one claims its name", is_site=True, breaks=claim_name),
    Row(
        name="site: it dials again while its first connection is silent",
        is_site=True,
        breaks=take_over,
        mends=end_frozen_ssh,
        clients=RESET,
        results=SILENT,
        has_plain=True,
    ),
)


async def test_row(proven: Callable[[], Awaitable[None]]) -> None:
    await proven()
