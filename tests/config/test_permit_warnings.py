"""Routes and sites that a site's `permit` shuts out cause a warning, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.config import permit_warnings, ssh_rules
from proxy.config.allow import Rule
from proxy.config.discover import DiscoverConfig
from proxy.config.findings import Finding
from proxy.config.matches import Match, Target
from proxy.config.model import ClusterConfig, Config, RouteConfig, SiteConfig
from proxy.runtime.endpoint import Endpoint
from tests.support.ssh_keys import new_key, public


def found(route: RouteConfig, *permit: str) -> list[Finding]:
    site = SiteConfig(authorized_keys=(Path("/k"),), permit=tuple(map(Match.parse, permit)))
    return list(permit_warnings.warnings(Config(version=1, sites={"far": site}, routes=(route,))))


def route(match: str, target: str | None = None, gateway: str = "far") -> RouteConfig:
    leads = None if target is None else Target.parse(target)
    return RouteConfig(name="hosts", match=(Match.parse(match),), gateway=gateway, target=leads)


@pytest.mark.parametrize(
    ("match", "target", "permit"),
    [
        ("*.eu.internal:22", None, "*.us.internal:22"),
        ("*.internal:22", None, "*.internal:23-30"),
        ("node-a:22", None, "node-b:*"),
        ("10.0.0.0/16:22", None, "**:22"),
        ("10.0.0.0/16:22", None, "10.1.0.0/16:22"),
        ("**:22", None, "10.0.0.0/8:22"),
        ("*.nb:22", "{1}.notebooks.svc:2209", "*.notebooks.svc:22"),
        ("*.nb:22", "{1}-x.notebooks.svc:22", "*.pods.svc:22"),
        ("*.nb:22", "{host}:2209", "*.nb:22"),
        ("10.0.0.0/16:22", "{host}:2209", "10.1.0.0/16:2209"),
        ("node-*:20-30", "10.0.0.7:{port}", "10.0.0.0/16:31-40"),
        ("node-*:22", "[fd00::7]:{port}", "10.0.0.0/8:22"),
        ("node-*:22", "{1}:2209", "*:22"),
    ],
)
def test_a_pattern_whose_targets_are_all_outside(match: str, target: str | None, permit: str) -> None:
    [(loc, message, hint)] = found(route(match, target), permit)
    what = match if target is None else f"{target}, where {match} leads"
    assert loc == ("routes", 0, "match", 0)
    assert message == f"leads nowhere: sites.far.permit has nothing of {what}"
    patterns = hint.removeprefix("add ").partition(" to sites.far.permit")[0].split(" and ")
    assert not found(route(match, target), *patterns), "the remedy helps"


@pytest.mark.parametrize(
    ("match", "target", "permit"),
    [
        ("*.eu.internal:22", None, "**.internal:*"),
        ("*.eu.internal:22", None, "node-a.*.internal:1-22"),
        ("a-*.eu:22", None, "*-b.eu:22"),
        ("10.0.0.0/8:22", None, "10.0.0.7:22"),
        ("*.nb:22", "{1}.notebooks.svc:2209", "*.notebooks.svc:2209"),
        ("**.nb:22", "{1}.notebooks.svc:2209", "a.b.notebooks.svc:2209"),
        ("**.nb:22", "{1}:2209", "10.0.0.0/8:2209"),
        ("**.nb:*", "{1}:{port}", "[fd00::7]:2209"),
        ("10.0.0.0/8:22", "{host}.internal:22", "*.*.*.*.internal:22"),
        ("node-*:20-30", "10.0.0.7:{port}", "10.0.0.0/16:30-40"),
        ("node-*:22", "[::ffff:10.0.0.7]:{port}", "10.0.0.7:22"),
        ("node-*:22", "Node-7.:{port}", "node-7:22"),
    ],
)
def test_a_pattern_that_may_lead_to_a_permitted_target(match: str, target: str | None, permit: str) -> None:
    assert not found(route(match, target), "outside:1", permit)


def test_pods_are_addresses() -> None:
    pods = DiscoverConfig(cluster="prod", selector="app=notebook", port=2209)
    one = RouteConfig(name="notebooks", discover=pods, gateway="far")
    for permit in ("**:*", "10.0.0.0/8:22"):
        [(loc, message, _)] = found(one, permit)
        assert loc == ("routes", 0, "discover")
        assert message.endswith("sites.far.permit has nothing of the addresses of pods, with port 2209")
    assert not found(one, "10.0.0.0/8:2209")


def test_a_site_without_permit() -> None:
    site = SiteConfig(authorized_keys=(Path("/k"),))
    [(loc, message, _)] = found(route("*.far.internal:22"))
    assert loc == ("routes", 0, "gateway")
    assert message == "leads nowhere: sites.far.permit is missing, so nothing may be asked of this site"
    config = Config(version=1, sites={"far": site}, routes=(route("*:22", gateway="direct"),))
    [(loc, message, _)] = permit_warnings.warnings(config)
    assert loc == ("sites", "far")
    assert message == (
        "is of no use: without `permit`, nothing may be asked of it, and no `allow` has site:far"
    )
    for rule in ("site:far", "any"):
        prod = ClusterConfig(
            gateway="direct", api_servers=(Endpoint("10.0.0.10", 6443),), allow=(Rule.parse(rule),)
        )
        caller = config.model_copy(update={"clusters": {"prod": prod}})
        assert not list(permit_warnings.warnings(caller)), "it may ask for something itself"


def test_a_fixed_target_outside_is_an_error_and_no_warning_when_inside() -> None:
    site = SiteConfig(authorized_keys=(Path("/k"),), permit=(Match.parse("db:5432"),))
    for target, is_wrong in (("db:5432", False), ("db:5433", True)):
        config = Config(version=1, sites={"far": site}, routes=(route("db-*:1", target),))
        errors = [one.loc for one in ssh_rules.check(config) if one.loc[0] == "routes"]
        assert errors == [("routes", 0, "target")] * is_wrong
        assert len(list(permit_warnings.warnings(config))) == is_wrong


def test_check_prints_the_line(tmp_path: Path) -> None:
    key = new_key(tmp_path / "key")
    (tmp_path / "site").write_text(f"{public(key)}\n")
    (tmp_path / "site").chmod(0o644)
    path = tmp_path / "config.yaml"
    path.write_text(f"""\
version: 1
ssh_server: {{listen: "127.0.0.1:2222", host_keys: [{key}]}}
sites:
  far: {{authorized_keys: [{tmp_path}/site], permit: ["*.internal:22"]}}
routes:
  - name: hosts
    match: ["*.internal:22",
            "*.internal:2209"]
    gateway: far
""")
    done = CliRunner().invoke(main, ["check", str(path)])
    assert (done.exit_code, done.stderr) == (
        0,
        f"WARNING: {path}:8: routes[0].match[1]: leads nowhere: sites.far.permit has nothing of "
        "*.internal:2209\n"
        "  hint: add *.internal:2209 to sites.far.permit, or as much of it as clients need\n",
    )
