"""To which cluster or target a name leads, and which rule decides it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.allow import Rule
from proxy.config.matches import Host, Match, Target
from proxy.config.model import ClusterConfig, Config, DiscoverConfig, GatewayConfig, RouteConfig, SiteConfig
from proxy.errors import Ambiguous, UnknownTarget
from proxy.errors.reasons import Reason
from proxy.routing.names import Asks, Decision, Names, Passed, ToCluster, ToSite, ToTarget
from proxy.runtime.endpoint import Endpoint

ARN = "arn:aws:eks:eu-west-1:1234:cluster/Prod"


def cluster(*api_servers: str, dns_name: str | None = None) -> ClusterConfig:
    return ClusterConfig(
        gateway="eu-edge",
        listen=Endpoint("127.0.0.1", 16443),
        api_servers=tuple(map(Endpoint.parse, api_servers)),
        dns_name=dns_name,
    )


def route(name: str, *match: str, target: str = "", entries: tuple[str, ...] | None = None) -> RouteConfig:
    return RouteConfig(
        name=name,
        match=tuple(map(Match.parse, match)),
        gateway="eu-edge",
        target=Target.parse(target) if target else None,
        allow=(Rule("gid", "sre"),),
        entries=entries,
    )


def config(*routes: RouteConfig, **clusters: ClusterConfig) -> Config:
    return Config(
        version=1, gateways={"eu-edge": GatewayConfig(host="eu-edge")}, clusters=clusters, routes=routes
    )


NAMES = Names(
    config(
        route("eu-hosts", "*.eu.internal:22", "10.0.0.0/16:2209"),
        route("kubelets", "node-*:10250", target="127.0.0.1:{port}", entries=("egress",)),
        route("notebooks", "*.nb:22", target="{1}.notebooks.svc:2209"),
        route("pets", "db-1:5432", "cat:*", "[fd00::/8]:22"),
        **{
            "prod-eu": cluster("10.0.0.10:6443", "10.0.0.11:8443"),
            "prod-us": cluster("10.0.0.11:8443", "127.0.0.1:6443"),
            "lab": cluster("127.0.0.1:6443", "kube.lab:6443", "[fd00::1]:6443"),
            ARN: cluster("10.9.0.1:443", dns_name="Prod.K8s.example.com"),
        },
    )
)


def found(decision: Decision) -> str:
    if isinstance(decision, ToCluster):
        return decision.cluster
    if isinstance(decision, ToSite):
        return f"{decision.site} {decision.target}"
    return f"{decision.route.name} {decision.target}"


@pytest.mark.parametrize(
    ("asked", "entry", "leads"),
    [
        ("prod-eu:443", None, "prod-eu"),
        ("prod-eu:6443", "proxy", "prod-eu"),
        ("prod-eu:8443", None, "prod-eu"),
        ("PROD-eu.:443", None, "prod-eu"),
        (f"{ARN}:443", None, ARN),
        (f"{ARN.upper()}:6443", None, ARN),
        ("prod.k8s.example.com:443", None, ARN),
        ("10.0.0.10:6443", None, "prod-eu"),
        ("::ffff:10.0.0.10:6443", None, "prod-eu"),
        ("KUBE.lab.:6443", None, "lab"),
        ("fd00:0::1:6443", None, "lab"),
        ("a.eu.internal:22", None, "eu-hosts a.eu.internal:22"),
        ("A.eu.internal.:22", None, "eu-hosts A.eu.internal.:22"),
        ("10.0.3.4:2209", None, "eu-hosts 10.0.3.4:2209"),
        ("::ffff:10.0.3.4:2209", None, "eu-hosts 10.0.3.4:2209"),
        ("node-7:10250", "egress", "kubelets 127.0.0.1:10250"),
        ("node-7:10250", None, "kubelets 127.0.0.1:10250"),
        ("Alice.NB:22", "proxy", "notebooks alice.notebooks.svc:2209"),
        ("cat:1", None, "pets cat:1"),
        ("FD00::7:22", None, "pets [fd00::7]:22"),
    ],
)
def test_a_name_leads_to_its_cluster_or_route(asked: str, entry: str | None, leads: str) -> None:
    host, _, port = asked.rpartition(":")
    assert found(NAMES.find(Endpoint(host, int(port)), entry)) == leads


@pytest.mark.parametrize(
    ("asked", "entry", "says"),
    [
        ("prod-eeu:443", None, "nearest: prod-eu"),
        ("prod-eu:22", None, "prod-eu is asked for by port 443 or 6443 or 8443"),
        ("db-2:5432", None, "nearest: db-1"),
        ("db-1:22", None, "db-1 is asked for by port 5432"),
        ("A.eu.internal:2209", None, "a.eu.internal is asked for by port 22"),
        ("10.0.3.4:22", None, "10.0.3.4 is asked for by port 2209"),
        ("node-7:22", "egress", "node-7 is asked for by port 10250"),
        ("node-7:22", "proxy", "no cluster and no route leads there"),
        ("node-7:10250", "proxy", "no cluster and no route leads there"),
        ("a.b.eu.internal:22", None, "no cluster and no route leads there"),
        ("10.1.0.1:2209", None, "no cluster and no route leads there"),
        ("10.3:2209", None, "no cluster and no route leads there"),
        ("cat\0:22", None, "nearest: cat"),
        ("cat:0", None, "cat is asked for by port 1-65535"),
        ("cat:65536", None, "cat is asked for by port 1-65535"),
        ("127.0.0.1:6443", None, "it is an API server of prod-us and lab: ask for one by its name"),
    ],
)
def test_an_unknown_name_gets_similar_names(asked: str, entry: str | None, says: str) -> None:
    host, _, port = asked.rpartition(":")
    with pytest.raises(UnknownTarget) as caught:
        NAMES.find(Endpoint(host, int(port)), entry)
    assert (str(caught.value), caught.value.reason) == (says, Reason.UNKNOWN_NAME)
    assert isinstance(caught.value, Ambiguous) is says.startswith("it is an API server")


def test_a_target_that_would_be_no_address_is_refused() -> None:
    names = Names(config(route("long", "**:22", target="{1}.{1}.svc:22")))
    with pytest.raises(UnknownTarget, match="the target of route long: 'a"):
        names.find(Endpoint(".".join(["a" * 60] * 4), 22), None)


def test_each_rule_that_is_passed_over_says_why() -> None:
    steps = list(NAMES.walk(Endpoint("alice.nb", 22), "proxy"))
    assert [(step.rule, step.why) for step in steps if isinstance(step, Passed)] == [
        ("clusters", "none is called 'alice.nb'"),
        ("api_servers", "no cluster has 'alice.nb' with port 22"),
        ("route eu-hosts", "it is for other names: *.eu.internal:22, 10.0.0.0/16:2209"),
        ("route kubelets", "it is for other entries: egress"),
    ]
    assert isinstance(steps[-1], ToTarget)
    assert (steps[-1].host, steps[-1].why) == ("alice.nb", "*.nb:22 matches")


@pytest.mark.parametrize(
    ("asked", "passed"),
    [
        (
            Endpoint("prod-eu", 22),
            ("clusters", "'prod-eu' is asked for by port 443 or 6443 or 8443, not by 22"),
        ),
        (Endpoint("a.eu.internal", 23), ("route eu-hosts", "it is for other ports: *.eu.internal:22")),
        (Endpoint("0x0a000001", 22), ("routes", "'0x0a000001' is no address, and no name ends in a number")),
    ],
)
def test_a_rule_that_nearly_matches_shows_the_difference(asked: Endpoint, passed: tuple[str, str]) -> None:
    steps: list[tuple[str, str]] = []
    with pytest.raises(UnknownTarget):
        steps.extend(  # what was told until then stays
            (step.rule, step.why) for step in NAMES.walk(asked, None) if isinstance(step, Passed)
        )
    assert passed in steps


HOSTS = st.sampled_from(
    ["prod-eu", "PROD-US", ARN, "a.eu.internal", "node-7", "alice.nb", "db-1", "cat", "10.0.0.10", "fd00::1"]
)
ANYTHING = st.text(max_size=300) | st.binary(max_size=300).map(
    lambda data: data.decode("utf-8", "surrogateescape")
)
ENTRIES = st.sampled_from([None, "proxy", "egress", "\0"])


@given(HOSTS | ANYTHING, st.integers(-1, 70000) | st.sampled_from([22, 443, 6443, 10250]), ENTRIES)
def test_any_text_leads_somewhere_or_is_refused(host: str, port: int, entry: str | None) -> None:
    try:
        decision = NAMES.find(Endpoint(host, port), entry)
    except UnknownTarget as refused:
        said = str(refused)
        assert said.isprintable()
        return
    assert [decision] == [
        step for step in NAMES.walk(Endpoint(host, port), entry) if not isinstance(step, Passed)
    ]
    if isinstance(decision, ToTarget):
        assert 1 <= decision.target.port <= 65535
        assert len(str(Host.parse(decision.target.host))) <= 253
        assert Endpoint.parse(str(decision.target)) == decision.target


@given(HOSTS, st.sampled_from([22, 443, 6443, 5432, 10250]), ENTRIES, st.integers(0))
def test_case_and_a_dot_at_the_end_do_not_matter(host: str, port: int, entry: str | None, upper: int) -> None:
    def led(text: str) -> str:
        try:
            return found(NAMES.find(Endpoint(text, port), entry)).lower().replace(".:", ":")
        except UnknownTarget as refused:
            return str(refused)

    spelt = "".join(char.upper() if upper >> place & 1 else char.lower() for place, char in enumerate(host))
    assert led(spelt) == led(host)
    if not host[-1].isdigit():
        assert led(f"{spelt}.") == led(host)


@given(
    st.lists(st.sampled_from(["*:22", "a:22", "a*:22", "**:22", "*b:22", "ab:*"]), min_size=1, unique=True)
)
def test_the_order_of_the_file_decides_and_nothing_else(matches: list[str]) -> None:
    names = Names(config(*(route(match, match) for match in matches)))
    fits = [match for match in matches if Match.parse(match).captures(Host.parse("ab"), 22) is not None]
    try:
        decision = names.find(Endpoint("ab", 22), None)
    except UnknownTarget:
        assert fits == []
    else:
        assert isinstance(decision, ToTarget)
        assert decision.route.name == fits[0]


def pods(name: str, *, namespace: str | None = None, port: int = 2209) -> RouteConfig:
    discover = DiscoverConfig(cluster="prod-eu", selector="app=nb", namespace=namespace, port=port)
    return RouteConfig(name=name, gateway="eu-edge", discover=discover)


POD_ROUTES = config(
    route("first", "nb-9.team-a:22"),
    pods("lab", namespace="lab"),
    pods("everywhere", port=2222),
    route("later", "*.corp:22"),
)
ADDRESSES = {
    ("lab", "nb-0.lab"): "10.1.0.1",
    ("everywhere", "nb-0.lab"): "10.1.0.9",
    ("everywhere", "nb-0.team-a"): "fd00::7",
    ("everywhere", "nb-9.team-a"): "10.1.0.3",
}


def find_pod(route: str, pod: str) -> str:
    try:
        return ADDRESSES[route, pod]
    except KeyError:
        raise UnknownTarget(f"{route} has no such pod") from None


@pytest.mark.parametrize(
    ("asked", "leads"),
    [
        ("nb-0.lab:22", "lab 10.1.0.1:2209"),
        ("NB-0.Lab.:2209", "lab 10.1.0.1:2209"),
        ("nb-0.lab:2222", "everywhere 10.1.0.9:2222"),
        ("nb-0.team-a:22", "everywhere [fd00::7]:2222"),
        ("nb-9.team-a:22", "first nb-9.team-a:22"),
        ("host.corp:22", "later host.corp:22"),
    ],
)
def test_pods_lead_to_their_addresses_in_the_order_of_the_routes(asked: str, leads: str) -> None:
    host, _, port = asked.rpartition(":")
    assert found(Names(POD_ROUTES, find_pod).find(Endpoint(host, int(port)), None)) == leads


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("nb-1.lab:22", "lab has no such pod"),
        ("nb-1.team-a:2222", "everywhere has no such pod"),
        ("nb-0.lab:8888", "no cluster and no route leads there"),
        ("nb-0:22", "no cluster and no route leads there"),
        ("a.nb-0.lab:22", "no cluster and no route leads there"),
        ("10.1.0.1:22", "no cluster and no route leads there"),
    ],
)
def test_a_missing_pod_differs_from_an_impossible_name(asked: str, says: str) -> None:
    host, _, port = asked.rpartition(":")
    with pytest.raises(UnknownTarget) as caught:
        Names(POD_ROUTES, find_pod).find(Endpoint(host, int(port)), None)
    assert str(caught.value) == says


def test_without_the_daemon_routes_to_pods_are_passed_over_as_such() -> None:
    steps = list(Names(POD_ROUTES).walk(Endpoint("nb-0.corp", 22), None))
    assert [step.rule for step in steps if isinstance(step, Asks)] == ["route everywhere"]
    assert isinstance(steps[-1], ToTarget)
    why = {step.rule: step.why for step in steps if isinstance(step, Passed)}
    assert why["route lab"] == "it is for pods of namespace lab"
    assert why["route everywhere"] == "the daemon knows the pods of prod-eu"


AT_SITES = Names(
    replace(
        config(route("cats", "cat.factory-7:22")),
        sites={"factory-7": SiteConfig(), "hall.factory-7": SiteConfig(), "edge": SiteConfig()},
    )
)


@pytest.mark.parametrize(
    ("asked", "leads"),
    [
        ("factory-7:6443", "factory-7 127.0.0.1:6443"),
        ("Node-A.Factory-7.:22", "factory-7 node-a:22"),
        ("10.1.2.3.factory-7:22", "factory-7 10.1.2.3:22"),
        ("a.b.edge:1", "edge a.b:1"),
        ("robot.hall.factory-7:22", "hall.factory-7 robot:22"),
        ("cat.factory-7:22", "cats cat.factory-7:22"),
    ],
)
def test_a_name_at_a_site_leads_there_if_no_route_does(asked: str, leads: str) -> None:
    host, _, port = asked.rpartition(":")
    assert found(AT_SITES.find(Endpoint(host, int(port)), None)) == leads


def test_a_name_at_an_unknown_site_gets_similar_names() -> None:
    with pytest.raises(UnknownTarget, match="nearest: factory-7"):
        AT_SITES.find(Endpoint("factory-8", 22), None)
    steps = list(AT_SITES.walk(Endpoint("node-a.edge", 22), None))
    assert isinstance(steps[-1], ToSite)
    assert steps[-1].why == "edge is a site"
