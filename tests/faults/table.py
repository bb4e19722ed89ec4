"""Prints the matrix as a table at the end of a run.

It is a plugin, because with several workers only the main process prints.
"""

from __future__ import annotations

import json
from typing import Final

import pytest

PROPERTY: Final = "fault"
_HEADS: Final = (
    "fault",
    "plane",
    "that gateway's clients saw",
    "others saw",
    "back after",
    "leaks",
    "it is called",
)

_found: list[dict[str, object]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        _found.extend(json.loads(str(value)) for name, value in report.user_properties if name == PROPERTY)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _found:
        terminalreporter.section("faults")
        for line in lines(_found):
            terminalreporter.write_line(line)


def lines(found: list[dict[str, object]]) -> list[str]:
    """The table of these findings (`proof.Finding.record`): the headings, then a line for each, by fault."""
    cells = [
        _HEADS,
        *(_cells(one) for one in sorted(found, key=lambda one: (str(one["row"]), str(one["plane"])))),
    ]
    widths = [max(len(line[n]) for line in cells) for n in range(len(_HEADS))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _cells(one: dict[str, object]) -> tuple[str, ...]:
    recovery = one["recovery"]
    back = f"{recovery:.2f} s" if isinstance(recovery, float) else "-"
    return (
        *(str(one[key]) for key in ("row", "plane", "clients", "others")),
        back,
        str(one["leaks"]),
        str(one["says"]),
    )
