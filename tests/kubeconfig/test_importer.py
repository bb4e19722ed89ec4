"""Import: which contexts are imported, what they become, and which ports they get."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import loader, yaml
from proxy.config.scrutiny import Scrutiny
from proxy.errors import ConfigError
from proxy.kubeconfig.entries import Kubeconfig
from proxy.kubeconfig.importer import Imported, in_cluster, means_this_machine, select, server_url
from proxy.kubeconfig.merge import Merged, ca_name, merge
from proxy.runtime.endpoint import Endpoint
from tests.kubeconfig.samples import ODD_NAMES, document, listening, names, read
from tests.support.tls import Certificates

POD = Imported(
    "in-cluster", "direct", Endpoint("10.96.0.1", 443), "10.96.0.1", Path("/sa/ca.crt"), Path("/sa/token")
)
SERVER = {"server": "https://10.0.0.1:6443"}


def kubeconfig(*contexts: str, **cluster: object) -> Kubeconfig:
    return Kubeconfig(
        clusters={"c": {**SERVER, **cluster}}, contexts={name: {"cluster": "c"} for name in contexts}
    )


def imported(found: Kubeconfig, *chosen: str, pod: Imported | None = None) -> list[Imported]:
    return select(found, chosen, gateway="eu", origin="kubeconfig", in_cluster=pod)


def refused(found: Kubeconfig, *chosen: str, pod: Imported | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        imported(found, *chosen, pod=pod)
    return caught.value.render()


@given(st.lists(names.filter(str.isprintable), min_size=1, unique=True), st.data())
def test_exactly_the_named_contexts_are_imported(there: list[str], data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.sampled_from(there), min_size=1))
    assert [cluster.name for cluster in imported(kubeconfig(*there), *wanted)] == list(dict.fromkeys(wanted))


@pytest.mark.parametrize("near", ["Prod", "prod ", "pro", "prod2", "*", "prod*", ""])
def test_a_name_that_nearly_matches_is_an_error_that_lists_the_contexts(near: str) -> None:
    report = refused(kubeconfig("prod", "dev"), "dev", near)
    assert f"kubeconfig: contexts: there is no context {near!r}" in report
    assert "there are: 'dev', 'prod'" in report


def test_all_missing_contexts_are_reported_at_once() -> None:
    assert refused(kubeconfig("prod"), "x", "y").count("there is no context") == 2


def test_an_import_without_a_context_name_is_refused() -> None:
    report = refused(kubeconfig("prod"), pod=POD)
    assert "no context is named" in report
    assert "there are: 'in-cluster', 'prod'" in report


def test_a_context_called_in_cluster_comes_before_the_service_account() -> None:
    assert imported(kubeconfig("prod"), "prod", pod=POD)[0].api_server.host == "10.0.0.1"
    assert imported(kubeconfig("prod"), "in-cluster", pod=POD) == [POD]
    assert imported(kubeconfig("in-cluster"), "in-cluster", pod=POD)[0].gateway == "eu"
    outside = refused(kubeconfig("prod"), "in-cluster")
    assert (
        "there is no context 'in-cluster', and this is no pod: KUBERNETES_SERVICE_HOST and _PORT are not set"
        in outside
    )
    assert "the cluster whose pod kubemux runs in; there are: 'prod'" in outside


@pytest.mark.parametrize(("mode", "named"), [(0o600, True), (0o644, False), (0o640, False)])
def test_the_service_account_of_a_pod_is_imported(tmp_path: Path, mode: int, named: bool) -> None:
    (tmp_path / "token").touch()
    (tmp_path / "token").chmod(mode)
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    token = tmp_path / "token" if named else None
    expected = Imported(
        "in-cluster", "direct", Endpoint("fd00::1", 6443), "fd00::1", tmp_path / "ca.crt", token
    )
    assert in_cluster(environ, tmp_path) == expected
    assert in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1"}, tmp_path) is None


@pytest.mark.parametrize(
    ("server", "endpoint", "path"),
    [
        ("https://10.0.0.1:6443", Endpoint("10.0.0.1", 6443), ""),
        ("https://api.example.com", Endpoint("api.example.com", 443), ""),
        ("https://API.example.com/", Endpoint("api.example.com", 443), ""),
        ("https://[fd00::1]", Endpoint("fd00::1", 443), ""),
        ("HTTPS://[fd00::1]:6443/", Endpoint("fd00::1", 6443), ""),
        ("https://[fe80::1%25eth0]:6443", Endpoint("fe80::1%eth0", 6443), ""),
        ("https://b\u00fccher.example", Endpoint("xn--bcher-kva.example", 443), ""),
        (
            "https://rancher.example.com/k8s/clusters/c-1",
            Endpoint("rancher.example.com", 443),
            "/k8s/clusters/c-1",
        ),
        (
            "https://rancher.example.com:8443/k8s/clusters/c-m-x1:p/",
            Endpoint("rancher.example.com", 8443),
            "/k8s/clusters/c-m-x1:p",
        ),
    ],
)
def test_a_server_url_is_parsed(server: str, endpoint: Endpoint, path: str) -> None:
    assert server_url(server) == (endpoint, path)


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ("http://10.0.0.1:8080", "http://, kubemux carries https:// only"),
        ("https://rancher.example.com/k8s//c-1", "the path of its server"),
        ("https://rancher.example.com/k8s clusters", "the path of its server"),
        ("https://rancher.example.com/k8s?secret=1", "a query or user"),
        ("https://me:secret@example.com", "a query or user"),
        ("10.0.0.1:6443", "not a valid"),
        ("https://10.0.0.1:99999", "not a valid"),
        ("https://10.0.0.1:0", "not a valid"),
        ("https://", "not a valid"),
        ("", "not a valid"),
    ],
)
def test_servers_that_a_tunnel_cannot_replace_are_refused(server: str, message: str) -> None:
    report = refused(kubeconfig("prod", server=server), "prod")
    assert "contexts.prod: " in report
    assert message in report
    assert "secret" not in report


def test_the_server_name_is_that_of_the_kubeconfig_or_else_the_host(certificates: Certificates) -> None:
    pem = certificates.ca.read_bytes()
    data = base64.b64encode(pem).decode()
    named = kubeconfig("prod", **{"tls-server-name": "kubernetes", "certificate-authority-data": data})
    assert imported(named, "prod") == [Imported("prod", "eu", Endpoint("10.0.0.1", 6443), "kubernetes", pem)]
    plain = kubeconfig("prod", **{"certificate-authority": "/etc/ca.crt"})
    assert imported(plain, "prod") == [
        Imported("prod", "eu", Endpoint("10.0.0.1", 6443), "10.0.0.1", Path("/etc/ca.crt"))
    ]


@pytest.mark.parametrize("data", ["%%%", "QkFTRQ==", "-----BEGIN CERTIFICATE-----"])
def test_bad_ca_data_is_refused_without_showing_it(data: str) -> None:
    report = refused(kubeconfig("prod", **{"certificate-authority-data": data}), "prod")
    assert "contexts.prod: certificate-authority-data is not base64 of PEM certificates" in report
    assert data not in report


def test_skip_verify_gets_a_warning() -> None:
    [cluster] = imported(kubeconfig("prod", **{"insecure-skip-tls-verify": True}), "prod")
    assert cluster.ca is None
    assert cluster.notes[0].startswith("WARNING: prod:")
    assert "tls_untrusted" in cluster.notes[0]


def test_a_proxy_that_is_not_imported_gets_a_warning() -> None:
    [cluster] = imported(kubeconfig("prod", **{"proxy-url": "socks5://localhost:1080"}), "prod")
    assert cluster.notes == (
        "WARNING: prod: its proxy-url is not used: the gateway eu must reach 10.0.0.1:6443 without it",
    )


HERE = [
    *("127.0.0.1", "127.8.8.8", "localhost", "[::1]", "0.0.0.0", "[::]", "169.254.7.1", "[fe80::1%25eth0]"),  # noqa: S104
    "[::ffff:127.0.0.1]",
    *(
        "LOCALHOST.",
        "k3s.localhost",
        "localhost.localdomain",
        "ip6-localhost",
        "host.docker.internal",
        "kubernetes.docker.internal",
    ),
    *("host.containers.internal", "control-plane.minikube.internal", "host.k3d.internal"),
]


@pytest.mark.parametrize(
    "host",
    ["10.0.0.1", "[fd00::1]", "localhost.example.com", "mylocalhost", "docker.internal.example", "internal"],
)
def test_an_address_that_means_the_same_everywhere_is_kept(host: str) -> None:
    assert not means_this_machine(host.strip("[]"))
    [cluster] = imported(kubeconfig("prod", server=f"https://{host}:6443"), "prod")
    assert not cluster.is_moved
    assert cluster.server_name == host.strip("[]")


@pytest.mark.parametrize("host", HERE)
def test_a_loopback_server_behind_a_gateway_is_verified_as_kubernetes(host: str) -> None:
    server = f"https://{host}:6443"
    assert imported(kubeconfig("prod", server=server), "prod")[0].server_name == "kubernetes"
    assert (
        imported(kubeconfig("prod", server=server, **{"tls-server-name": "api"}), "prod")[0].server_name
        == "api"
    )
    [here] = select(kubeconfig("prod", server=server), ["prod"], gateway="direct", origin="", in_cluster=None)
    assert here.server_name == host.strip("[]").replace("%25", "%").lower()


def test_a_context_that_kubemux_exported_is_not_imported() -> None:
    loop = Kubeconfig(
        clusters={"kubemux:prod": SERVER},
        contexts={"prod": {"cluster": "kubemux:prod"}, "lost": {"cluster": "x"}},
    )
    assert "leads through kubemux already" in refused(loop, "prod")
    assert "bak" not in refused(loop, "prod")
    assert "its cluster 'x' is not in the kubeconfig" in refused(loop, "lost")


CONFIG = """\
# ours
version: 1
admin: {listen: "127.0.0.1:16444"}   # metrics
gateways: {}
clusters:
  old:   # by hand
    gateway: direct
    listen: "127.0.0.1:16443"
    api_servers: ["10.0.0.9:6443", "10.0.0.1:6443"]
    probe: {interval: 30s}   # rarely

