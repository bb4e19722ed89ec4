"""Rules of an `allow` list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.allow import ANY, KINDS, Rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("uid:alice", Rule("uid", "alice")),
        ("uid:0", Rule("uid", "0")),
        ("uid:007", Rule("uid", "7")),
        ("gid:4294967294", Rule("gid", "4294967294")),
        ("cert:spiffe://example.com/ci", Rule("cert", "spiffe://example.com/ci")),
        ("proxy-user:007", Rule("proxy-user", "007")),
        ("site:factory-7", Rule("site", "factory-7")),
        ("any", Rule("any")),
    ],
)
def test_a_rule_is_read(text: str, rule: Rule) -> None:
    assert Rule.parse(text) == rule


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("alice", "expected uid:NAME, gid:NAME, "),
        ("any:", "expected uid:NAME, "),
        ("UID:alice", "expected uid:NAME, "),
        ("uid:", "expected uid:NAME, "),
        ("user:alice", "expected uid:NAME, "),
        ("uid: alice", "expected 1 to 253 printable characters after uid:"),
        ("cert:a\nb", "expected 1 to 253 printable characters after cert:"),
        ("uid:4294967295", "is larger than 4294967294"),
        ("gid:" + "9" * 200, "is larger than 4294967294"),
    ],
)
def test_an_invalid_rule_gets_the_expected_form(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Rule.parse(text)


@given(st.sampled_from(KINDS), st.text(min_size=1, max_size=20))
def test_a_rule_is_read_as_it_is_written(kind: str, name: str) -> None:
    try:
        rule = Rule.parse(f"{kind}:{name}")
    except ValueError:
        return
    assert Rule.parse(str(rule)) == rule
    assert rule.kind == kind != ANY
