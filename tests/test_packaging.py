"""What `pip install .` reads: an editable install that is there already does not notice when that breaks."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import proxy

ROOT = Path(__file__).parents[1]


def test_hatchling_finds_the_version() -> None:
    source = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["version"]
    # As hatchling's "regex" source does it.
    found = re.search(source["pattern"], (ROOT / source["path"]).read_text(), re.MULTILINE)
    assert found is not None
    assert found["version"] == proxy.__version__
