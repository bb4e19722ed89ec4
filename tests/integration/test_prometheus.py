"""A real Prometheus scrapes the daemon with the shipped configuration and rules, and sees a
cluster go down.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.integration.conftest import cluster, gateway
from tests.integration.prometheus import prometheus
from tests.support.daemon import ROOT, Daemon
from tests.support.https import Answer, Https
from tests.support.ports import free_port
from tests.support.sshd import Sshd
from tests.support.tls import Certificates

pytestmark = [pytest.mark.prometheus, pytest.mark.sshd]

RULES = ROOT / "config" / "prometheus"


def shipped(target: str) -> dict[str, Any]:
    """The shipped scrape.yml with `target` as its target and short intervals."""
    config: dict[str, Any] = YAML(typ="safe").load(RULES / "scrape.yml")
    config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
    config["global"] = {"evaluation_interval": "500ms"}
    config["scrape_configs"][0] |= {
        "scrape_interval": "500ms",
        "scrape_timeout": "500ms",
        "static_configs": [{"targets": [target]}],
    }
    return config


@pytest.fixture
async def https(certificates: Certificates) -> AsyncIterator[Https]:
    async with Https(certificates) as server:
        yield server


async def test_prometheus_sees_clusters_up_and_down(
    sshd: Sshd, https: Https, certificates: Certificates, tmp_path: Path
) -> None:
    import asyncio

    clusters = {name: cluster(free_port(), https.endpoint, ca=certificates.ca) for name in ("a", "b")}

    def watch() -> None:
        with (
            Daemon(tmp_path / "daemon", gateways={"edge": gateway(sshd)}, clusters=clusters) as daemon,
            prometheus(tmp_path / "prometheus", shipped(str(daemon.admin))) as seen,
        ):
            daemon.wait_up("a", "b")
            seen.wait_for("kubemux_cluster_up", lambda up: up == {"a": 1, "b": 1})
            seen.wait_for(
                'kubemux_certificate_expiry_timestamp_seconds{kind="server"} > time()',
                lambda expiry: expiry.keys() == {"a", "b"},
            )
            https.answer = Answer.UNHEALTHY
            seen.wait_for("kubemux_cluster_up", lambda up: up == {"a": 0, "b": 0})
            seen.wait_for(
                'ALERTS{alertname="KubemuxClusterDown"}', lambda alerts: alerts.keys() == {"a", "b"}
            )
            # A scrape that was too slow hides every value until the next one.
            seen.wait_for('sum(kubemux_probes_total{result="unhealthy"})', lambda sums: sums.get("", 0) >= 4)

    await asyncio.to_thread(watch)
