"""Which callers an `allow` list allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.allow import Rule
from proxy.routing.allow import is_allowed

ALICE = frozenset({"uid:1002", "uid:alice", "gid:27", "gid:sre"})
NOBODY: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("allow", "identities", "lets_in"),
    [
        (["uid:alice"], ALICE, True),
        (["uid:01002"], ALICE, True),
        (["gid:sre"], ALICE, True),
        (["uid:bob", "gid:27"], ALICE, True),
        (["uid:27"], ALICE, False),
        (["gid:alice"], ALICE, False),
        (["uid:Alice"], ALICE, False),
        (["cert:ci.example.com"], frozenset({"cert:ci.example.com"}), True),
        (["cert:alice"], ALICE, False),
        (["proxy-user:ci"], frozenset({"ssh-user:ci"}), False),
        (["uid:0"], NOBODY, False),
        (["any"], ALICE, True),
        (["any"], NOBODY, True),
        ([], ALICE, False),
        (None, NOBODY, True),
    ],
)
def test_an_allow_list_decides_which_callers_are_let_in(
    allow: list[str] | None, identities: frozenset[str], lets_in: bool
) -> None:
    rules = None if allow is None else tuple(map(Rule.parse, allow))
    assert is_allowed(rules, identities) is lets_in


RULES = st.builds(Rule, st.sampled_from(["uid", "gid", "cert"]), st.sampled_from(["1", "2", "alice"]))


@given(st.lists(RULES), st.frozensets(RULES.map(str)))
def test_a_list_lets_in_only_named_callers(rules: list[Rule], identities: frozenset[str]) -> None:
    assert is_allowed(rules, identities) is any(str(rule) in identities for rule in rules)
