"""Metrics as Prometheus reads them: prometheus-client's own parsers are the judges."""

from __future__ import annotations

import math
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy import process_series
from proxy.series import Computed, Counter, Family, Gauge, Histogram, Labelled, Registry, Sample, render

texts = st.text(st.characters(exclude_categories=["Cs"]))


def parsed(family: Family, *, openmetrics: bool) -> Metric:
    text = render(family, openmetrics=openmetrics)
    families = parse_openmetrics(text + "# EOF\n") if openmetrics else parse_text(text)  # type: ignore[no-untyped-call]
    (metric,) = families
    assert isinstance(metric, Metric)
    return metric


def values(metric: Metric) -> dict[tuple[str, ...], float]:
    return {(sample.name, *sample.labels.values()): sample.value for sample in metric.samples}


@pytest.mark.parametrize("openmetrics", [False, True])
def test_each_kind_is_read_as_it_was_written(openmetrics: bool) -> None:
    counter = Labelled("c", "Counts.", "counter", ("one", "two"), Counter)
    counter.labels("a", "b").inc()
    counter.labels("a", "b").inc(2.5)
    counter.labels("a", "c").inc(0)
    metric = parsed(counter, openmetrics=openmetrics)
    assert (metric.name, metric.type, metric.documentation) == ("c", "counter", "Counts.")
    assert values(metric) == {("c_total", "a", "b"): 3.5, ("c_total", "a", "c"): 0}

    gauge = Labelled("g", "Goes up and down.", "gauge", (), Gauge)
    gauge.labels().set(-1)
    assert values(parsed(gauge, openmetrics=openmetrics)) == {("g",): -1}
    gauge.labels().set_function(lambda: math.inf)
    assert values(parsed(gauge, openmetrics=openmetrics)) == {("g",): math.inf}
    gauge.labels().set_to_current_time()
    assert abs(values(parsed(gauge, openmetrics=openmetrics))["g",] - time.time()) < 60

    histogram = Labelled("h", "Times.", "histogram", ("one",), lambda: Histogram((0.5, 1.0, 30.0)))
    for seconds in (0.5, 0.6, 1.0, 31.0):
        histogram.labels("x").observe(seconds)
    assert values(parsed(histogram, openmetrics=openmetrics)) == {
        ("h_bucket", "x", "0.5"): 1,
        ("h_bucket", "x", "1.0"): 3,
        ("h_bucket", "x", "30.0"): 3,
        ("h_bucket", "x", "+Inf"): 4,
        ("h_count", "x"): 4,
        ("h_sum", "x"): 33.1,
    }


@given(label=texts, number=st.floats(allow_nan=False), openmetrics=st.booleans())
def test_any_label_and_number_survive(label: str, number: float, openmetrics: bool) -> None:
    gauge = Labelled("g", "Any.", "gauge", ("name",), Gauge)
    gauge.labels(label).set(number)
    assert values(parsed(gauge, openmetrics=openmetrics)) == {("g", label): number}


def test_series_are_dropped_by_label_or_one_by_one() -> None:
    gauge = Labelled("g", "Some.", "gauge", ("one", "two"), Gauge)
    for pair in (("a", "x"), ("a", "y"), ("b", "x")):
        gauge.labels(*pair).set(1)
    gauge.forget("three", "a")
    gauge.forget("one", "a")
    assert values(parsed(gauge, openmetrics=False)) == {("g", "b", "x"): 1}
    gauge.remove("b", "x")
    gauge.remove("b", "x")
    assert list(gauge.samples()) == []


def test_the_number_of_labels_must_be_right() -> None:
    with pytest.raises(ValueError, match=r"g has the labels \('one',\), not \(\)"):
        Labelled("g", "One.", "gauge", ("one",), Gauge).labels()


def test_a_value_can_be_asked_for() -> None:
    registry = Registry()
    registry.families.append(Computed("c", "Counts.", "counter", lambda: [Sample("_total", (("one", "a"),), 7)]))
    assert registry.get_sample_value("c_total", {"one": "a"}) == 7
    assert registry.get_sample_value("c_total", {"one": "b"}) is None
    assert registry.get_sample_value("c_total") is None


def test_the_process_is_this_one() -> None:
    registry = Registry()
    process_series.register(registry)
    value = registry.get_sample_value
    assert value("process_open_fds") == pytest.approx(len(os.listdir("/proc/self/fd")), abs=5)  # noqa: PTH208 - a number
    assert 1e6 < (value("process_resident_memory_bytes") or 0) < (value("process_virtual_memory_bytes") or 0)
    assert 0 < time.time() - (value("process_start_time_seconds") or 0) < 86_400
    assert (value("process_cpu_seconds_total") or 0) > 0
    assert (value("process_max_fds") or 0) > 0
    assert (value("python_gc_collections_total", {"generation": "0"}) or 0) > 0
    for family in registry.families:
        for openmetrics in (False, True):
            parsed(family, openmetrics=openmetrics)
