"""Any kubeconfig is read as a real kubectl reads it, and no file may expand to more than it contains."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.config import yaml
from proxy.errors import ConfigError
from proxy.kubeconfig import reading, store
from proxy.kubeconfig.entries import Kubeconfig, default_files, load, parse, text
from proxy.kubeconfig.reading import MAX_COPIED
from tests.kubeconfig.samples import target
from tests.support.parts import find

HEAD = "apiVersion: v1\nkind: Config\n"
ONE = f"{HEAD}clusters:\n- name: c\n  cluster: {{server: 'https://h:1'}}\n"

ODD: dict[str, str | bytes] = {
    "anchor": f"x: &b {{server: 'https://h:1'}}\n{HEAD}clusters:\n- name: c\n  cluster: *b\n- name: d\n  "
    "cluster: *b\n",
    "anchored text": f"{HEAD}x: &s https://h:1\nclusters:\n- {{name: c, cluster: {{server: *s}}}}\n",
    "merge key": f"{HEAD}x: &b {{server: 'https://h:1', tls-server-name: a}}\n"
    "clusters:\n- name: c\n  cluster:\n    <<: *b\n    tls-server-name: k\n",
    "merge key last": f"{HEAD}x: &b {{server: 'https://a'}}\nclusters:\n- name: c\n  cluster: {{server: "
    f"'https://b', <<: *b}}\n",
    "two merged": f"{HEAD}x: &a {{server: 'https://a'}}\ny: &b {{server: 'https://b', tls-server-name: b}}\n"
    "clusters:\n- name: c\n  cluster:\n    <<: [*a, *b]\n",
    "anchor of an anchor": f"{HEAD}x: &a {{server: 'https://a'}}\ny: &b {{name: c, cluster: "
    f"*a}}\nclusters: [*b]\n",
    "%YAML": f"# first\n\n%YAML 1.1\n---\n{ONE}",
    "%TAG": f"%TAG ! tag:x,2000:\n---\n{ONE}",
    "key twice": f"{HEAD}clusters:\n- name: c\n  cluster: {{server: 'https://a:1', server: 'https://b:2'}}\n",
    "section twice": f"{ONE}clusters:\n- name: d\n  cluster: {{server: 'https://b:2'}}\n",
    "name twice": f"{ONE}- name: c\n  cluster: {{server: 'https://b:2'}}\n",
    "JSON with tabs": '{\n\t"clusters": [\n\t\t{"name":\t"c", "cluster": {"server": "https://h"}}\n\t]\n}\n',
    "tabs between words": "apiVersion:\tv1\nclusters:\n- name:\tc\n- name: d\t# d\n",
    "tab as indentation": f"{HEAD}clusters:\n- name: c\n\tcluster: {{server: 'https://h:1'}}\n",
    "yes": f"{HEAD}clusters:\n- name: c\n  cluster: {{server: 'https://h:1', insecure-skip-tls-verify: "
    f"yes}}\n",
    "Off": f"{HEAD}clusters:\n- name: c\n  cluster: {{server: 'https://h:1', insecure-skip-tls-verify: "
    f"Off}}\n",
    "tagged text": f"{HEAD}clusters:\n- name: !!str 42\n  cluster: !!map {{server: !mine 'https://h:1'}}\n",
    "tagged list": f"{HEAD}clusters: !mine\n- name: c\n",
    "second document": f"{ONE}---\n{ONE.replace('name: c', 'name: d')}",
    "byte order mark": f"\ufeff{ONE}",
    "UTF-16": ONE.encode("utf-16"),
    "Latin-1": f"# caf\xe9\n{ONE}".encode("latin-1"),
    "CR LF": ONE.replace("\n", "\r\n"),
    "control character": f"# \x1b[31m\n{ONE}",
    "escaped control character": ONE.replace("c\n", '"c\\x1b[31m\\u202e"\n', 1),
    "no name": f"{HEAD}clusters:\n- cluster: {{server: 'https://h:1'}}\n",
    "empty body": f"{HEAD}clusters:\n- name: c\n",
    "a time": f"{HEAD}clusters:\n- name: 2024-01-01\n  cluster: {{server: 'https://h:1', tls-server-name: "
    f"12:30:45}}\n",
    "null": f"{HEAD}clusters: ~\n",
    "a mapping": f"{HEAD}clusters: {{c: {{server: 'https://h'}}}}\n",
    "contains itself": f"{HEAD}clusters: &a\n- *a\n",
    "no such anchor": f"{HEAD}clusters: *a\n",
    "nothing": "",
    "comments": "# nothing\n",
}


def ours(data: bytes) -> Kubeconfig | None:
    try:
        return parse(reading.parse(data, "/home/me/.kube/config"))
    except ConfigError:
        return None


def kubectl(path: Path) -> dict[str, dict[str, object]] | None:
    """The clusters that kubectl sees; None if it cannot read the file."""
    command = [find("kubectl") or "", "config", "view", "--raw", "-o", "json", "--kubeconfig", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        return None
    return {entry["name"]: entry["cluster"] for entry in json.loads(done.stdout)["clusters"] or ()}


def said(body: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in body.items() if value}


@pytest.mark.kubectl
@pytest.mark.parametrize("label", ODD)
def test_odd_kubeconfigs_are_read_as_kubectl_reads_them(tmp_path: Path, label: str) -> None:
    odd = ODD[label]
    data = odd if isinstance(odd, bytes) else odd.encode()
    path = tmp_path / "config"
    path.write_bytes(data)
    theirs, found = kubectl(path), ours(data)
    if theirs is None:
        assert found is None
        return
    assert found is not None
    assert set(found.clusters) == set(theirs)
    for name, body in found.clusters.items():
        assert {key: value for key, value in theirs[name].items() if value} == {
            key: value for key, value in body.items() if value
        }


A = f"{HEAD}clusters: [{{name: c, cluster: {{server: 'https://a'}}}}]\n"
B = (
    f"{HEAD}clusters: [{{name: c, cluster: {{server: 'https://b', tls-server-name: b}}}},"
    " {name: d, cluster: {server: 'https://d', certificate-authority: ../ca.crt}}]\n"
)


@pytest.mark.kubectl
@pytest.mark.parametrize("value", ["a:b", "b:a", "missing:a", ":", "::a", "a:a", "missing", "link", ""])
def test_several_files_are_merged_as_by_kubectl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    folder = tmp_path / "one"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text(A.replace("name: c", "name: home"))
    (folder / "a").write_text(A)
    (folder / "sub" / "b").write_text(B)
    (folder / "link").symlink_to("sub/b")
    monkeypatch.chdir(folder)
    environ = {"HOME": str(tmp_path), "KUBECONFIG": value.replace("b", "sub/b")}
    command = [find("kubectl") or "", "config", "view", "--raw", "-o", "json"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    theirs = {entry["name"]: entry["cluster"] for entry in json.loads(done.stdout)["clusters"] or ()}
    found = load(default_files(environ))
    assert {name: body.get("server") for name, body in found.clusters.items()} == {
        name: body["server"] for name, body in theirs.items()
    }
    if "d" in found.clusters:  # relative to the file, not to where its link leads
        expected = tmp_path / "ca.crt" if value == "link" else folder / "ca.crt"
        assert found.clusters["d"]["certificate-authority"] == str(expected)


def bomb(wide: int, deep: int) -> str:
    lines = [f"a0: &a0 [{', '.join('x' * wide)}]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * wide)}]" for level in range(1, deep)]
    return "\n".join([*lines, ONE])


@pytest.mark.parametrize(
    "data", [bomb(10, 9), bomb(1, 40), bomb(2, 31), f"a: &a {{x: y}}\nb: [{'*a, ' * MAX_COPIED}*a]\n"]
)
def test_aliases_that_stand_for_gigabytes_are_refused(data: str) -> None:
    started = time.process_time()
    with pytest.raises(ConfigError) as caught:
        reading.parse(data.encode(), "config")
    assert "aliases (*) stand for more than any kubeconfig needs" in caught.value.render()
    assert time.process_time() - started < 20  # most of it ruamel's, for 80 KB


def test_shared_values_are_written_out_and_comments_stay() -> None:
    data = (
        b"%YAML 1.1\n# mine\n---\nx: &b {server: 'https://h', a: yes}\nclusters:\n- name: c   # the "
        b"only one\n  cluster: *b\n"
    )
    written = yaml.dump(reading.parse(data, "config").root)
    assert b"&" not in written
    assert b"*" not in written
    assert b"# mine" in written
    assert b"# the only one" in written
    again = parse(reading.parse(written, "config"))
    assert again.clusters == {"c": {"server": "https://h", "a": True}}


def test_export_changes_one_of_two_contexts_that_share_an_entry(tmp_path: Path) -> None:
    output = tmp_path / "config"
    output.write_text(
        "contexts:\n- name: prod\n  context: &c {cluster: there, user: me}\n- name: other\n  context: *c\n"
    )
    store.export(output, [target("prod")], Kubeconfig())
    found = load([output])
    assert found.contexts == {
        "prod": {"cluster": "kubemux:prod", "user": "me"},
        "other": {"cluster": "there", "user": "me"},
    }


def test_export_does_not_lose_a_second_document(tmp_path: Path) -> None:
    output = tmp_path / "config"
    output.write_text(str(ODD["second document"]))
    with pytest.raises(ConfigError) as caught:
        store.export(output, [target("prod")], Kubeconfig())
    assert "a second document starts here" in caught.value.render()
    assert output.read_text() == ODD["second document"]


WORDS = [
    "a",
    "b",
    "yes",
    "42",
    "'42'",
    "~",
    "*x",
    "&x 1",
    "!t v",
    "<<",
    ":",
    "-",
    "?",
    "{",
    "}",
    "[",
    "]",
    ",",
    "#",
    "\t",
    "\n",
    "\n  ",
    "%YAML",
]


@settings(max_examples=300, deadline=None)
@example("? a #")
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=14).map(" ".join))
def test_any_text_is_read_or_refused(data: str) -> None:
    try:
        document = reading.parse(data.encode("utf-8", "surrogatepass"), "config")
    except ConfigError:
        return
    text(document.root)
    again = yaml.dump(document.root)
    assert yaml.dump(reading.parse(again, "again").root) == again
