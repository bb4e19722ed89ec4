"""The shipped rules, scrape example and dashboard: valid, and about metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from ruamel.yaml import YAML

from proxy.metrics import Metrics

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "config"
RULES = CONFIG / "prometheus" / "kubemux.rules.yml"
DASHBOARD = CONFIG / "grafana-dashboard.json"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}

rules = [rule for group in YAML(typ="safe").load(RULES)["groups"] for rule in group["rules"]]
dashboard = json.loads(DASHBOARD.read_text())
panel_queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
variable_queries = [
    variable["query"]["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"
]


def promtool(*args: str | Path) -> None:
    done = subprocess.run(["promtool", *args], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
def test_rules_and_scrape_example_are_valid() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    promtool("check", "config", CONFIG / "prometheus" / "scrape.yml")


@pytest.mark.prometheus
@pytest.mark.parametrize("path", sorted(HERE.glob("*.yml")), ids=lambda path: path.stem)
def test_an_alert_fires_only_when_it_should(path: Path) -> None:
    promtool("test", "rules", path)


@pytest.mark.prometheus
def test_dashboard_queries_are_promql(tmp_path: Path) -> None:
    queries = [query.replace("$__rate_interval", "5m") for query in panel_queries]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "dashboard.json"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", path)


def test_every_alert_has_tests_that_fire_and_that_stay_quiet() -> None:
    assert sorted(path.stem for path in HERE.glob("*.yml")) == sorted(rule["alert"] for rule in rules)
    for path in HERE.glob("*.yml"):
        cases = [case for test in YAML(typ="safe").load(path)["tests"] for case in test["alert_rule_test"]]
        assert {case["alertname"] for case in cases} == {path.stem}
        assert {bool(case["exp_alerts"]) for case in cases} == {True, False}, path


def test_every_alert_has_a_severity_and_a_remedy() -> None:
    for rule in rules:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_rules_and_dashboard_name_exported_metrics_only() -> None:
    families = Metrics(CollectorRegistry(), version="0").registry.collect()
    exported = {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}
    queries = [rule["expr"] for rule in rules] + panel_queries + variable_queries
    assert len(queries) > len(rules)
    for query in queries:
        named = set(re.findall(r"kubemux_\w+", query))
        assert named <= exported, query
        assert named or "up{" in query, query


def test_dashboard_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