# the end
"""


def done(text: str, *clusters: Imported, ports: range = range(16443, 32768)) -> tuple[str, Merged]:
    parsed = document(text, "config.yaml")
    config = loader.parse(text.encode(), "config.yaml", Scrutiny.CA)
    result = merge(parsed, config, clusters, ca_folder=Path("/etc/kubemux/ca"), ports=ports)
    return yaml.dump(parsed.root).decode(), result


def merged(
    text: str, *clusters: Imported, ports: range = range(16443, 32768)
) -> tuple[str, dict[Path, bytes]]:
    after, result = done(text, *clusters, ports=ports)
    return after, result.files


def direct(name: str, host: str = "10.0.0.1", ca: bytes | Path | None = None) -> Imported:
    return Imported(name, "direct", Endpoint(host, 6443), "kubernetes", ca)


def test_new_clusters_get_the_lowest_free_ports_in_order() -> None:
    text, _ = merged(CONFIG, direct("b"), direct("a"))
    ports = listening(loader.parse(text.encode(), ""))
    assert ports == {"old": 16443, "b": 16445, "a": 16446}
    addition = """\
  b:
    gateway: direct
    listen: "127.0.0.1:16445"
    api_servers: ["10.0.0.1:6443"]
    tls: {server_name: kubernetes}
  a:
    gateway: direct
    listen: "127.0.0.1:16446"
    api_servers: ["10.0.0.1:6443"]
    tls: {server_name: kubernetes}
