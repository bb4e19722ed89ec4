"""Files that another process writes or reads meanwhile."""

from __future__ import annotations

from pathlib import Path


def whole_lines(path: Path) -> list[str]:
    """The lines of `path` that end with a newline; none if there is no file.

    A reader can see the first part of a line alone: the kernel copies a `write` page by page, and adds to
    the file's length after each page.
    """
    text = path.read_text() if path.is_file() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def replace(path: Path, text: str) -> None:
    """Write the whole file at once: whoever reads it meanwhile gets the old content or the new one."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)
