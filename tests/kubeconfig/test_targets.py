"""How clients reach a cluster: by its listener, or by its name through an entry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.config.model import ClusterConfig, Config, EntryConfig, EntryTlsConfig, TlsConfig
from proxy.errors import ConfigError, UnknownName
from proxy.kubeconfig import targets as module
from proxy.kubeconfig.targets import Target, proxy_url, targets
from proxy.runtime.endpoint import Endpoint, Local, UnixPath
from tests.support.tls import Certificates

PROD = ClusterConfig(gateway="g", listen=Endpoint("127.0.0.1", 16443), api_servers=(Endpoint("h", 8443),))
UNHEARD = replace(PROD, listen=None)
ARN = "arn:aws:eks:eu-west-1:1:cluster/prod"
LISTEN = Endpoint("127.0.0.1", 3128)
URL = "http://127.0.0.1:3128"


def config(clusters: dict[str, ClusterConfig], listen: Local | None = LISTEN) -> Config:
    entries = {"proxy": EntryConfig(listen=listen)} if listen else {}
    return Config(version=1, clusters=clusters, entries=entries)


def one(cluster: ClusterConfig, name: str = "prod", **more: str) -> Target:
    [found] = targets(config({name: cluster}), [name], "config.yaml", **more)
    return found


def refused(loaded: Config, **more: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        targets(loaded, loaded.clusters, "config.yaml", **more)
    return {problem.key: f"{problem.message}: {problem.hint}" for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("listen", "server"),
    [
        (Endpoint("::1", 16443), "[::1]:16443"),
        (Endpoint("0.0.0.0", 16443), "127.0.0.1:16443"),  # noqa: S104 - never bound: what it becomes is the point
        (Endpoint("::", 16443), "[::1]:16443"),
        (Endpoint("10.1.2.3", 16443), "10.1.2.3:16443"),
        (Endpoint("localhost", 16443), "localhost:16443"),
    ],
)
def test_the_exported_address_is_no_wildcard(listen: Endpoint, server: str) -> None:
    assert str(one(replace(PROD, listen=listen)).server) == server
    assert proxy_url(config({}, listen), "proxy", "socks5") == f"socks5://{server}"


@pytest.mark.parametrize("cluster", [PROD, UNHEARD], ids=["with a listener", "without"])
def test_by_name_a_cluster_needs_no_listener(cluster: ClusterConfig) -> None:
    """The exported port is one that the entry accepts for the cluster."""
    assert one(cluster, proxy_url=URL) == Target("prod", Endpoint("prod", 8443), "h", None, "", URL)
    named = replace(cluster, dns_name="prod.k8s.example.com", base_path="/k8s")
    found = one(named, ARN, proxy_url=URL)
    assert (str(found.server), found.base_path) == ("prod.k8s.example.com:8443", "/k8s")


def test_kubectl_verifies_the_same_name_as_probes() -> None:
    assert one(PROD).server_name == "h"
    assert one(replace(PROD, tls=TlsConfig(server_name="kubernetes"))).server_name == "kubernetes"


def test_without_a_listener_the_remedy_is_to_ask_by_name() -> None:
    what = (
        "has no listen: it is reached by its name alone, through an entry: export it by name, with --proxy "
    )
    assert refused(config({"prod": UNHEARD, "other": PROD})) == {"clusters.prod": f"{what}and one of 'proxy'"}
    assert refused(config({"prod": UNHEARD}, None)) == {
        "clusters.prod": f"{what}ENTRY, once the configuration has one in `entries`"
    }


@pytest.mark.parametrize("name", [ARN, "kubernetes-admin@kubernetes", "a b", "K\u00f6ln", "10.0.0.256"])
def test_a_name_that_clients_cannot_ask_for_needs_a_dns_name(name: str) -> None:
    assert refused(config({name: PROD}), proxy_url=URL) == {
        f"clusters.{name}": "its name is no host name, so that no client can ask for it through a proxy: "
        f"set clusters.{name}.dns_name"
    }


def test_an_unknown_entry_gets_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="no entry is called 'prxoy'") as caught:
        proxy_url(config({}), "prxoy", "http")
    assert caught.value.hint == "did you mean 'proxy'? there are: 'proxy'"


def test_no_client_of_a_kubeconfig_can_use_a_unix_socket() -> None:
    on_unix = replace(PROD, listen=UnixPath("/run/prod.sock"))
    why = "listens on unix:/run/prod.sock, and clients of a kubeconfig can use no unix socket"
    assert refused(config({"prod": on_unix})) == {
        "clusters.prod": f"{why}: export it by name, with --proxy and one of 'proxy'"
    }
    [found] = targets(config({"prod": on_unix}), ["prod"], "config.yaml", proxy_url=URL)
    assert str(found.server) == "prod:8443"
    no_other = config({"prod": on_unix}, UnixPath("/run/proxy.sock"))
    assert refused(no_other)["clusters.prod"].endswith(
        "with --proxy ENTRY, once the configuration has one in `entries`"
    )
    with pytest.raises(
        UnknownName, match=r"listens on unix:/run/proxy\.sock, and a proxy-url can lead to no"
    ):
        proxy_url(no_other, "proxy", "http")


def test_only_the_certificates_of_a_ca_file_are_exported(certificates: Certificates, tmp_path: Path) -> None:
    ca, key = certificates.authority.ca.cert.read_bytes(), certificates.authority.ca.key.read_bytes()
    assert module.certificates(b"a comment\n" + key + ca + ca) == ca + ca
    with pytest.raises(ValueError, match="no PEM certificate"):
        module.certificates(key)
    files = {"a": tmp_path / "missing", "b": certificates.ca, "c": tmp_path}
    clusters = {name: replace(PROD, tls=TlsConfig(ca_file=path)) for name, path in files.items()}
    assert one(clusters["b"]).ca == ca
    assert refused(config(clusters)).keys() == {"clusters.a.tls.ca_file", "clusters.c.tls.ca_file"}


def test_clients_would_show_their_certificate_to_an_entry_with_tls() -> None:
    """client-go does, for a proxy-url of https."""
    tls = EntryTlsConfig(cert_file=Path("/c"), key_file=Path("/k"))
    entries = {"remote": EntryConfig(listen=LISTEN, tls=tls), "remove": EntryConfig(listen=LISTEN)}
    with pytest.raises(UnknownName, match="'remote' speaks TLS") as caught:
        proxy_url(Config(version=1, entries=entries), "remote", "http")
    assert "remove" in caught.value.hint
