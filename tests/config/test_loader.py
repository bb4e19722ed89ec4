"""Loading a file: its meaning, and that the result is always a Config or a ConfigError."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.config import loader, model, naming, yaml
from proxy.config.findings import Loc
from proxy.config.keys import Section, keys
from proxy.config.model import Config
from proxy.config.quantities import format_duration
from proxy.config.reading import read
from proxy.errors import ConfigError
from proxy.runtime.endpoint import Endpoint
from tests.support.plain import plain

FOLDER = Path(__file__).parents[2] / "config"
Tree = dict[str, object]


@pytest.fixture
def etc(material: Path, tmp_path: Path) -> Path:
    """The files that example.yaml expects in /etc/kubemux."""
    secrets = (
        "keys/hq",
        "keys/nodes",
        "keys/eu-edge",
        "keys/eu-edge.passphrase",
        "tokens/prod-eu",
        "certs/prod-us.key",
    )
    certificates = ("ca/prod-eu.crt", "ca/prod-us.crt", "certs/prod-us.crt")
    sources = dict.fromkeys(secrets, "key") | dict.fromkeys(certificates, "ca.crt")
    sources |= dict.fromkeys(("known_hosts", "known_hosts.eu"), "known_hosts")
    sources |= dict.fromkeys(("keys/eu-edge-cert.pub", "ssh_config"), "key")
    sources |= {"entries/remote.crt": "tls.crt", "entries/remote.key": "tls.key", "entries/users": "users"}
    sources["entries/clients.crt"] = "ca.crt"
    sources |= {"ssh_host_ed25519_key": "key", "sites/factory-7.pub": "site.pub"}
    sources |= {"users/ops.pub": "user.pub", "user_ca.pub": "user_ca.pub"}
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((material / source).read_bytes())
        (tmp_path / name).chmod(0o600)
    return tmp_path


def example(etc: Path) -> Config:
    return loader.parse(
        (FOLDER / "example.yaml").read_bytes().replace(b"/etc/kubemux", str(etc).encode()), "example.yaml"
    )


def outcome(data: bytes) -> Config | ConfigError:
    try:
        return loader.parse(data, "f.yaml")
    except ConfigError as error:
        return error


def test_the_example_loads(etc: Path) -> None:
    config = example(etc)
    assert list(config.gateways) == ["hq", "eu-edge", "us-edge", "nodes"]
    assert config.gateways["hq"].user == "tunnel"
    assert config.gateways["eu-edge"].user == "kubemux"
    assert config.clusters["prod-eu"].api_servers == (
        Endpoint("10.0.0.10", 6443),
        Endpoint("10.0.0.11", 6443),
    )
    assert config.limits.memory == 256 << 20
    assert config.gateways["eu-edge"].keepalive.interval == 15.0


def test_the_example_names_every_key() -> None:
    """Users would not find a key that is missing in the example."""
    text = (FOLDER / "example.yaml").read_text()

    sections: list[type[Section]] = [
        model.Config,
        model.AdminConfig,
        model.LogConfig,
        model.LimitsConfig,
        model.GatewayConfig,
        model.KeepaliveConfig,
    ]
    sections += [
        model.ClusterConfig,
        model.TlsConfig,
        model.ProbeConfig,
        model.RouteConfig,
        model.EntryConfig,
        model.EntryTlsConfig,
        model.SshServerConfig,
        model.SiteConfig,
        model.UserConfig,
    ]
    assert {key for section in sections for key in keys(section) if f"{key}:" not in text} == set()


def test_the_example_survives_a_round_trip(etc: Path) -> None:
    config = example(etc)
    assert loader.parse(yaml.dump(plain(config)), "dumped.yaml") == config


@pytest.mark.usefixtures("material")
def test_defaults_are_merged_one_level_deep() -> None:
    config = loader.parse(
        b"""
version: 1
defaults:
  gateway:
    {agent: true, known_hosts: ["${KUBEMUX_TEST}/known_hosts"], keepalive: {interval: 7s, max_missed: 5}}
  cluster: {gateway: a, probe: {interval: 3s, path: /livez}, tls: {server_name: kubernetes}}
gateways:
  a: {host: a, keepalive: {interval: 1s}}
  b: {host: b, agent: false, identity_files: ["${KUBEMUX_TEST}/key"]}
clusters:
  c: {listen: "127.0.0.1:1", api_servers: ["x:1"], probe: {timeout: 1s}}
  d: {listen: "127.0.0.1:2", api_servers: ["x:1"], gateway: direct, probe: {path: /readyz}}
