"""Export: the contents of an exported context; and entries of others do not change."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml.comments import CommentedMap

from proxy.config import yaml
from proxy.kubeconfig.entries import Kubeconfig
from proxy.kubeconfig.exporter import OWN, export, new
from proxy.kubeconfig.targets import Target
from proxy.runtime.endpoint import Endpoint
from tests.kubeconfig.samples import document, kubeconfigs, names, read, target

BASE = read("""
clusters: [{name: direct, cluster: {server: "https://10.0.0.1", certificate-authority-data: QkFTRQ==}}]
users: [{name: admin, user: {token: secret, x-unknown: {a: [1, 2]}}}]
contexts: [{name: prod, context: {cluster: direct, user: admin, namespace: web}}]
""")


def test_a_new_kubeconfig_has_the_exported_contexts() -> None:
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


def test_without_a_ca_file_the_ca_of_the_base_cluster_is_used() -> None:
    data, report = new([target(ca=None)], BASE)
    assert read(data).clusters["kubemux:prod"]["certificate-authority-data"] == "QkFTRQ=="
    assert report.notes == []


def test_a_cluster_without_any_ca_gets_a_note() -> None:
    data, report = new([target(ca=None)], Kubeconfig())
    assert "certificate-authority-data" not in read(data).clusters["kubemux:prod"]
    assert "set clusters.prod.tls.ca_file" in report.notes[0]


def test_insecure_skip_tls_verify_never_gets_into_an_entry_of_ours() -> None:
    insecure = (
        'clusters: [{name: %s, cluster: {server: "https://127.0.0.1:1", insecure-skip-tls-verify: true}}]'
    )
    base = read(insecure % "c" + "\ncontexts: [{name: prod, context: {cluster: c}}]")
    output = document(insecure % '"kubemux:prod"')
    export(output, base, [target()])
    assert b"insecure" not in yaml.dump(output.root)


BY_NAME = Target("prod", Endpoint("prod", 6443), "kubernetes", b"CA", "", "http://127.0.0.1:3128")
BY_SOCKS = replace(BY_NAME, proxy_url="socks5://127.0.0.1:3128")
LOGGED_IN = "http://ci:secret@127.0.0.1:3128"


@pytest.mark.parametrize(
    ("server", "proxy_url", "exported", "expected"),
    [
        ("https://127.0.0.1:1", "socks5://laptop:1080", target(), "socks5://laptop:1080"),
        ("https://prod:6443", "http://127.0.0.1:3128", target(), None),
        ("https://127.0.0.1:1", None, BY_NAME, "http://127.0.0.1:3128"),
        ("https://127.0.0.1:1", "socks5://laptop:1080", BY_NAME, "http://127.0.0.1:3128"),
        ("https://prod:6443", "http://127.0.0.1:3128", BY_SOCKS, "socks5://127.0.0.1:3128"),
        ("https://prod:6443", LOGGED_IN, BY_NAME, LOGGED_IN),
        ("https://prod:6443", LOGGED_IN, BY_SOCKS, "socks5://127.0.0.1:3128"),
    ],
)
def test_an_export_keeps_what_a_user_has_added_to_a_proxy_url(
    server: str, proxy_url: str | None, exported: Target, expected: str | None
) -> None:
    """A user may have added a `proxy-url` to a listener's context, or a password to an exported one."""
    body = {"server": server, "x-user": 1} | ({"proxy-url": proxy_url} if proxy_url else {})
    output = document(f'clusters: [{{name: "kubemux:prod", cluster: {json.dumps(body)}}}]')
    export(output, Kubeconfig(), [exported])
    found = read(yaml.dump(output.root)).clusters["kubemux:prod"]
    assert found["server"] == f"https://{exported.server}"
    assert (found.get("proxy-url"), found["x-user"]) == (expected, 1)


def test_export_to_the_base_kubeconfig_redirects_the_context() -> None:
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
    assert after.users == before.users, (
        "the user is shared: a renewed token would only reach one of two copies"
    )
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


def test_a_user_of_the_output_stays_if_the_base_has_no_user() -> None:
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
def test_an_export_keeps_everything_else(kubeconfig: tuple[str, list[str]], exported: list[str]) -> None:
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
