"""The tables of `kubemux status` that show who is logged in at the SSH server. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.text import Text

from proxy.cli.grid import seconds_text, text
from proxy.snapshots import LoginSnapshot, UserSnapshot

Rows = tuple[list[str], list[list[Text]]]
"""The headers and the rows of a table."""

_HEADERS: Final = ["USER", "FROM", ">FOR", ">CHANNELS", "~KEY", "~OPEN"]


def users(found: Iterable[UserSnapshot]) -> Rows:
    """A row for each user who is logged in: the age of the oldest login, and the address of the newest."""
    rows = [
        [
            text(user.identity, "bold"),
            Text(f"{len(user.logins)}/{user.most}"),
            Text(str(sum(login.channels for login in user.logins))),
            Text(seconds_text(user.logins[0].age)),
            text(user.logins[-1].address),
        ]
        for user in found
        if user.logins
    ]
    return ["USER", ">LOGINS", ">CHANNELS", ">FOR", "FROM"], rows


def logins(found: Iterable[UserSnapshot]) -> Rows:
    """A row for each connection; a user without one has a row that says so."""
    return _HEADERS, [
        [text(user.identity, "bold"), *cells]
        for user in found
        for cells in map(_cells, user.logins or (None,))
    ]


def _cells(login: LoginSnapshot | None) -> list[Text]:
    if login is None:
        return [Text("-")] * (len(_HEADERS) - 1)
    return [
        text(login.address),
        Text(seconds_text(login.age)),
        Text(str(login.channels)),
        text(login.certificate or login.key),
        text(" ".join(login.open) or "-"),
    ]
