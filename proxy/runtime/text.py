"""Text for people: removes characters that control a terminal, and suggests names for misspelt ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Final

MOST: Final = 200
"""How many characters of a peer's text are shown."""

LISTED: Final = 20
"""How many names a hint lists; more do not fit on a screen."""


def for_terminal(text: str) -> str:
    """`text` without characters that move a terminal's cursor, change its title or reorder a line.

    Line ends stay. Removed are all characters of Unicode's categories C and Z except the space: escape
    sequences of 7 and of 8 bits (C1), changes of direction, separators of lines and paragraphs, and bytes of
    a file name that are not text.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def escaped(text: str) -> str:
    r"""`text` on one line. What is not printable is written as Python writes it: `\n`, `\x9b`, `\u202e`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def in_ascii(text: str, *, most: int = MOST) -> str:
    """`escaped` text in at most `most` ASCII characters, for a protocol that allows only ASCII."""
    line = escaped(text).encode("ascii", "backslashreplace").decode("ascii")
    return line if len(line) <= most else f"{line[: most - 3]}..."


def printable(text: str, *, most: int = MOST) -> str:
    """A peer's text for a log line: at most `most` characters, with spaces for control characters."""
    return "".join(char if char.isprintable() else " " for char in text[:most]).strip()


def suggest(word: str, known: Iterable[str]) -> str:
    """A hint for a name that is not in `known`: the most similar name, and a list of the known ones."""
    names = list(known)
    close = nearest(word, names)
    guess = f"did you mean {close!r}? " if close else ""
    return guess + (f"there are: {listed(names)}" if names else "there are none")


def nearest(word: str, known: Iterable[str]) -> str:
    """The name in `known` that is most similar to `word`; empty if none is similar."""
    return next(iter(difflib.get_close_matches(word[:100], list(known), n=1)), "")


def listed(names: Sequence[str]) -> str:
    """Names for a message: `'a', 'b'`, at most `LISTED` of them."""
    return ", ".join(map(repr, names[:LISTED])) + (", ..." if len(names) > LISTED else "")


def shown(value: object) -> str:
    """`value` for an error message: quoted, on one line, short."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
