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

from proxy.metrics import Metrics
from proxy.metrics.exposition import expose
from proxy.metrics.records import LATENCY_BUCKETS
from tests.admin.scripted import DAEMON, PROD_EU, Daemon

PROMETHEUS_ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=underscores;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=underscores;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
LABELS = {"cluster": PROD_EU.name, "direction": "to_cluster"}


async def exposed(metrics: Metrics, *, accept: str, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
    """The whole body, and the headers."""
    answer = expose(metrics, asyncio.Lock(), accept=accept, accept_encoding=accept_encoding)
    return b"".join([piece async for piece in answer.pieces]), answer.headers


def value(families: Iterable[Metric]) -> float:
    return next(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "kubemux_bytes_total" and sample.labels == LABELS
    )


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/plain", "application/json", "application/openmetrics-text; version=x"]
)
async def test_text_is_the_default(accept: str) -> None:
    body, headers = await exposed(Daemon().metrics, accept=accept, accept_encoding="")
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "Content-Encoding" not in headers
    assert value(parse_text(body.decode())) == PROD_EU.bytes_to_cluster


@pytest.mark.parametrize("accept", [PROMETHEUS_ACCEPT, "application/openmetrics-text; version=1.0.0"])
async def test_openmetrics_is_sent_if_asked_for(accept: str) -> None:
    body, headers = await exposed(Daemon().metrics, accept=accept, accept_encoding="")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    families = parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]  # prometheus_client has no types there
    assert value(families) == PROD_EU.bytes_to_cluster


@pytest.mark.parametrize("refused", ["gzip;q=0", "deflate, gzip ; Q=0.000", "br;q=1,gzip; q=0.0 ,identity"])
async def test_gzip_is_not_used_if_refused(refused: str) -> None:
    body, headers = await exposed(Daemon().metrics, accept="", accept_encoding=refused)
    assert "Content-Encoding" not in headers
    assert value(parse_text(body.decode())) == PROD_EU.bytes_to_cluster


async def test_gzip_is_used_if_accepted() -> None:
    metrics = Daemon().metrics
    plain, _ = await exposed(metrics, accept="", accept_encoding="identity")
    packed, headers = await exposed(metrics, accept="", accept_encoding="deflate, gzip;q=1.0")
    assert headers["Content-Encoding"] == "gzip"
    assert len(packed) < len(plain)
    assert value(parse_text(gzip.decompress(packed).decode())) == PROD_EU.bytes_to_cluster


async def test_the_loop_runs_between_two_pieces() -> None:
    """Each piece has a limited number of samples. All records are copied before the first piece, so all
    samples are of the same moment.
    """
    metrics = Daemon().metrics
    for number in range(200):
        metrics.traffic(f"cluster-{number}").first_byte.observe(0.1)
        metrics.cluster(f"cluster-{number}").up = True
    assert max(len(piece.samples) for piece in metrics.pieces()) <= 300
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        metrics.traffic("cluster-199").to_cluster += 1
        if turns < 1000:
            asyncio.get_running_loop().call_soon(turn)

    turn()
    body, _ = await exposed(metrics, accept="", accept_encoding="")
    assert len(list(metrics.pieces())) < turns < 1000
    families = {family.name: family for family in parse_text(body.decode())}
    assert len(families) == len({piece.name for piece in metrics.pieces()})
    sent = {
        (one.labels["cluster"], one.labels["direction"]): one.value
        for one in families["kubemux_bytes"].samples
    }
    assert sent["cluster-199", "to_cluster"] == 1
    known = 200 + len(DAEMON.clusters)
    assert len(families["kubemux_first_byte_seconds"].samples) == known * (len(LATENCY_BUCKETS) + 3)


@pytest.mark.prometheus
async def test_promtool_finds_no_mistake() -> None:
    body, _ = await exposed(Daemon().metrics, accept="", accept_encoding="")
    done = await asyncio.to_thread(
        subprocess.run,
        ["promtool", "check", "metrics"],
        input=body,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


async def test_many_scrapes_make_one_piece_in_a_turn_of_the_loop() -> None:
    """Many scrapers delay the loop's other work no longer than one does."""
    metrics, turn, made, most = Daemon().metrics, asyncio.Lock(), 0, 0

    async def scrape() -> None:
        nonlocal made
        async for _ in expose(metrics, turn, accept="", accept_encoding="").pieces:
            made += 1

    async with asyncio.TaskGroup() as group:
        scrapes = [group.create_task(scrape()) for _ in range(20)]
        while not all(task.done() for task in scrapes):
            before = made
            await asyncio.sleep(0)
            most = max(most, made - before)
    assert most == 1
    assert made > len(scrapes)
