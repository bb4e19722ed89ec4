"""How tables for people look, whatever they show: cells, columns that fit, rows that fit. Pure."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Final

from rich.cells import set_cell_size
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from proxy.runtime.text import for_terminal

LOOK: Final = {
    "up": ("●", "green"),
    "idle": ("○", "green"),
    "up?": ("◐", "yellow"),
    "degraded": ("◐", "yellow"),
    "connecting": ("◌", "yellow"),
    "unknown": ("◌", "yellow"),
    "down": ("○", "red"),
}
"""State -> its symbol and its colour."""
_DAY: Final = 86_400.0
_GAP: Final = 2
_SHORTEST_NAME: Final = 8
_SHORTEST_CELL: Final = 14
"""How far a `~` column is shortened: enough to tell two fingerprints apart."""
_FEWEST_COLUMNS: Final = 2
"""The name and the state are always shown."""


def fair_shares(room: int, wanted: Sequence[int]) -> list[int]:
    """Divide `room` lines into parts. No part gets more than it wants; small wishes are fulfilled first."""
    shares = [0] * len(wanted)
    left = max(room, 0)
    for done, index in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        shares[index] = min(wanted[index], left // (len(wanted) - done))
        left -= shares[index]
    return shares


def lines_of(rows: Sized) -> int:
    """How many lines a table takes: a blank line, the headers, the rows."""
    return len(rows) + 2 if rows else 0


def table(
    headers: Sequence[str], rows: Sequence[list[Text]], width: int, room: int | None = None
) -> list[RenderableType]:
    """A blank line, and columns side by side (`>` ones right-justified); nothing if there are no rows.

    If `width` is too small, the cells of `~` columns and the names in the first column are shortened, then
    columns are left out from the right. Of rows that do not fit into `room` lines, only the number is shown.
    """
    if not rows or room == 0:
        return []
    wanted = [
        max(len(header.lstrip(">~")), *(row[index].cell_len for row in rows))
        for index, header in enumerate(headers)
    ]
    widths = [
        min(want, _SHORTEST_NAME if not index else _SHORTEST_CELL if header[0] == "~" else want)
        for index, (header, want) in enumerate(zip(headers, wanted, strict=True))
    ]
    kept = len(headers)
    while kept > _FEWEST_COLUMNS and _taken(widths[:kept]) > width:
        kept -= 1
    spare = max(width - _taken(widths[:kept]), 0)
    for index in range(kept):
        more = min(spare, wanted[index] - widths[index])
        widths[index] += more
        spare -= more
    fit = len(rows) if room is None or room >= lines_of(rows) else max(room - 3, 0)
    drawn = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for header in headers[:kept]:
        drawn.add_column(header.lstrip(">~"), justify="right" if header[0] == ">" else "left", no_wrap=True)
    for row in rows[:fit]:
        drawn.add_row(*map(_shortened, row[:kept], widths))
    if fit == len(rows):
        return [Text(), drawn]
    counted = _counted(headers, rows[fit:])
    if fit:
        return [Text(), drawn, counted]
    return [Text(), counted] if room and room > 1 else [counted]


def _taken(widths: Sequence[int]) -> int:
    """How wide columns are side by side."""
    return sum(widths) + _GAP * (len(widths) - 1)


def _counted(headers: Sequence[str], left: Sequence[list[Text]]) -> Text:
    """`3 more clusters, 2 of them up`, for the rows that are not shown."""
    what = plural(headers[0].lower(), len(left))
    if "STATE" not in headers:
        return text(f"{len(left)} more {what}", "dim")
    up, idle = (sum(row[1].plain.endswith(word) for row in left) for word in (" up", " idle"))
    return text(
        f"{len(left)} more {what}, {up} of them up{f', {idle} idle' if idle else ''}",
        "dim" if up + idle == len(left) else "yellow",
    )


def plural(word: str, count: int) -> str:
    """`cluster`, `clusters`; `entry`, `entries`."""
    if count == 1:
        return word
    return "entries" if word == "entry" else f"{word}s"


def _shortened(cell: Text, room: int) -> Text:
    """`arn:aws…prod-eu`: a long name keeps its start and its end, which tell more than its middle."""
    if cell.cell_len <= room:
        return cell
    head = room // 3
    start, end = set_cell_size(cell.plain, head), set_cell_size(cell.plain[::-1], room - 1 - head)[::-1]
    return Text(f"{start}…{end}", cell.style)


def state(word: str) -> Text:
    """A state, with its symbol."""
    symbol, colour = LOOK[word]
    return Text(f"{symbol} {word}", colour)


def text(value: str, style: str = "") -> Text:
    """Words from anywhere, on one line and without control characters."""
    return Text(for_terminal(value.replace("\n", " ")), style)


def milliseconds(seconds: float | None) -> Text:
    """`31ms`, `2.5ms`; `-` for none."""
    return Text("-" if seconds is None else f"{seconds * 1000:.{0 if seconds >= 0.01 else 1}f}ms")


def days_left(expiry: float | None, now: float) -> Text:
    """`84d`, or `expired`; both times are Unix time."""
    if expiry is None:
        return Text("-")
    days = (expiry - now) / _DAY
    if days <= 0:
        return Text("expired", "bold red")
    return Text(f"{days:.0f}d", "red" if days < 14 else "yellow" if days < 30 else "")


def bytes_text(count: float) -> str:
    """`512B`, `1.2K`, `45M`, `1.1G`: at most five columns, powers of 1024."""
    for unit in "BKMGT":
        if count < 999.5 or unit == "T":
            break
        count /= 1024
    return f"{count:.1f}{unit}" if unit != "B" and count < 9.95 else f"{count:.0f}{unit}"


def seconds_text(seconds: float) -> str:
    """`0.4s`, `42s`, `3m 20s`, `5h 2m`, `12d 3h`: the two largest units."""
    if seconds < 60:
        return f"{seconds:.{1 if seconds < 10 else 0}f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {rest}s"
