"""Whether an `allow` list lets a caller in."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.config.allow import ANY, Rule


def is_allowed(rules: Iterable[Rule] | None, identities: frozenset[str]) -> bool:
    """Whether one of `rules` names the caller. Without a list everybody may; an empty one lets nobody in.

    `identities` is all that is known of the caller, in the words of the rules: `uid:1002` and `uid:alice`,
    `gid:27`, `cert:ci.example.com`. It is empty for a caller that nobody knows. A user or group whose name is
    a number must not be in it by that name: it would pass for the one with that number.
    """
    return rules is None or any(rule.kind == ANY or str(rule) in identities for rule in rules)
