"""Words for people: without what could drive a terminal, and with a guess at what a misspelt name was meant
to be.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Final

MOST: Final = 200
"""Characters of a peer's words."""

LISTED: Final = 20
"""Names in a hint: a screenful."""


def for_terminal(text: str) -> str:
    """`text` without what could move a terminal's cursor, change its title or reorder a line; ends of lines
    stay.

    That is every character of Unicode's categories C and Z but the space: escape sequences of 7 and of 8 bits
    (C1), overrides of the direction, separators of lines and paragraphs, and bytes of a file's name that are
    no text.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def escaped(text: str) -> str:
    r"""`text` on one line, what is not printable written as Python would write it: `\n`, `\x9b`, `\u202e`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def printable(text: str, *, most: int = MOST) -> str:
    """A peer's words, fit for a log line: no control characters, and no more characters than help anybody."""
    return "".join(char if char.isprintable() else " " for char in text[:most]).strip()


def suggest(word: str, known: Iterable[str]) -> str:
    """A hint for a name that is not among `known`: the closest one, and those there are."""
    names = list(known)
    close = difflib.get_close_matches(word[:100], names, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return guess + (f"there are: {listed(names)}" if names else "there are none")


def listed(names: Sequence[str]) -> str:
    """`'a', 'b'`: names as messages list them, quoted as in the rest of the sentence, a screenful at most."""
    return ", ".join(map(repr, names[:LISTED])) + (", ..." if len(names) > LISTED else "")


def shown(value: object) -> str:
    """`value` as an error message may show it: quoted, on one line, short."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
