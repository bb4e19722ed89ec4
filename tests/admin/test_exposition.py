"""/metrics in the formats that Prometheus asks for."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
from collections.abc import Iterable

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy.admin.exposition import expose
from proxy.series import Computed, Registry, Sample
from tests.admin.scripted import PROD_EU, Daemon

PROMETHEUS_ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=underscores;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=underscores;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
LABELS = {"cluster": PROD_EU.name, "direction": "to_cluster"}


def value(families: Iterable[Metric]) -> float:
    return next(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "kubemux_bytes_total" and sample.labels == LABELS
    )


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain", "application/json", "application/openmetrics-text; version=x"])
async def test_text_is_the_default(accept: str) -> None:
    body, headers = await expose(Daemon().registry, accept=accept, accept_encoding="")
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "Content-Encoding" not in headers
    assert value(parse_text(body.decode())) == PROD_EU.bytes_to_cluster


@pytest.mark.parametrize("accept", [PROMETHEUS_ACCEPT, "application/openmetrics-text; version=1.0.0"])
async def test_openmetrics_if_asked_for(accept: str) -> None:
    body, headers = await expose(Daemon().registry, accept=accept, accept_encoding="")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    families = parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]  # prometheus_client has no types there
    assert value(families) == PROD_EU.bytes_to_cluster


async def test_gzip_if_accepted() -> None:
    registry = Daemon().registry
    plain, _ = await expose(registry, accept="", accept_encoding="identity")
    packed, headers = await expose(registry, accept="", accept_encoding="deflate, gzip;q=1.0")
    assert headers["Content-Encoding"] == "gzip"
    assert len(packed) < len(plain)
    assert value(parse_text(gzip.decompress(packed).decode())) == PROD_EU.bytes_to_cluster


async def test_the_loop_runs_between_two_metrics() -> None:
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn) if turns < 10 else None

    def read() -> list[Sample]:
        seen.append(turns)
        return [Sample("", (), 1)]

    seen: list[int] = []
    registry = Registry()
    registry.families += [Computed(f"g{number}", "A gauge.", "gauge", read) for number in range(3)]
    asyncio.get_running_loop().call_soon(turn)
    await expose(registry, accept="", accept_encoding="")
    assert seen == sorted(set(seen))


@pytest.mark.prometheus
async def test_promtool_finds_nothing() -> None:
    body, _ = await expose(Daemon().registry, accept="", accept_encoding="")
    done = await asyncio.to_thread(
        subprocess.run, ["promtool", "check", "metrics"], input=body, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
