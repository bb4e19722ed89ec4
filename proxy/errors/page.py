"""Makes the tables of docs/troubleshooting.md from the list of reasons.

`python -m proxy.errors.page FILE` replaces the tables between the marks in the file, and nothing else.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from proxy.errors.reasons import Reason
from proxy.errors.words import Subject

_MARKED: Final = re.compile(r"(<!-- reasons: (\w+) -->\n).*?(<!-- end of reasons -->)", re.DOTALL)


def table(subject: Subject) -> str:
    """A table with one row for each reason that `subject` can have, in the order of the list."""
    rows = [
        f"| `{reason}` | {_cell(reason.meaning)} | {_cell(reason.remedy) or '-'} |\n"
        for reason in Reason
        if subject in reason.subjects
    ]
    return "".join(["| reason | means | what to do |\n", "| --- | --- | --- |\n", *rows])


def _cell(text: str) -> str:
    return re.sub(r"([|*<])", r"\\\1", text)


def filled(page: str) -> str:
    """`page` with new tables between its marks."""
    return _MARKED.sub(lambda mark: f"{mark[1]}\n{table(Subject(mark[2]))}\n{mark[3]}", page)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(filled(Path(name).read_text()))