""",
        "f.yaml",
    )
    assert [(g.keepalive.interval, g.keepalive.max_missed, g.agent) for g in config.gateways.values()] == [
        (1.0, 5, True),
        (7.0, 5, False),
    ]
    assert [(c.gateway, c.probe.interval, c.probe.path) for c in config.clusters.values()] == [
        ("a", 3.0, "/livez"),
        ("direct", 3.0, "/readyz"),
    ]
    assert {c.tls.server_name for c in config.clusters.values()} == {"kubernetes"}


def test_a_file_with_empty_sections_is_a_configuration() -> None:
    assert loader.parse(b"version: 1\ngateways:\nclusters:\n", "f.yaml") == Config(version=1)


def test_a_finding_about_a_stand_in_is_not_reported() -> None:
    """A value that replaces a mistake causes no further finding: two broken addresses do not collide, a
    broken gateway is not a missing one.
    """
    data = b"""
version: 1
gateways:
  a: 5
  b: {host: b, agent: yes, known_hosts: none}
clusters:
  c: {gateway: a, listen: x, api_servers: ["x:1"]}
  d: {gateway: b, listen: y, api_servers: ["x:1"]}
"""
    error = outcome(data)
    assert isinstance(error, ConfigError)
    keys = [problem.key for problem in error.problems]
    assert keys == [
        "gateways.a",
        "gateways.b.agent",
        "gateways.b.known_hosts",
        "clusters.c.listen",
        "clusters.d.listen",
    ]


def test_without_gateways_no_reference_is_called_dangling() -> None:
    error = outcome(
        b"version: 1\ngateways: 5\nclusters:\n  c: {gateway: a, listen: '127.0.0.1:1', api_servers: "
        b"['x:1']}\n"
    )
    assert isinstance(error, ConfigError)
    assert [problem.key for problem in error.problems] == ["gateways"]


def test_under_a_misspelt_gateways_no_reference_is_called_dangling() -> None:
    clusters = b"clusters:\n  c: {gateway: a, listen: '127.0.0.1:1', api_servers: ['x:1']}\n"
    error = outcome(b"version: 1\ngateway:\n  a: {host: a}\n" + clusters)
    assert isinstance(error, ConfigError)
    assert [(problem.key, problem.message) for problem in error.problems] == [("gateway", "unknown key")]
    assert "did you mean 'gateways'?" in error.problems[0].hint

    error = outcome(b"version: 1\n" + clusters)  # nothing is misspelt: the reference itself is the mistake
    assert isinstance(error, ConfigError)
    assert [problem.key for problem in error.problems] == ["clusters.c.gateway"]


# ------------------------------------------------------------------------------------------------- properties

names = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=20).filter(
    lambda name: name != "direct"
)
words = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
durations = st.integers(10, 86_400_000).map(lambda ms: f"{ms}ms")
# Not the address of a listener.
distant = st.ip_addresses().filter(lambda ip: not (ip.is_loopback or ip.is_unspecified))
addresses = st.tuples(words | distant, st.integers(1, 65535)).map(
    lambda pair: str(Endpoint(str(pair[0]), pair[1]))
)


@st.composite
def configurations(draw: st.DrawFn) -> Tree:
    """A valid configuration, as the mapping in its file."""
    ports = iter(
        draw(
            st.lists(
                st.integers(1, 65535).filter(lambda port: port != 9464), min_size=6, max_size=6, unique=True
            )
        )
    )
    gateways: Tree = {}
    for name in draw(st.lists(names, max_size=3, unique=True)):
        gateways[name] = {
            "host": draw(words),
            "identity_files": ["${KUBEMUX_TEST}/key"],
            "known_hosts": ["${KUBEMUX_TEST}/known_hosts"],
            "jump": draw(st.lists(st.sampled_from(list(gateways)), unique=True)) if gateways else [],
            **draw(st.fixed_dictionaries({}, optional={
                "port": st.integers(1, 65535),
                "user": words,
                "agent": st.booleans(),
                "connections": st.integers(1, 16),
                "connect_timeout": durations,
                "keepalive": st.fixed_dictionaries(
                    {}, optional={"interval": durations, "max_missed": st.integers(1, 9)}
                ),
            })),
        }  # fmt: skip
    hosts = st.sampled_from(["127.0.0.1", "[::1]", "localhost", "127.9.9.9"])
    clusters: Tree = {}
    for name in draw(st.lists(names, max_size=5, unique_by=naming.plain)):
        clusters[name] = {
            "gateway": draw(st.sampled_from(["direct", *gateways])),
            "listen": f"{draw(hosts)}:{next(ports)}",
            "api_servers": draw(st.lists(addresses, min_size=1, max_size=3)),
            **draw(st.fixed_dictionaries({}, optional={
                "tls": st.fixed_dictionaries(
                    {}, optional={"server_name": words, "ca_file": st.just("${KUBEMUX_TEST}/ca.crt")}
                ),
                "probe": st.fixed_dictionaries(
                    {}, optional={"interval": durations, "token_file": st.just("${KUBEMUX_TEST}/key")}
                ),
            })),
        }  # fmt: skip
    return {
        "version": 1,
        "gateways": gateways,
        "clusters": clusters,
        "entries": {"proxy": {"listen": f"127.9.9.8:{next(ports)}"}},
        "routes": [
            {
                "name": f"route {number}",
                "match": [f"*.{draw(words)}.x{number}:22", "10.0.0.0/16:*"][
                    : draw(st.integers(1, 2 - number))
                ],
                "gateway": draw(st.sampled_from(["direct", *gateways])),
                **draw(
                    st.fixed_dictionaries(
                        {},
                        optional={
                            "target": st.just("{host}:22"),
                            "allow": st.just(["uid:0", "any"]),
                            "entries": st.just(["proxy"]),
                        },
                    )
                ),
            }
            for number in range(draw(st.integers(0, 2)))
        ],
        "limits": {"hold_timeout": draw(durations)},
    }


def walk(node: object, loc: Loc = ()) -> list[Loc]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [loc, *(deeper for key, value in children for deeper in walk(value, (*loc, key)))]


shared_files = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
KEYS: list[object] = ["", "hots", "defaults", "probe", 5, True, "\x01", "x" * 300]
ODD: list[object] = [
    None,
    True,
    0,
    -1,
    1.5,
    "",
    "x",
    "\x7f",
    "direct",
    "9" * 5000,
    [],
    [None],
    [[]],
    {},
    {"x": {}},
    {5: 6},
    float("inf"),
]


@pytest.mark.usefixtures("material")
@given(tree=configurations())
@settings(shared_files, max_examples=60)
def test_any_valid_configuration_loads_and_survives_a_round_trip(tree: Tree) -> None:
    config = loader.parse(yaml.dump(tree), "f.yaml")
    assert dict.fromkeys(config.gateways) == dict.fromkeys(tree["gateways"])  # type: ignore[call-overload]
    assert loader.parse(yaml.dump(plain(config)), "f.yaml") == config


@pytest.mark.usefixtures("material")
@given(tree=configurations(), data=st.data())
@settings(shared_files, max_examples=150)
def test_any_single_change_gives_a_configuration_or_a_report(tree: Tree, data: st.DataObject) -> None:
    loc = data.draw(st.sampled_from(walk(tree)[1:]))
    parent: object = tree
    for key in loc[:-1]:
        parent = parent[key]  # type: ignore[index]  # walk() came this way
    assert isinstance(parent, dict | list)
    match data.draw(st.sampled_from(["drop", "replace", "insert"])):
        case "drop":
            del parent[loc[-1]]  # type: ignore[arg-type]  # as above
        case "replace":
            parent[loc[-1]] = data.draw(st.sampled_from(ODD))  # type: ignore[index]  # as above
        case "insert" if isinstance(parent, dict):
            parent[data.draw(st.sampled_from(KEYS))] = data.draw(st.sampled_from(ODD))
    text = yaml.dump(tree)
    result = outcome(text)
    if isinstance(result, ConfigError):
        lines = text.count(b"\n")
        assert result.problems
        assert all(
            1 <= problem.line <= lines and problem.message.isprintable() and problem.hint
            for problem in result.problems
        ), result.render()


@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
@settings(deadline=None, max_examples=100)
def test_any_bytes_give_a_configuration_or_a_report(data: bytes) -> None:
    assert isinstance(outcome(b"version: 1\n" + data), Config | ConfigError)
    assert isinstance(outcome(data), Config | ConfigError)


@given(st.floats(min_value=0.001, max_value=86400))
def test_a_duration_is_read_as_it_was_written(seconds: float) -> None:
    rounded = float(f"{seconds:.6f}")
    assert (
        read(Config, {"version": 1, "limits": {"hold_timeout": format_duration(rounded)}}).limits.hold_timeout
        == rounded
    )
