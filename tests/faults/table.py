"""The matrix as a table at the end of a run: a plugin, because with workers only the main process prints."""

from __future__ import annotations

import json
from typing import Final

import pytest

PROPERTY: Final = "fault"
_HEADS: Final = ("fault", "plane", "that gateway's clients saw", "others saw", "back after", "leaks", "it is called")

_found: list[dict[str, object]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        _found.extend(json.loads(str(value)) for name, value in report.user_properties if name == PROPERTY)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _found:
        return
    lines = [_HEADS, *(_line(found) for found in sorted(_found, key=lambda found: (str(found["row"]), str(found["plane"]))))]
    widths = [max(len(line[n]) for line in lines) for n in range(len(_HEADS))]
    terminalreporter.section("faults")
    for line in lines:
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _line(found: dict[str, object]) -> tuple[str, ...]:
    recovery = found["recovery"]
    back = f"{recovery:.2f} s" if isinstance(recovery, float) else "-"
    return (
        str(found["row"]),
        str(found["plane"]),
        str(found["clients"]),
        str(found["others"]),
        back,
        str(found["leaks"]),
        str(found["says"]),
    )
