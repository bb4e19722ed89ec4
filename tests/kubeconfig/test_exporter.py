"""Export: what a context of ours holds, and that nobody else's entry changes."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml.comments import CommentedMap

from proxy.config import yaml
from proxy.config.model import ClusterConfig, TlsConfig
from proxy.errors import ConfigError
from proxy.kubeconfig import exporter
from proxy.kubeconfig.entries import Kubeconfig
from proxy.kubeconfig.exporter import OWN, export, new, targets
from proxy.runtime.endpoint import Endpoint
from tests.kubeconfig.samples import document, kubeconfigs, names, read, target
from tests.support.tls import Certificates

BASE = read("""
clusters: [{name: direct, cluster: {server: "https://10.0.0.1", certificate-authority-data: QkFTRQ==}}]
users: [{name: admin, user: {token: secret, x-unknown: {a: [1, 2]}}}]
contexts: [{name: prod, context: {cluster: direct, user: admin, namespace: web}}]
""")


def test_a_new_kubeconfig() -> None:
    data, report = new([target("prod", 16443), target("other", 16444)], BASE)
    found = read(data)
    assert found.clusters["kubemux:prod"] == {
        "server": "https://127.0.0.1:16443",
        "tls-server-name": "kubernetes",
        "certificate-authority-data": base64.b64encode(b"CA").decode(),
    }
    assert found.contexts["prod"] == {"cluster": "kubemux:prod", "user": "kubemux:prod", "namespace": "web"}
    assert found.users == {"kubemux:prod": {"token": "secret", "x-unknown": {"a": [1, 2]}}}
    assert found.contexts["other"] == {"cluster": "kubemux:other"}
    assert b"current-context: prod\n" in data
    assert report.notes == ["other: the base kubeconfig has no user for a context of this name: see --base"]


@pytest.mark.parametrize(
    ("listen", "server"),
    [
        (Endpoint("::1", 16443), "https://[::1]:16443"),
        (Endpoint("0.0.0.0", 16443), "https://127.0.0.1:16443"),  # noqa: S104 - never bound: what it becomes is the point
        (Endpoint("::", 16443), "https://[::1]:16443"),
        (Endpoint("10.1.2.3", 16443), "https://10.1.2.3:16443"),
        (Endpoint("localhost", 16443), "https://localhost:16443"),
    ],
)
def test_the_server_is_an_address_to_connect_to(listen: Endpoint, server: str) -> None:
    data, _ = new([replace(target(), listen=listen)], BASE)
    assert read(data).clusters["kubemux:prod"]["server"] == server


def test_without_a_ca_file_the_base_cluster_s_ca_is_taken() -> None:
    data, report = new([target(ca=None)], BASE)
    assert read(data).clusters["kubemux:prod"]["certificate-authority-data"] == "QkFTRQ=="
    assert report.notes == []


def test_what_weakens_verification_is_said() -> None:
    data, report = new([target(ca=None, server_name=None)], Kubeconfig())
    assert read(data).clusters["kubemux:prod"] == {"server": "https://127.0.0.1:16443"}
    assert "set clusters.prod.tls.server_name" in report.notes[0]
    assert "set clusters.prod.tls.ca_file" in report.notes[1]


def test_insecure_skip_tls_verify_never_gets_into_an_entry_of_ours() -> None:
    insecure = "clusters: [{name: %s, cluster: {server: x, insecure-skip-tls-verify: true, proxy-url: keep}}]"
    base = read(insecure % "c" + "\ncontexts: [{name: prod, context: {cluster: c}}]")
    output = document(insecure % '"kubemux:prod"')
    export(output, base, [target()])
    data = yaml.dump(output.root)
    assert b"insecure" not in data
    assert read(data).clusters["kubemux:prod"]["proxy-url"] == "keep"


def test_over_ones_own_kubeconfig_the_context_is_redirected_and_its_user_shared() -> None:
    text = """\
# mine
clusters:
- cluster: {server: "https://10.0.0.1"}   # direct
  name: prod
contexts:
- context: {cluster: prod, user: admin, namespace: web}   # favourite
  name: prod
current-context: elsewhere
users:
- name: admin
  user: {client-key: admin.key}
