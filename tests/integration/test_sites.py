"""Sites: a stock OpenSSH client dials in, and clusters and names behind it are reached through it."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.runtime.endpoint import Endpoint
from tests.faults.api import Api
from tests.integration.conftest import cluster
from tests.integration.running import running, wait_for_log, wait_for_metric, wait_up
from tests.integration.test_by_name import ask
from tests.support.daemon import Sections
from tests.support.echo import Echo, pattern
from tests.support.ports import free_port
from tests.support.site import RemoteSite, SshServerFiles
from tests.support.tls import Certificates

pytestmark = pytest.mark.sshd


async def test_a_dynamic_forward_leads_to_a_cluster_and_to_names(
    tmp_path: Path, certificates: Certificates
) -> None:
    files, proxy, port = SshServerFiles(tmp_path / "ssh"), Endpoint("127.0.0.1", free_port()), free_port()
    async with Echo() as echo, Api(certificates) as api:
        site: Sections = {**files.authorized("factory-7"), "permit": ["127.0.0.1:*"]}
        async with running(
            tmp_path / "daemon",
            gateways={},
            clusters={"prod": cluster(port, api.endpoint, via="factory-7", ca=certificates.ca)},
            entries={"proxy": {"listen": str(proxy)}},
            ssh_server=files.sections(),
            sites={"factory-7": site},
        ) as daemon:
            async with RemoteSite(files, "factory-7", "-R", "factory-7:1080"):
                await wait_up(daemon, "prod")
                payload = pattern(300_000)
                status, came = await ask(proxy, f"factory-7:{echo.endpoint.port}", payload)
                assert (status, came == payload) == ("200 Connection established", True)
                assert daemon.metric("kubemux_site_connected", site="factory-7") == 1
                status, _ = await ask(proxy, "node.factory-7:22")
                assert "sites.factory-7.permit does not have node:22" in status
                lost = await ask(proxy, "factory-7:1")
                assert lost[0].startswith("502 kubemux: factory-7: channel_refused (")
            await wait_for_log(daemon, "link lost", gateway="factory-7")
            await wait_for_metric(daemon, 0, "kubemux_site_connected", site="factory-7")
            await wait_up(daemon, "prod", up=False)
