"""Matches a caller against an `allow` list."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.config.allow import ANY, Rule


def is_allowed(rules: Iterable[Rule] | None, identities: frozenset[str]) -> bool:
    """Whether one of `rules` names the caller. None (no list) allows everybody; an empty list allows nobody.

    `identities` are the known identities of the caller, written as in rules: `uid:1002` and `uid:alice`,
    `gid:27`, `cert:ci.example.com`. It is empty for an unknown caller. It must not contain a user or group
    name that is a number: it would match the rule for the user or group with that number.
    """
    return rules is None or any(rule.kind == ANY or str(rule) in identities for rule in rules)
