"""Plain numbers, and the families that are made of them."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric

from proxy.metrics import Metrics
from proxy.metrics.family import COUNTER, Numbers, Plain, Timed, pieces
from proxy.metrics.records import ClusterRecord, GatewayRecord, Histogram, Traffic


def samples(metrics: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value for piece in metrics for sample in piece.samples
    }


@given(st.lists(st.floats(0, 100), max_size=50))
def test_a_bucket_counts_values_up_to_its_bound(values: list[float]) -> None:
    histogram = Histogram((0.5, 1.0, 30.0))
    for value in values:
        histogram.observe(value)
    assert dict(histogram.buckets()) == {
        str(bound) if bound < math.inf else "+Inf": sum(value <= bound for value in values)
        for bound in (0.5, 1.0, 30.0, math.inf)
    }
    assert histogram.sum == pytest.approx(sum(values))


@given(numbers=st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=90))
def test_pieces_add_up_to_the_family(numbers: dict[str, int]) -> None:
    def read(number: int) -> Numbers:
        return [((str(further),), number + further) for further in range(2)]

    counters = Plain(COUNTER, "c", "Counts.", ("one", "two"), read)
    cut = list(pieces(counters, list(numbers.items())))
    assert {(piece.name, piece.type, piece.documentation) for piece in cut} == {
        ("kubemux_c", "counter", "Counts.")
    }
    assert all(len(piece.samples) <= 2 * counters.size for piece in cut)
    assert samples(cut) == {
        ("kubemux_c_total", name, str(further)): number + further
        for name, number in numbers.items()
        for further in range(2)
    }

    def timed(number: int) -> Histogram:
        histogram = Histogram((5.0,))
        histogram.observe(number)
        return histogram

    histograms = samples(pieces(Timed("h", "Times.", "one", timed), list(numbers.items())))
    assert len(histograms) == 4 * len(numbers)
    for name, number in numbers.items():
        assert histograms["kubemux_h_seconds_bucket", name, "5.0"] == (number <= 5)
        assert histograms["kubemux_h_seconds_sum", name] == number


def test_a_family_is_there_before_it_has_a_sample() -> None:
    registry = CollectorRegistry()
    Metrics(registry, version="0")
    empty = {family.name for family in registry.collect() if not family.samples}
    assert {"kubemux_bytes", "kubemux_gateway_links", "kubemux_probe_duration_seconds"} <= empty


@given(st.data())
def test_a_copy_is_equal_and_independent(data: st.DataObject) -> None:
    """Each slot is copied, also one that is added to a record later."""
    for record in (Histogram((1.0,)), Traffic(), ClusterRecord(), GatewayRecord()):
        fill(record, data)
        twin = record.copy()
        assert plain(twin) == plain(record)
        before = plain(twin)
        fill(record, data)
        assert plain(twin) == before


Records = Histogram | Traffic | ClusterRecord | GatewayRecord


def fill(record: Records, data: st.DataObject) -> None:
    for slot in record.__slots__:
        value = getattr(record, slot)
        if isinstance(value, Histogram):
            value.observe(data.draw(st.floats(0, 9)))
        elif isinstance(value, Traffic):
            fill(value, data)
        elif isinstance(value, dict):
            value[data.draw(st.text(max_size=2))] = data.draw(st.integers(1, 9))
        elif slot not in ("bounds", "counts"):
            setattr(record, slot, data.draw(st.integers(1, 9)))


def plain(record: Records) -> dict[str, object]:
    values = {slot: getattr(record, slot) for slot in record.__slots__}
    return {
        slot: plain(value) if isinstance(value, Records) else copy.copy(value)
        for slot, value in values.items()
    }


def test_metrics_of_removed_clusters_and_gateways_are_dropped() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, version="0")
    for name in ("a", "b"):
        metrics.cluster(name).probes["ok"] += 1
        metrics.gateway(name).rtt = 1
    metrics.forget_cluster("a")
    metrics.forget_gateway("a")
    metrics.forget_gateway("never there")
    left = {
        sample.labels.get("cluster", sample.labels.get("gateway"))
        for one in registry.collect()
        for sample in one.samples
    }
    assert left == {None, "b"}


def test_process_metrics_describe_this_process() -> None:
    registry = CollectorRegistry()
    Metrics(registry, version="0").watch_process()
    value: Callable[..., float | None] = registry.get_sample_value
    assert value("process_open_fds") == pytest.approx(len(os.listdir("/proc/self/fd")), abs=5)  # noqa: PTH208 - a number
    assert 1e6 < (value("process_resident_memory_bytes") or 0) < (value("process_virtual_memory_bytes") or 0)
    assert 0 < time.time() - (value("process_start_time_seconds") or 0) < 86_400
    assert (value("process_cpu_seconds_total") or 0) > 0
    assert (value("process_max_fds") or 0) > 0
    assert (value("python_gc_collections_total", {"generation": "0"}) or 0) > 0


def test_lost_log_entries_are_counted() -> None:
    registry = CollectorRegistry()
    Metrics(registry, version="0", dropped_entries=lambda: 7)
    assert registry.get_sample_value("kubemux_log_entries_dropped_total") == 7
