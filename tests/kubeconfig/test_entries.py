"""Reading a kubeconfig's entries as kubectl does, and adding to a file without disturbing it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml.comments import CommentedMap

from proxy.config import yaml
from proxy.errors import ConfigError
from proxy.kubeconfig.entries import append, default_files, fresh, load, parse


def root_of(text: str) -> CommentedMap:
    root = yaml.parse(text.encode(), "file").root
    assert isinstance(root, CommentedMap)
    return root


def test_paths_are_absolute_relative_to_their_file(tmp_path: Path) -> None:
    (tmp_path / "kube").mkdir()
    path = tmp_path / "kube" / "config"
    path.write_text("""
clusters: [{name: c, cluster: {certificate-authority: ../ca.pem}}]
users:
- {name: files, user: {client-certificate: a.crt, client-key: /abs/a.key, tokenFile: ./token}}
- {name: near, user: {exec: {command: ./bin/login, args: [./not-a-path]}}}
- {name: plugin, user: {exec: {command: aws}}}
""")
    found = load([path])
    assert found.clusters["c"] == {"certificate-authority": f"{tmp_path}/ca.pem"}
    assert found.users["files"] == {
        "client-certificate": f"{tmp_path}/kube/a.crt",
        "client-key": "/abs/a.key",
        "tokenFile": f"{tmp_path}/kube/token",
    }
    assert found.users["near"] == {
        "exec": {"command": f"{tmp_path}/kube/bin/login", "args": ["./not-a-path"]}
    }
    assert found.users["plugin"] == {"exec": {"command": "aws"}}


def test_an_entry_comes_whole_from_the_first_file_that_has_it(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("users: [{name: red, user: {token: first}}]")
    two.write_text(
        "users: [{name: red, user: {token: second, username: more}}, {name: blue, user: {token: only}}]"
    )
    assert dict(load([one, two]).users) == {"red": {"token": "first"}, "blue": {"token": "only"}}


def test_the_default_files_are_those_of_kubectl(tmp_path: Path) -> None:
    home, other = tmp_path / ".kube" / "config", tmp_path / "other"
    assert default_files({"HOME": str(tmp_path)}) == []
    home.parent.mkdir()
    home.touch()
    other.touch()
    assert default_files({"HOME": str(tmp_path)}) == [home]
    assert default_files({"HOME": str(tmp_path), "KUBECONFIG": f"{other}::{tmp_path}/missing"}) == [other]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[]", 1, "expected a mapping"),
        ("a: 1\nusers: {}\ncontexts: x\n", 3, "expected a list"),
        ("users:\n- name: a\n- x\n", 3, "expected an entry with `name` and `user`"),
        ("clusters:\n- name: a\n  cluster: x\n", 2, "expected an entry with `name` and `cluster`"),
        ("contexts:\n- name: a\n  context: {}\n- name: a\n", 4, "'a' is there twice"),
    ],
)
def test_an_invalid_structure_is_refused_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(yaml.parse(text.encode(), "file"))
    assert message in caught.value.render()
    assert caught.value.problems[0].line == line


def test_the_repr_shows_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("users: [{name: a, user: {token: hunter2}}]")
    assert "hunter2" not in repr(load([path]))


@pytest.mark.parametrize(
    "name", ["yes", "Off", "n", "null", "0777", "1e3", "12:30", "", " a", "a: b", "a#", "*x", "a\nb"]
)
def test_text_that_yaml_1_1_reads_otherwise_is_quoted(name: str) -> None:
    assert b'"' in yaml.dump(CommentedMap({"name": fresh(name)}))


@pytest.mark.parametrize("name", ["kubernetes-admin@kubernetes", "prod", "LS0tLS1C+/==", "/etc/ca.crt"])
def test_ordinary_text_is_not_quoted(name: str) -> None:
    assert yaml.dump(CommentedMap({"name": fresh(name)})) == f"name: {name}\n".encode()


def test_the_next_headings_stay_where_they_are() -> None:
    root = root_of("""\
# top
users:
- name: a   # eol
  user:
    token: x   # secret
    # about a, still
# about contexts

contexts: []   # none yet
# about clusters
clusters:
- name: c
  cluster: {server: "https://x"}   # flow

# the end
""")
    append(root, "users", fresh({"user": {}, "name": "b"}))
    append(root, "users", fresh({"user": {}, "name": "b2"}))
    append(root, "contexts", fresh({"context": {"user": "a"}, "name": "d"}))
    append(root, "clusters", fresh({"cluster": {}, "name": "e"}))
    assert (
        yaml.dump(root).decode()
        == """\
# top
users:
- name: a   # eol
  user:
    token: x   # secret
    # about a, still
- user: {}
  name: b
- user: {}
  name: b2
# about contexts

contexts:      # none yet
- context:
    user: a
  name: d
# about clusters
clusters:
- name: c
  cluster: {server: "https://x"}   # flow
- cluster: {}
  name: e

# the end
"""
    )


def test_append_to_a_mapping_keeps_its_comments() -> None:
    root = root_of("clusters:\n  a: {gateway: x}   # first\n  # b: {}\n\n# ---\nadmin: {}\n")
    append(root, "clusters", CommentedMap({"gateway": "y"}), key="yes")
    expected = (
        'clusters:\n  a: {gateway: x}   # first\n  # b: {}\n  "yes":\n    gateway: y\n\n# ---\nadmin: {}\n'
    )
    assert yaml.dump(root).decode() == expected


@pytest.mark.parametrize("text", ["version: 1\n", "version: 1\nclusters:\n", "version: 1\nclusters: {}\n"])
def test_append_makes_a_missing_section(text: str) -> None:
    root = root_of(text)
    append(root, "clusters", CommentedMap({"gateway": "y"}), key="a")
    assert yaml.dump(root).decode() == "version: 1\nclusters:\n  a:\n    gateway: y\n"
