"""What is wrong with a configuration, and where: a place is named by its keys, which the loader turns into a
line.
"""

from __future__ import annotations

from typing import NamedTuple

Loc = tuple[str | int, ...]
"""The way to a value: mapping keys and list indices from the root."""


class Finding(NamedTuple):
    """Something wrong at `loc`, and its remedy."""

    loc: Loc
    message: str
    hint: str


def dotted(loc: Loc) -> str:
    """`clusters.prod.api_servers[0]`."""
    text = ""
    for key in loc:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += ("." if text else "") + (key if key and key.isprintable() else repr(key))
    return text


def prefixes(loc: Loc) -> set[Loc]:
    """`loc` and every place above it."""
    return {loc[:length] for length in range(len(loc) + 1)}
