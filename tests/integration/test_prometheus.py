"""A real Prometheus scrapes the daemon with the shipped configuration and rules, and
sees a cluster go down."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.integration.conftest import cluster, gateway
from tests.support.daemon import ROOT, Daemon
from tests.support.https import Answer, Https
from tests.support.parts import find
from tests.support.ports import free_port
from tests.support.sshd import Sshd
from tests.support.tls import Certificates

pytestmark = [pytest.mark.prometheus, pytest.mark.sshd]

RULES = ROOT / "config" / "prometheus"


class Prometheus:
    """A running Prometheus; `query` is its HTTP API."""

    def __init__(self, port: int) -> None:
        self.port = port

    def query(self, expression: str) -> dict[str, float]:
        """Cluster (or the empty string) -> value."""
        url = f"http://127.0.0.1:{self.port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            results = json.load(answer)["data"]["result"]
        return {one["metric"].get("cluster", ""): float(one["value"][1]) for one in results}

    def wait_for(
        self, expression: str, holds: Callable[[dict[str, float]], bool], seconds: float = 30
    ) -> dict[str, float]:
        """Ask until it holds."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if holds(seen := self.query(expression)):
                    return seen
            except OSError:
                seen = {}
            assert time.monotonic() < deadline, f"{expression} is {seen}"
            time.sleep(0.1)


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Prometheus on the shipped scrape.yml, pointed at `target` and hurried."""
    folder.mkdir()
    yaml = YAML(typ="safe")
    config = yaml.load(RULES / "scrape.yml")
    config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
    config["global"] = {"evaluation_interval": "500ms"}
    config["scrape_configs"][0] |= {
        "scrape_interval": "500ms",
        "scrape_timeout": "400ms",
        "static_configs": [{"targets": [target]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                find("prometheus") or "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield Prometheus(port)
        finally:
            process.terminate()
            process.wait(20)


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
            prometheus(tmp_path / "prometheus", str(daemon.admin)) as seen,
        ):
            daemon.wait_up("a", "b")
            seen.wait_for("kubemux_cluster_up", lambda up: up == {"a": 1, "b": 1})
            expiry = seen.query('kubemux_certificate_expiry_timestamp_seconds{kind="server"} - time()')
            assert expiry.keys() == {"a", "b"}
            assert min(expiry.values()) > 0
            https.answer = Answer.UNHEALTHY
            seen.wait_for("kubemux_cluster_up", lambda up: up == {"a": 0, "b": 0})
            seen.wait_for(
                'ALERTS{alertname="KubemuxClusterDown"}', lambda alerts: alerts.keys() == {"a", "b"}
            )
            assert seen.query('sum(kubemux_probes_total{result="unhealthy"})')[""] >= 4

    await asyncio.to_thread(watch)