"""
    assert text == CONFIG.replace("\n# the end", addition + "\n# the end")


def test_an_existing_cluster_keeps_its_port_and_manual_keys() -> None:
    text, _ = merged(CONFIG, direct("old"))
    expected = CONFIG.replace("# rarely\n", "# rarely\n    tls: {server_name: kubernetes}\n")
    assert loader.parse(text.encode(), "") == loader.parse(expected.encode(), "")
    moved, _ = merged(CONFIG, direct("old", "10.0.0.2"))
    assert loader.parse(moved.encode(), "").clusters["old"].api_servers == (Endpoint("10.0.0.2", 6443),)
    for comment in ("# ours", "# metrics", "# by hand", "# rarely", "# the end"):
        assert comment in text
        assert comment in moved


def test_a_server_name_that_was_edited_stays() -> None:
    once, _ = merged(CONFIG, direct("new"))
    edited = once.replace("server_name: kubernetes", "server_name: api.example.com")
    again, result = done(edited, direct("new"))
    assert again == edited
    assert result.changes == {"new": "unchanged"}
    assert result.notes == ["new: tls.server_name stays api.example.com, not kubernetes"]


def test_a_server_name_that_is_the_address_follows_it() -> None:
    before = Imported("new", "direct", Endpoint("10.0.0.1", 6443), "10.0.0.1")
    after = Imported("new", "direct", Endpoint("10.0.0.2", 6443), "10.0.0.2")
    once, _ = merged(CONFIG, before)
    twice, result = done(once, after)
    assert result.changes == {"new": "changed: api_servers, tls.server_name"}
    assert twice == merged(CONFIG, after)[0]


GATEWAY = CONFIG.replace("gateways: {}", "gateways: {eu: {host: eu, agent: true, known_hosts: [/etc/hosts]}}")
TUNNELLED = Imported("k3s", "eu", Endpoint("127.0.0.1", 6443), "kubernetes")


def test_an_imported_loopback_address_becomes_the_gateways_with_a_warning() -> None:
    once, result = done(GATEWAY, TUNNELLED)
    [note] = result.notes
    assert note.startswith("WARNING: k3s: 127.0.0.1:6443 meant this machine and now means the gateway eu.")
    assert note.count(". ") == 1, "two sentences"
    for words in (
        "set clusters.k3s.api_servers to its address as eu sees it",
        "tls.server_name to a name in its certificate (now kubernetes)",
    ):
        assert words in note
    assert loader.parse(once.encode(), "", Scrutiny.CA).clusters["k3s"].tls.server_name == "kubernetes"
    assert done(once, TUNNELLED)[1].notes == [note]

    edited = once.replace("127.0.0.1:6443", "10.0.0.7:6443")
    again, result = done(edited, TUNNELLED)
    assert (again, result.changes) == (edited, {"k3s": "unchanged"})
    assert result.notes == ["k3s: api_servers stays 10.0.0.7:6443: 127.0.0.1:6443 means this machine"]


@pytest.mark.parametrize(
    ("server", "own"),
    [
        ("127.0.0.1:16443", "clusters.old.listen"),
        ("localhost:16444", "admin.listen"),
        ("0.0.0.0:16443", "clusters.old.listen"),
    ],
)
@pytest.mark.parametrize("name", ["old", "new"])
def test_a_cluster_that_would_be_kubemux_itself_is_refused(name: str, server: str, own: str) -> None:
    loop = Imported(name, "direct", Endpoint.parse(server), "kubernetes")
    with pytest.raises(ConfigError) as caught:
        merged(CONFIG, loop)
    assert f"clusters.{name}: its server {server} is kubemux's own {own}" in caught.value.render()
    # On the gateway, the same port belongs to another server.
    assert merged(GATEWAY, Imported("k", "eu", Endpoint.parse(server), "kubernetes"))


def test_an_api_server_on_this_machine_keeps_its_port() -> None:
    text, _ = merged(CONFIG, Imported("kind", "direct", Endpoint("127.0.0.1", 16445), "127.0.0.1"))
    assert listening(loader.parse(text.encode(), ""))["kind"] == 16446


@settings(max_examples=30, deadline=None)  # each loads four configurations
@given(st.lists(names.filter(str.isprintable), min_size=1, max_size=5, unique=True))
def test_importing_again_changes_nothing(chosen: list[str]) -> None:
    once, _ = merged(CONFIG, *map(direct, chosen))
    twice, _ = merged(once, *map(direct, reversed(chosen)))
    assert twice == once
    assert set(loader.parse(once.encode(), "").clusters) == {"old", *chosen}


def test_without_a_free_port_or_the_gateway_nothing_is_imported() -> None:
    with pytest.raises(ConfigError) as caught:
        merged(CONFIG, direct("a"), direct("b"), ports=range(16443, 16446))
    assert "no port is left for 'b'" in caught.value.render()
    with pytest.raises(ConfigError) as caught:
        merged(CONFIG, Imported("a", "nowhere", Endpoint("h", 1), "h"))
    assert "no gateway is called 'nowhere'" in caught.value.render()
    assert "'direct'" in caught.value.render()


RANCHER = Imported(
    "r", "eu", Endpoint("rancher.example.com", 443), "rancher.example.com", base_path="/k8s/clusters/c-1"
)


def test_the_path_of_a_server_is_kept() -> None:
    once, result = done(GATEWAY, RANCHER)
    config = loader.parse(once.encode(), "", Scrutiny.CA)
    assert config.clusters["r"].base_path == "/k8s/clusters/c-1"
    assert result.notes == []
    again, result = done(once, RANCHER)
    assert (again, result.changes) == (once, {"r": "unchanged"})
    moved, result = done(once, replace(RANCHER, base_path="/k8s/clusters/c-2"))
    assert result.changes == {"r": "changed: base_path"}
    assert loader.parse(moved.encode(), "", Scrutiny.CA).clusters["r"].base_path == "/k8s/clusters/c-2"
    stays, result = done(once, replace(RANCHER, base_path=""))
    assert stays == once
    assert result.notes == ["r: base_path stays /k8s/clusters/c-1, although its server has none"]


def test_an_invalid_name_is_refused_without_printing_its_control_characters() -> None:
    report = refused(kubeconfig("p\x1b]0;x\u202e"), "p\x1b]0;x\u202e")
    assert report.replace("\n", "").isprintable()
    assert "its name has characters that no cluster's may have" in report
    assert "its tls-server-name is neither a host name nor an address" in refused(
        kubeconfig("prod", **{"tls-server-name": "a\x1b[1m"}), "prod"
    )


def test_cas_are_stored_or_referred_to() -> None:
    text, files = merged(CONFIG, direct("a/b", ca=b"PEM"))
    [(path, pem)] = files.items()
    assert (path.parent, path.name.startswith("a-b-"), pem) == (Path("/etc/kubemux/ca"), True, b"PEM")
    assert str(path) in text
    text, files = merged(CONFIG, direct("a", ca=Path("/somewhere/ca.crt")))
    assert "/somewhere/ca.crt" in text
    assert files == {}


@pytest.mark.parametrize("name", [*ODD_NAMES, "../../etc/passwd", ".", "x" * 300])
def test_ca_names_stay_in_their_folder(name: str) -> None:
    file = ca_name(name, b"PEM")
    assert Path(file).name == file
    assert file.isascii()
    assert len(file) < 100
    assert file != ca_name(name, b"another")


def test_names_may_be_numbers() -> None:
    found = read(
        "clusters: [{name: 1, cluster: {server: 'https://h'}}]\ncontexts: [{name: 42, context: {cluster: 1}}]"
    )
    assert imported(found, "42")[0].api_server == Endpoint("h", 443)
