"""What is wrong with a configuration, and at which key. The loader finds the line that belongs to the key."""

from __future__ import annotations

from typing import NamedTuple

Loc = tuple[str | int, ...]
"""Where a value is in the file: the mapping keys and list indices that lead to it from the root."""


class Finding(NamedTuple):
    """One mistake: where it is, what is wrong, and the remedy."""

    loc: Loc
    message: str
    hint: str


def dotted(loc: Loc) -> str:
    """`loc` as messages show it: `clusters.prod.api_servers[0]`."""
    text = ""
    for key in loc:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += ("." if text else "") + (key if key and key.isprintable() else repr(key))
    return text


def prefixes(loc: Loc) -> set[Loc]:
    """`loc` itself and each mapping or list that contains it, up to the root."""
    return {loc[:length] for length in range(len(loc) + 1)}
