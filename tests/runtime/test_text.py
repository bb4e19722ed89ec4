"""Text for a terminal, and suggestions for misspelt names."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.runtime.text import escaped, for_terminal, in_ascii, suggest


@given(st.text(st.characters()))
def test_no_terminal_control_characters_are_left(text: str) -> None:
    """No control, format, private, unassigned or surrogate character, and no
    separator but space and newline."""
    for clean in (for_terminal(text), escaped(text) + "\n"):
        assert all(char in " \n" or unicodedata.category(char)[0] not in "CZ" for char in clean)
        clean.encode()
    assert len(for_terminal(text)) == len(text)
    assert "\n" not in escaped(text)


@pytest.mark.parametrize("text", ["", "prod-eu", "Zürich → 東京\n● up", "arn:aws:eks:us-east-1:1:cluster/x"])
def test_printable_text_stays_unchanged(text: str) -> None:
    assert for_terminal(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\x1b[2J", "\\x1b[2J"), ("a\nb\t", "a\\nb\\t"), ("\x9b", "\\x9b"), ("\u202e\u2028", "\\u202e\\u2028")],
)
def test_escaped_uses_the_escapes_of_python(text: str, shown: str) -> None:
    assert escaped(text) == shown


@given(st.text(st.characters()), st.integers(3, 300))
def test_in_ascii_returns_printable_ascii_of_limited_length(text: str, most: int) -> None:
    line = in_ascii(text, most=most)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) <= most


def test_in_ascii_uses_the_escapes_of_python() -> None:
    assert in_ascii("Zürich\n\U0001f600") == "Z\\xfcrich\\n\\U0001f600"
    assert in_ascii("node-a:22", most=9) == "node-a:22"
    assert in_ascii("node-a:22", most=8) == "node-..."


def test_suggest_names_the_closest_match_and_lists_the_rest() -> None:
    assert suggest("prod-us", ["prod-eu", "b c"]) == "did you mean 'prod-eu'? there are: 'prod-eu', 'b c'"
    assert suggest("x", ["it's"]) == 'there are: "it\'s"'
    assert suggest("x", []) == "there are none"
    assert suggest("x", [f"c{number}" for number in range(1000)]).endswith("'c19', ...")
