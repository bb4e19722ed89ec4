"""`kubemux route`: which rule decides, and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main

CONFIG = """
version: 1
gateways:
  eu-edge: {host: bastion, known_hosts: [/nowhere], identity_files: [/nowhere]}
clusters:
  prod-eu: {gateway: eu-edge, listen: "127.0.0.1:16443", api_servers: ["10.0.0.10:6443", "10.0.0.11:6443"],
    probe: {token_file: /nowhere}}
  "arn:prod": {gateway: direct, listen: "127.0.0.1:16444", api_servers: ["10.1.0.10:6443"], allow: ["uid:ci"]}
  "staging@k8s": {gateway: direct, api_servers: ["10.2.0.10:6443"], dns_name: staging.example.com}
entries:
  egress: {listen: "127.0.0.1:3128"}
  roots: {listen: "127.0.0.1:3129", allow: ["uid:root", "cert:ci"]}
routes:
  - {name: kubelets, match: ["node-*:10250"], gateway: eu-edge, target: "127.0.0.1:{port}", entries: [egress]}
  - {name: pods, gateway: eu-edge, discover: {cluster: prod-eu, selector: app=nb, namespace: nb, port: 2209}}
  - {name: nodes, match: ["node-*:22", "[fd00::/8]:22"], gateway: direct, allow: ["gid:sre", any]}
"""


SITES = """
ssh_server: {listen: "127.0.0.1:2222", host_keys: [/nowhere]}
sites:
  factory-7: {authorized_keys: [/nowhere], permit: ["node-*:22", "10.0.0.1:6443"]}
