"""What the README tells people to type."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_README: Final = Path(__file__).parents[2] / "README.md"


def shell(heading: str) -> str:
    """The first shell block below `heading`, word for word."""
    found = re.search(
        rf"^##+ {re.escape(heading)}\n.*?^```sh\n(.*?)^```$", _README.read_text(), re.DOTALL | re.MULTILINE
    )
    assert found, f"README.md has no shell block below {heading}"
    return found[1]
