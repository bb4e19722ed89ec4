"""dropbear's and PuTTY's clients as sites, with the commands of sites.md. They have only fixed forwards."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.integration.running import running, wait_for_log, wait_for_metric
from tests.integration.test_by_name import ask
from tests.support import pages
from tests.support.daemon import Sections
from tests.support.echo import Echo, pattern
from tests.support.ports import free_port
from tests.support.site import SshServerFiles
from tests.support.ssh_keys import fingerprint

pytestmark = [pytest.mark.sshd, pytest.mark.ssh_clients]


def of_the_page(client: str) -> str:
    """The code block of sites.md with this client."""
    section = pages.read("docs/sites.md").partition("\n## Other clients\n")[2].partition("\n## ")[0]
    [block] = [one for one in section.split("```sh\n")[1:] if client in one.partition("```")[0]]
    return block.partition("```")[0]


async def test_dropbear_and_putty_can_be_sites(tmp_path: Path) -> None:
    files, proxy = SshServerFiles(tmp_path / "ssh"), Endpoint("127.0.0.1", free_port())
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    files.key("factory-7").rename(home / ".ssh/factory-7")
    key = " ".join(files.known_hosts.read_text().split()[1:])
    (home / ".ssh/known_hosts").write_text(f"127.0.0.1 {key}\n")  # dbclient writes no port there
    async with Echo() as echo:
        authorized = files.folder / "factory-7.authorized"
        authorized.write_text((files.folder / "factory-7.pub").read_text())
        authorized.chmod(0o644)
        site: Sections = {"authorized_keys": [str(authorized)], "permit": ["kube:6443"]}
        async with running(
            tmp_path / "daemon",
            gateways={},
            clusters={},
            entries={"proxy": {"listen": str(proxy)}},
            ssh_server=files.sections(),
            sites={"factory-7": site},
        ) as daemon:
            for client in ("dbclient", "plink"):
                command = of_the_page(client)
                for written, here in (
                    ("10.0.0.1:6443", str(echo.endpoint)),
                    ("bastion.example.com", "127.0.0.1"),
                    (" 2222 ", f" {files.listen.port} "),
                    ("SHA256:...", fingerprint(files.host_key)),
                    (f"\n{client}", f"\nexec {client}"),
                ):
                    assert written in command or written == "SHA256:..."
                    command = command.replace(written, here)
                process = await asyncio.create_subprocess_exec(
                    "sh",
                    "-ec",
                    command,
                    env={"HOME": str(home), "PATH": os.environ["PATH"]},
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                )
                try:
                    await wait_for_metric(daemon, 1, "kubemux_site_connected", site="factory-7")
                    payload = pattern(300_000)
                    status, came = await ask(proxy, "kube.factory-7:6443", payload)
                    assert (client, status, came == payload) == (client, "200 Connection established", True)
                finally:
                    with suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
                await wait_for_metric(daemon, 0, "kubemux_site_connected", site="factory-7")
            assert (await wait_for_log(daemon, "link lost", gateway="factory-7"))["reason"] == "link_lost"
