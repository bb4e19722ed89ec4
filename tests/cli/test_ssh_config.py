"""`kubemux ssh-config`: the real ssh matches the same names with its output as kubemux does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main
from proxy.cli.ssh_config import blocks, host_patterns
from proxy.config.loader import parse
from proxy.config.matches import Host, Match
from proxy.config.scrutiny import Scrutiny
from proxy.runtime.endpoint import UnixPath

pytestmark = pytest.mark.sshd

CONFIG = """
version: 1
gateways:
  edge: {host: bastion, known_hosts: [/nowhere], identity_files: [/nowhere]}
routes:
  - {name: notebooks, match: ["*.nb:22", "*.nb:2209"], gateway: edge, target: "{1}.notebooks.svc:2209"}
  - {name: kubelets, match: ["node-*:10250"], gateway: edge}
  - name: nodes
    match: ["node-*:22", "10.0.0.0/16:2209", "10.64.0.0/12:22"]
    gateway: edge
    entries: [proxy]
  - {name: hidden, match: ["*.hidden:22"], gateway: edge, entries: [egress]}
  - {name: all, match: ["*.pods:*", "web.pods:8022"], gateway: edge, target: "{host}:22"}
entries:
  egress: {listen: "127.0.0.1:3129"}
  proxy: {listen: "127.0.0.1:3128"}
"""
PRINTED = """\
# route notebooks: *.nb:22
Host ?*.nb !*.*.*
    Port 22
    ProxyCommand kubemux connect --entry 127.0.0.1:3128 --fdpass %h %p
    ProxyUseFdpass yes

# route notebooks: *.nb:2209
Host ?*.nb !*.*.*
    Port 2209
    ProxyCommand kubemux connect --entry 127.0.0.1:3128 --fdpass %h %p
    ProxyUseFdpass yes

# route nodes: node-*:22
Host node-?* !*.*
    Port 22
    ProxyCommand kubemux connect --entry 127.0.0.1:3128 --fdpass %h %p
    ProxyUseFdpass yes

# route nodes: 10.0.0.0/16:2209
Host 10.0.*.* !*.*.*.*.*
    Port 2209
    ProxyCommand kubemux connect --entry 127.0.0.1:3128 --fdpass %h %p
    ProxyUseFdpass yes

# route nodes: 10.64.0.0/12:22: not written: ssh_config has no pattern for this network

# route all: *.pods:*: not written: it is for several ports, and a Host block has one

# route all: web.pods:8022
Host web.pods
    Port 8022
    ProxyCommand kubemux connect --entry 127.0.0.1:3128 --fdpass %h %p
    ProxyUseFdpass yes

"""


def ssh_config(folder: Path, *words: str, config: str = CONFIG) -> Result:
    path = folder / "config.yaml"
    path.write_text(config)
    return CliRunner().invoke(main, ["ssh-config", "--config", str(path), *words])


def as_ssh_reads_it(file: Path, host: str) -> dict[str, str]:
    """The options that ssh uses for `host`."""
    done = subprocess.run(["ssh", "-G", "-F", file, "--", host], capture_output=True, text=True, check=True)
    return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())


def test_the_output_has_a_block_or_a_comment_for_each_pattern(tmp_path: Path) -> None:
    done = ssh_config(tmp_path, "--entry", "proxy")
    assert (done.exit_code, done.stdout, done.stderr) == (0, PRINTED, "")


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("nb-0.nb", 22),
        ("NB-0.NB", None),
        ("node-7", 22),
        ("10.0.255.1", 2209),
        ("web.pods", 8022),
        ("a.b.nb", None),
        (".nb", None),
        ("nb", None),
        ("node-", None),
        ("node-7.eu", None),
        ("10.1.0.1", None),
        ("10.0.0.1.nb", None),
        ("a.hidden", None),
        ("elsewhere", None),
    ],
)
def test_ssh_takes_the_blocks_for_these_names_and_no_others(
    tmp_path: Path, host: str, port: int | None
) -> None:
    (tmp_path / "ssh_config").write_text(ssh_config(tmp_path, "--entry", "proxy").stdout)
    read = as_ssh_reads_it(tmp_path / "ssh_config", host)
    if port is None:
        assert "proxycommand" not in read
    else:
        assert read["proxycommand"] == "kubemux connect --entry 127.0.0.1:3128 --fdpass %h %p"
        assert (read["proxyusefdpass"], read["port"]) == ("yes", str(port))


NAMES = ["a", "ab", "a.b", "a.bc", "ab.c.d", "a.b.c", "x.a.b.c", "db", "db-1", "db-1.a", "db.a", "xb-1.c"]
NAMES += ["10.0.0.1", "10.0.1.1", "10.1.0.1", "11.0.0.1", "fd00::1", "fd00::2"]


@pytest.mark.parametrize(
    "match",
    [
        "*:22",
        "a*:22",
        "*b:22",
        "*.*:22",
        "db-*.a:22",
        "*b-*.*:22",
        "**.c:22",
        "**:22",
        "a.**:22",
        "a.b.c:22",
        "10.0.0.0/16:22",
        "10.0.0.0/8:22",
        "10.0.0.1:22",
        "[fd00::1]:22",
    ],
)
def test_patterns_match_the_same_names_in_ssh(tmp_path: Path, match: str) -> None:
    pattern = Match.parse(match)
    file = tmp_path / "ssh_config"
    file.write_text(f"Host {host_patterns(pattern)}\n    User matched\n")
    # For ssh, an address is a name like any other.
    hosts = [host for host in map(Host.parse, NAMES) if (host.address is None) == (pattern.network is None)]
    ours = {str(host) for host in hosts if pattern.captures(host, 22) is not None}
    assert {str(host) for host in hosts if as_ssh_reads_it(file, str(host))["user"] == "matched"} == ours


def test_the_entry_is_quoted_for_the_shell(tmp_path: Path) -> None:
    config = parse(CONFIG.encode(), "config.yaml", Scrutiny.NONE)
    (tmp_path / "ssh_config").write_text(
        "".join(blocks(config, "proxy", UnixPath("/a b/100%/x;y.sock"), {22}))
    )
    read = as_ssh_reads_it(tmp_path / "ssh_config", "node-7")
    assert read["proxycommand"] == "kubemux connect --entry 'unix:/a b/100%%/x;y.sock' --fdpass %h %p"


def test_the_patterns_of_a_further_port_are_added(tmp_path: Path) -> None:
    printed = ssh_config(tmp_path, "--entry", "proxy", "--port", "10250").stdout
    assert "# route kubelets: node-*:10250\nHost node-?* !*.*\n    Port 10250\n" in printed


def test_without_a_name_the_first_entry_is_used(tmp_path: Path) -> None:
    printed = ssh_config(tmp_path).stdout
    assert "--entry 127.0.0.1:3129 " in printed
    assert "Host ?*.hidden " in printed
    assert "nodes" not in printed


def test_pods_of_a_namespace_have_a_block(tmp_path: Path) -> None:
    pods = """