"""


AT_A_SITE = '  there: {gateway: factory-7, api_servers: ["10.0.0.1:6443"]}\n'


def routed(folder: Path, *args: str, more: str = "", clusters: str = "") -> Result:
    path = folder / "config.yaml"
    path.write_text(CONFIG.replace("clusters:\n", f"clusters:\n{clusters}") + more)
    return CliRunner().invoke(main, ["route", "--config", str(path), *args])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            ["PROD-EU:443"],
            "  decides      cluster prod-eu: it is called 'PROD-EU'\n"
            "leads to 10.0.0.10:6443 or 10.0.0.11:6443 through gateway eu-edge\n"
            "who may: whom the entry lets in\n",
        ),
        (
            ["10.1.0.10:6443"],
            "  passed over  clusters: none is called '10.1.0.10'\n"
            "  decides      cluster arn:prod: 10.1.0.10:6443 is one of its api_servers\n"
            "leads to 10.1.0.10:6443, without a gateway\n"
            "who may: uid:ci\n",
        ),
        (
            ["node-7:10250"],
            "  passed over  clusters: none is called 'node-7'\n"
            "  passed over  api_servers: no cluster has 'node-7' with port 10250\n"
            "  decides      route kubelets: node-*:10250 matches\n"
            "leads to 127.0.0.1:10250 through gateway eu-edge\n"
            "only at these entries: egress\n"
            "who may: whom the entry lets in\n",
        ),
        (
            ["[fd00::7]:22", "--entry", "egress"],
            "  passed over  clusters: none is called 'fd00::7'\n"
            "  passed over  api_servers: no cluster has 'fd00::7' with port 22\n"
            "  passed over  route kubelets: it is for other names: node-*:10250\n"
            "  passed over  route pods: it is for pods, which are asked for as NAME.NAMESPACE\n"
            "  decides      route nodes: [fd00::/8]:22 matches\n"
            "leads to [fd00::7]:22, without a gateway\n"
            "who may: gid:sre, any\n",
        ),
    ],
)
def test_a_route_that_matches_is_explained(tmp_path: Path, args: list[str], says: str) -> None:
    done = routed(tmp_path, *args)
    assert (done.exit_code, done.output) == (0, says)


def test_the_entrys_own_allow_is_shown_too(tmp_path: Path) -> None:
    for entry, says in (("egress", []), ("roots", ["who may use entry roots: uid:root, cert:ci"])):
        done = routed(tmp_path, "node-7:22", "--entry", entry)
        assert done.exit_code == 0
        assert done.output.splitlines()[-len(says) - 1 :] == ["who may: gid:sre, any", *says]


def test_the_ssh_server_may_be_named_as_an_entry(tmp_path: Path) -> None:
    assert routed(tmp_path, "node-7:22", "--entry", "ssh").exit_code == 2
    server = f'ssh_server: {{listen: "127.0.0.1:2222", host_keys: [{tmp_path}/host]}}\n'
    done = routed(tmp_path, "node-7:10250", "--entry", "ssh", more=server)
    assert done.exit_code == 1
    assert "  passed over  route kubelets: it is for other entries: egress" in done.output.splitlines()
    done = routed(tmp_path, "node-7:22", "--entry", "ssh", more=server)
    assert done.exit_code == 0
    assert done.output.splitlines()[-3:] == [
        "leads to node-7:22, without a gateway",
        "who may: gid:sre, any",
        "who may use entry ssh: all of `users`; sites, for what an `allow` gives them",
    ]


def test_a_refusal_is_explained_and_exits_1(tmp_path: Path) -> None:
    done = routed(tmp_path, "prod-ue:443")
    assert done.exit_code == 1
    assert done.output.splitlines() == [
        "  passed over  clusters: none is called 'prod-ue'",
        "  passed over  api_servers: no cluster has 'prod-ue' with port 443",
        "  passed over  route kubelets: it is for other names: node-*:10250",
        "  passed over  route pods: it is for pods, which are asked for as NAME.NAMESPACE",
        "  passed over  route nodes: it is for other names: node-*:22, [fd00::/8]:22",
        "refused: unknown_name (nearest: prod-eu)",
    ]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            "ARN:prod:6443",
            "refused: bad_request ([ARN:prod] is not an IPv6 address)\n"
            "the name of cluster arn:prod is no host name: give it a dns_name\n",
        ),
        (
            "staging@k8s:443",
            "refused: bad_request (expected HOST:PORT or [IPV6]:PORT, without '@')\n"
            "the name of cluster staging@k8s is no host name: ask for staging.example.com\n",
        ),
        ("a" * 300 + ":22", "refused: bad_request (a name of 300 bytes: 255 are the most)\n"),
        ("node\n-7:22", "refused: bad_request (a name with other characters than ASCII letters, digits, "),
        ("%6eode-7:22", "refused: bad_request (expected HOST:PORT or [IPV6]:PORT, without '%')\n"),
    ],
    ids=["an ARN", "an @", "long", "a line break", "escaped"],
)
def test_names_that_no_entry_serves_have_no_route(tmp_path: Path, asked: str, says: str) -> None:
    done = routed(tmp_path, asked)
    assert (done.exit_code, done.output.startswith(says)) == (1, True), done.output


def test_a_route_to_pods_is_explained_as_depending_on_the_daemon(tmp_path: Path) -> None:
    done = routed(tmp_path, "web-0.nb:22")
    assert done.exit_code == 0
    assert done.output.splitlines()[-4:] == [
        "  may decide   route pods: the daemon knows the pods of prod-eu",
        "leads to port 2209 of pod web-0.nb through gateway eu-edge, if that pod runs",
        "  passed over  route nodes: it is for other names: node-*:22, [fd00::/8]:22",
        "otherwise refused: unknown_name (no cluster and no route leads there)",
    ]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("prod-eu", "expected HOST:PORT, as prod-eu:443 or [fd00::7]:22, got 'prod-eu'."),
        (":443", "expected HOST:PORT"),
        ("prod-eu:https", "expected HOST:PORT"),
        ("prod-eu:0", "port 0 is out of range 1-65535."),
        ("prod-eu:" + "9" * 5000, "port 999999999 is out of range 1-65535."),
    ],
)
def test_a_target_that_is_no_host_and_port_is_a_usage_error(tmp_path: Path, asked: str, says: str) -> None:
    done = routed(tmp_path, asked)
    assert done.exit_code == 2
    assert says in done.output


def test_the_requested_name_cannot_control_the_terminal(tmp_path: Path) -> None:
    done = routed(tmp_path, "\x1b[2J\u202enode:22")
    assert done.exit_code == 1
    assert not {"\x1b", "\u202e"} & set(done.output)


def test_an_unknown_entry_gets_the_list_of_entries(tmp_path: Path) -> None:
    done = routed(tmp_path, "node-7:22", "--entry", "egres")
    assert done.exit_code == 2
    assert "no entry is called 'egres'" in done.output
    assert "did you mean 'egress'?" in done.output


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            "node-a.factory-7:22",
            [
                "  decides      factory-7 is a site",
                "leads to node-a:22 through site factory-7",
                "who may: whom the entry lets in",
            ],
        ),
        (
            "factory-7:6443",
            [
                "leads to 127.0.0.1:6443 through site factory-7",
                "but it is refused: sites.factory-7.permit does not have 127.0.0.1:6443",
                "who may: whom the entry lets in",
            ],
        ),
        (
            "10.1.0.7.factory-7:22",
            [
                "leads to 10.1.0.7:22 through site factory-7",
                "but it is refused: sites.factory-7.permit does not have 10.1.0.7:22 "
                "(`*` stands for names, not for addresses)",
                "who may: whom the entry lets in",
            ],
        ),
        (
            "there:443",
            ["leads to 10.0.0.1:6443 through site factory-7", "who may: whom the entry lets in"],
        ),
    ],
)
def test_a_name_at_a_site_is_explained(tmp_path: Path, asked: str, says: list[str]) -> None:
    done = routed(tmp_path, asked, more=SITES, clusters=AT_A_SITE)
    assert (done.exit_code, done.output.splitlines()[-len(says) :]) == (0, says)
