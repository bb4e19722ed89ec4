"""Expands values of an ssh_config: a leading `~`, `%` tokens and `${VARIABLE}` (ssh_config(5), TOKENS). Pure.

`ssh -G` prints some options without expanding them. As in OpenSSH, `~` is expanded first; tokens and
variables follow in one pass, so that nothing is expanded twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_TOKEN = re.compile(r"%(.?)|\$\{([^}]*)(\}?)", re.DOTALL)


def expand(text: str, tokens: Mapping[str, str], environ: Mapping[str, str] | None = None) -> str:
    """`text` with its tokens expanded, and with its variables expanded if `environ` is given.

    Raises ValueError where ssh(1) would fail.
    """

    def replace(match: re.Match[str]) -> str:
        letter, variable, end = match.groups()
        if letter is not None:
            if letter == "%":
                return "%"
            if letter not in tokens:
                raise ValueError(f"there is no token %{letter} for it")
            return tokens[letter]
        if environ is None:
            return match[0]
        if not end or not variable:
            raise ValueError(f"{match[0]} is no variable")
        if variable not in environ:
            raise ValueError(f"environment variable {variable} is not set")
        return environ[variable]

    return _TOKEN.sub(replace, text)


def tilde(text: str, home: Callable[[str], str]) -> str:
    """`text` with the home directory in place of a leading `~` or `~USER`. `home("")` is our own user's.

    `home` raises ValueError.
    """
    if not text.startswith("~"):
        return text
    user, _, rest = text[1:].partition("/")
    return home(user).removesuffix("/") + "/" + rest.lstrip("/")