version: 1
gateways:
  edge: {host: bastion, known_hosts: [/nowhere], identity_files: [/nowhere]}
clusters:
  prod: {gateway: edge, api_servers: ["10.0.0.10:6443"], probe: {token_file: /nowhere}}
entries:
  proxy: {listen: "127.0.0.1:3128"}
routes:
  - {name: mine, gateway: edge, discover: {cluster: prod, selector: app=nb, namespace: team-a, port: 2209}}
  - {name: all, gateway: edge, discover: {cluster: prod, selector: app=nb, port: 2209}}
  - {name: web, gateway: edge, discover: {cluster: prod, selector: app=web, namespace: web, port: 80}}
"""
    done = ssh_config(tmp_path, config=pods)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "# route mine: pods of prod",
        "Host ?*.team-a !*.*.*",
        "    Port 2209",
        "    ProxyCommand kubemux connect --entry 127.0.0.1:3128 --fdpass %h %p",
        "    ProxyUseFdpass yes",
        "",
        "# route all: pods of prod: not written: without a namespace, it would match every name with one dot",
        "",
    ]


def test_a_message_says_that_there_is_nothing_to_print(tmp_path: Path) -> None:
    done = ssh_config(tmp_path, config='version: 1\nentries: {proxy: {listen: "127.0.0.1:3128"}}\n')
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith("kubemux: no route and no site leads to SSH servers: ")


def test_an_unknown_entry_gets_a_suggestion(tmp_path: Path) -> None:
    done = ssh_config(tmp_path, "--entry", "proxi")
    assert done.exit_code == 2
    assert (
        "no entry is called 'proxi'\n  hint: did you mean 'proxy'? there are: 'egress', 'proxy'"
        in done.stderr
    )


def test_a_site_leads_to_the_servers_that_it_permits(tmp_path: Path) -> None:
    config = (
        'version: 1\nentries: {proxy: {listen: "127.0.0.1:3128"}}\n'
        'ssh_server: {listen: "127.0.0.1:2222", host_keys: [/nowhere]}\n'
        "sites:\n"
        '  factory-7: {authorized_keys: [/nowhere], permit: ["127.0.0.1:6443", "*:2000-2999", "*:22"]}\n'
        '  depot: {authorized_keys: [/nowhere], permit: ["127.0.0.1:6443"]}\n'
    )
    done = ssh_config(tmp_path, config=config)
    assert done.exit_code == 0, done.output
    (tmp_path / "ssh_config").write_text(done.stdout)
    for host, is_reached in {
        "node-a.factory-7": True,
        "10.1.0.7.factory-7": True,
        "factory-7": True,
        "node-a.factory-77": False,
        "node-a.depot": False,
    }.items():
        read = as_ssh_reads_it(tmp_path / "ssh_config", host)
        assert ("proxycommand" in read, read["port"]) == (is_reached, "22"), host
