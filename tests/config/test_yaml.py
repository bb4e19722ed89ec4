"""What the YAML reader refuses, with bounded memory, and the line that it reports."""

from __future__ import annotations

import os
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from proxy.config import yaml
from proxy.config.findings import Loc
from proxy.errors import ConfigError, Problem

NOBODY = 65534


@contextmanager
def peak_below(limit: int) -> Iterator[None]:
    """Fails if Python's allocations in the block exceed `limit` bytes at any time."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit


def refusal(data: bytes) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        yaml.parse(data, "f.yaml")
    return caught.value.problems


def refused_file(path: Path) -> Problem:
    with pytest.raises(ConfigError) as caught:
        yaml.read(path)
    (problem,) = caught.value.problems
    assert caught.value.path == str(path)
    return problem


@pytest.mark.parametrize(
    ("data", "line", "text"),
    [
        (b"a: 1\nb: \x00\n", 2, "control character 0x00"),
        (b"a: 1\n\nb: \x1b[2J\n", 3, "control character 0x1b"),
        (b"a: 1\nb: \xff\n", 2, "not UTF-8"),
        (b'a: 1\nb: "x\\ud83d"\n', 2, "half a character"),
        (b'a: 1\n"\\udc00": 1\n', 2, "half a character"),
        (b"a: 1\nb: " + b"9" * 19 + b"\n", 2, "more than 18 digits"),
        (b"a: 1\nb: -" + b"1" * 5000 + b"\n", 2, "more than 18 digits"),
        (b"a: 1\nb: 0x" + b"f" * 5000 + b"\n", 2, "more than 18 digits"),
        (b"a: 1\nb: c: d\n", 2, "mapping values are not allowed here"),
        (b"a: [1, 2\n", 1, "not valid YAML"),
        (b"a:\n\tb: 1\n", 2, "cannot start any token"),
        (b"a: 1\na: 2\n", 2, "'a' is there twice"),
        (b"1: a\n0x1: b\n", 2, "is there twice"),
        (b"a: 1\n---\nb: 1\n", 2, "second document"),
        (b"a: 1\nb: &x 1\n", 2, "anchors"),
        (b"a: *x\n", 1, "alias"),
        (b"listen: *:16443\n", 1, "alias"),
        (b"<<: {a: 1}\n", 1, "merge keys"),
        (b"a: !!python/object:os.system {}\n", 1, "tags"),
        (b"a: !!timestamp x\n", 1, "tags"),
        (b"%YAML 1.1\n---\na: yes\n", 2, "directives"),
        (b"a: 2001-99-99\n", 0, "not valid YAML (ValueError)"),
        (b"a: " + b"[" * 5000, 1, "nested deeper than 32"),
        (b"a: " + b"{a: " * 5000, 1, "nested deeper than 32"),
        (b"- " * 5000 + b"a", 1, "nested deeper than 32"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, bytes) else None,
)
def test_what_the_reader_does_not_support_is_refused_with_its_line(data: bytes, line: int, text: str) -> None:
    problem = refusal(data)[0]
    assert (problem.line, text in problem.message) == (line, True), problem
    assert problem.hint


def test_several_refusals_come_together() -> None:
    assert [problem.line for problem in refusal(b"a: &x 1\nb: *x\nc: !t 1\nb: 2\n")] == [1, 2, 3, 4]


def test_an_alias_bomb_is_not_expanded() -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 30)]
    with peak_below(32 << 20):
        problems = refusal("\n".join(["l0: &l0 [boom]", *levels]).encode())
    assert "anchors and aliases" in problems[0].message
    assert problems[0].line == 1


def test_text_may_look_like_a_long_number() -> None:
    names = ["0123456789abcdef0123", "9" * 18, "9" * 40 + ".example.com", "'" + "9" * 40 + "'"]
    document = yaml.parse("\n".join(f"- {name}" for name in names).encode(), "f.yaml")
    assert isinstance(document.root, CommentedSeq)
    assert [str(item) for item in document.root] == [name.strip("'") for name in names]


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.touch()
    os.truncate(path, 50 << 20)
    with peak_below(1 << 20):
        problem = refused_file(path)
    assert "larger than 4096 KiB" in problem.message


def test_a_file_that_hides_its_size_is_refused_at_the_limit() -> None:
    path = Path("/proc/self/smaps")
    assert path.stat().st_size == 0
    with pytest.raises(ConfigError, match="1 problem"):
        yaml.read(path, limit=1000)


def test_a_duplicate_does_not_show_its_values() -> None:
    for problem in (*refusal(b"token: hunter2\ntoken: hunter3\n"), *refusal(b"1: hunter2\n0x1: hunter3\n")):
        assert "hunter" not in problem.message + problem.hint


def test_paths_that_are_no_regular_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "does not exist" in refused_file(tmp_path / "missing").message
    assert "is a directory" in refused_file(tmp_path).message
    assert "not a regular file" in refused_file(tmp_path / "fifo").message
    assert "not a regular file" in refused_file(Path("/dev/zero")).message
    assert "null byte" in refused_file(tmp_path / "a\0b").message


def test_a_file_that_the_user_may_not_read_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text("version: 1\n")
        path.chmod(0)
        user = os.geteuid()
        try:
            if user == 0:  # nothing is unreadable to root
                os.seteuid(NOBODY)
            problem = refused_file(path)
        finally:
            os.seteuid(user)
    assert "may not be read by this user" in problem.message
    assert "uid" in problem.hint


def test_keys_and_items_have_their_lines() -> None:
    document = yaml.parse(b"\n# comment\na: 1\nb:\n  - x\n  - y: 2\n    'z.z': {q: 3}\n", "f.yaml")
    lines: dict[Loc, int] = {
        (): 3,
        ("a",): 3,
        ("b",): 4,
        ("b", 0): 5,
        ("b", 1, "y"): 6,
        ("b", 1, "z.z", "q"): 7,
    }
    assert {loc: document.line(loc) for loc in lines} == lines
    assert all(document.has(loc) for loc in lines)


def test_a_missing_key_has_the_line_of_its_nearest_ancestor() -> None:
    document = yaml.parse(b"a: 1\nb:\n  - x\n", "f.yaml")
    assert [document.line(loc) for loc in (("c",), ("b", 7), ("b", 0, "x"), ("a", "b"))] == [1, 2, 3, 1]
    assert not document.has(("b", 7))
    assert yaml.parse(b"", "f.yaml").line(("a",)) == 1


def test_a_dump_keeps_comments_order_and_quotes() -> None:
    text = b"# first\nb: 'x'   # why\na:\n- \"1\"\n- name: " + b"word " * 100 + b"end\n"
    document = yaml.parse(text, "f.yaml")
    assert yaml.dump(document.root) == text
    assert isinstance(document.root, CommentedMap)
    document.root["c"] = True
    assert yaml.dump(document.root) == text + b"c: true\n"


def test_dumped_yaml_can_be_read_again() -> None:
    shared = ["a"]
    document = yaml.parse(yaml.dump({"one": shared, "other": shared}), "f.yaml")
    assert document.root == {"one": ["a"], "other": ["a"]}


SNIPPETS = (
    *(
        "a",
        "b:",
        "- ",
        "? ",
        "  ",
        "\n",
        "{",
        "}",
        "[",
        "]",
        ",",
        "&x ",
        "*x",
        "!t ",
        "<<: ",
        "'",
        '"',
        "|\n",
        "#",
        "---\n",
        "...\n",
    ),
    *("%YAML 1.1\n", "2001-01-01", "0x1", "1e3", ".inf", "~", "\t", "\x85", "\u2028", "é", "\r"),
)
YAMLISH = st.lists(st.sampled_from(SNIPPETS), max_size=30).map("".join)


def parsed(data: bytes) -> yaml.Document | ConfigError:
    try:
        return yaml.parse(data, "f.yaml")
    except ConfigError as error:
        return error


@given(
    st.binary(max_size=200)
    | st.text(max_size=100).map(lambda text: text.encode(errors="surrogatepass"))
    | YAMLISH.map(str.encode)
)
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_a_document_or_a_config_error(data: bytes) -> None:
    outcome = parsed(data)
    if isinstance(outcome, yaml.Document):
        assert outcome.line(("a", 0, "b")) >= 1
    else:
        assert outcome.problems
        assert all(
            0 <= problem.line <= data.count(b"\n") + data.count(b"\r") + 1 for problem in outcome.problems
        )
        assert all(problem.message.isprintable() and problem.hint for problem in outcome.problems)


@pytest.mark.parametrize(
    "value", ["", ": v", ": v # kept", ": {b: c}", ":\n  - b", ": |\n  text\n", ":\n  b: c"]
)
@pytest.mark.parametrize("start", ["? a # lost\n", "? a\n# lost\n\n", "x:\n  d: 1 # kept\n? a # lost\n"])
def test_a_comment_of_an_explicit_key_does_not_take_its_value(start: str, value: str) -> None:
    root = yaml.parse(f"{start}{value}\nlast: 1\n".encode(), "config").root
    written = yaml.dump(root)
    assert yaml.parse(written, "again").root == root
    assert b"lost" not in written
    assert written.count(b"kept") == f"{start}{value}".count("kept")
