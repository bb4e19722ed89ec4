"""The Markdown pages of the repository: their blocks, links and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_FENCE: Final = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")


def pages() -> list[str]:
    """The path of every page, from the root of the repository."""
    return sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))


def read(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text()


def block(page: str, heading: str, language: str) -> str:
    """The first block in `language` (an expression) below `heading`, word for word."""
    found = re.search(
        rf"^##+ {re.escape(heading)}\n.*?^```{language}\n(.*?)^```$", read(page), re.DOTALL | re.MULTILINE
    )
    assert found, f"{page} has no block in {language} below {heading}"
    return found[1]


def shell(page: str, heading: str) -> str:
    """The first shell block below `heading`, word for word."""
    return block(page, heading, "sh(?:ell)?")


def shells(page: str) -> list[str]:
    """Every shell block."""
    return re.findall(r"^```sh(?:ell)?\n(.*?)^```$", read(page), re.DOTALL | re.MULTILINE)


def prose(page: str) -> list[str]:
    """The lines outside code blocks."""
    return _FENCE.sub("", read(page)).splitlines()


def links(page: str) -> list[str]:
    """The targets of its links to files of the repository, as they are written."""
    found = _LINK.findall("\n".join(prose(page)))
    return [link for link in found if not link.startswith(("https:", "http:", "mailto:"))]


def anchors(page: str) -> set[str]:
    """The anchors of its headings, which a link to the page may have after `#`."""
    headings = [line.lstrip("#").strip() for line in prose(page) if re.match("#{1,6} ", line)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(page: str, first: str) -> Iterator[list[str]]:
    """The cells of each row of the table whose first heading is `first`."""
    lines = iter(prose(page))
    for line in lines:
        if line.startswith(f"| {first} |"):
            next(lines)
            for row in lines:
                if not row.startswith("|"):
                    return
                yield [cell.strip() for cell in row.strip("|").split(" | ")]
            return
    raise AssertionError(f"{page} has no table that begins with {first}")