"""
    output = document(text)
    report = export(output, read(text), [target()])
    assert report.redirected == ["prod"]
    data = yaml.dump(output.root).decode()
    before, after = read(text), read(data)
    assert after.contexts == {"prod": {"cluster": "kubemux:prod", "user": "admin", "namespace": "web"}}
    assert after.clusters["prod"] == before.clusters["prod"]
    assert after.users == before.users, "the user is not copied: a renewed token would only reach one of two"
    assert "client-key: admin.key" in data
    assert "current-context: elsewhere" in data
    again = document(data)
    assert export(again, after, [target()]).redirected == []


def test_another_user_of_the_same_name_is_neither_used_nor_touched() -> None:
    output = document("users: [{name: admin, user: {token: somebody else's}}]")
    export(output, BASE, [target()])
    found = read(yaml.dump(output.root))
    assert found.users == {"admin": {"token": "somebody else's"}, "kubemux:prod": BASE.users["admin"]}
    assert found.contexts["prod"]["user"] == "kubemux:prod"


def test_a_user_chosen_in_the_output_stays_if_the_base_has_none() -> None:
    output = document("contexts: [{name: prod, context: {cluster: 'kubemux:prod', user: mine}}]")
    assert export(output, Kubeconfig(), [target()]).notes == []
    assert read(yaml.dump(output.root)).contexts["prod"] == {"cluster": "kubemux:prod", "user": "mine"}


def test_a_changed_port_updates_the_entry_in_place() -> None:
    data, _ = new([target(port=16443)], BASE)
    output = document(data.replace(b"server:", b"# the port\n    server:"))
    assert export(output, BASE, [target(port=16500)]).changed
    assert yaml.dump(output.root) == data.replace(b"server:", b"# the port\n    server:").replace(
        b":16443", b":16500"
    )


def test_an_entry_without_a_body_is_filled() -> None:
    output = document('clusters: [{name: "kubemux:prod", cluster: }]\ncontexts: [{name: prod}]')
    export(output, BASE, [target()])
    assert read(yaml.dump(output.root)).contexts["prod"]["cluster"] == "kubemux:prod"


def section_of(text: str, section: str) -> object:
    root = document(text).root
    assert isinstance(root, CommentedMap)
    return root[section]


@settings(max_examples=50, deadline=None)  # each reads and writes YAML three times
@given(kubeconfigs(), st.lists(names, unique=True, min_size=1, max_size=3))
def test_everything_else_survives(kubeconfig: tuple[str, list[str]], exported: list[str]) -> None:
    text, comments = kubeconfig
    before, output = read(text), document(text)
    export(output, before, [target(name, 16443 + index) for index, name in enumerate(exported)])
    data = yaml.dump(output.root).decode()
    after = read(data)
    for section in ("clusters", "users"):
        old, now = getattr(before, section), getattr(after, section)
        assert {name: body for name, body in now.items() if name in old} == old
        assert list(now)[: len(old)] == list(old), "new entries come last"
        assert all(name.startswith(OWN) for name in now.keys() - old.keys())
    assert {name: body for name, body in after.contexts.items() if name not in exported} == {
        name: body for name, body in before.contexts.items() if name not in exported
    }
    assert [line.strip() for line in data.splitlines() if line.strip() in comments] == [
        line.strip() for line in text.splitlines() if line.strip() in comments
    ]
    for section in ("current-context", "preferences"):
        assert section_of(data, section) == section_of(text, section)
    for name in exported:
        context = after.contexts[name]
        assert after.clusters[str(context["cluster"])]["tls-server-name"] == "kubernetes"


@settings(max_examples=50, deadline=None)  # each reads and writes YAML three times
@given(kubeconfigs(), st.lists(names, unique=True, min_size=1, max_size=3))
def test_a_second_export_changes_nothing(kubeconfig: tuple[str, list[str]], exported: list[str]) -> None:
    output = document(kubeconfig[0])
    chosen = [target(name) for name in exported]
    assert export(output, read(kubeconfig[0]), chosen).changed
    data = yaml.dump(output.root)
    again = document(data)
    report = export(again, read(data), chosen)
    assert (report.changed, report.redirected) == (False, [])
    assert yaml.dump(again.root) == data


def test_only_certificatesleave_a_ca_file(certificates: Certificates, tmp_path: Path) -> None:
    ca, key = certificates.authority.ca.cert.read_bytes(), certificates.authority.ca.key.read_bytes()
    assert exporter.certificates(b"a comment\n" + key + ca + ca) == ca + ca
    with pytest.raises(ValueError, match="no PEM certificate"):
        exporter.certificates(key)
    files = {"a": tmp_path / "missing", "b": certificates.ca, "c": tmp_path}
    clusters = {
        name: ClusterConfig(
            gateway="g",
            listen=Endpoint("::1", 1),
            api_servers=(Endpoint("h", 1),),
            tls=TlsConfig(ca_file=path),
        )
        for name, path in files.items()
    }
    assert targets({"b": clusters["b"]}, "config")[0].ca == ca
    with pytest.raises(ConfigError) as caught:
        targets(clusters, "config.yaml")
    assert [problem.key for problem in caught.value.problems] == [
        "clusters.a.tls.ca_file",
        "clusters.c.tls.ca_file",
    ]
