"""Files that change while the daemon runs, without a reload."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.running import running, told, wait_for_log
from tests.integration.test_make_before_break import Site, connected, is_replaced, until
from tests.support.echo import Echo, Source
from tests.support.sshd import Sshd

pytestmark = pytest.mark.sshd


async def test_a_rotated_key_is_used_without_a_reload(sshd: Sshd, tmp_path: Path) -> None:
    """The daemon watches the key file itself."""
    key = tmp_path / "key"
    key.write_bytes(sshd.identity.read_bytes())
    key.chmod(0o600)
    async with Source() as source, Echo() as echo:
        site = Site(sshd, source, echo, identity_files=[str(key)])
        async with running(tmp_path / "daemon", gateways=site.gateways, clusters=site.clusters) as daemon:
            await until(daemon, "both links", lambda: told(daemon)["edge"]["state"] == "up")
            async with connected(site.source, site.echo) as clients:
                key.write_bytes(sshd.new_identity("rotated").read_bytes())
                changed = await wait_for_log(daemon, "files changed")
                assert (changed["files"], changed["gateways"]) == ([str(key)], ["edge"])
                await until(daemon, "both replaced", lambda: is_replaced(daemon, 2))
                await clients.tick()
                await clients.finish()
            assert daemon.metric("kubemux_config_reloads_total") == 0
