"""The packaging metadata, which `pip install .` reads. A developer's editable install would not notice a
mistake.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import proxy
from tests.support import parts

ROOT = Path(__file__).parents[1]


def test_hatchling_finds_the_version() -> None:
    source = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["version"]
    # As hatchling's "regex" source does it.
    found = re.search(source["pattern"], (ROOT / source["path"]).read_text(), re.MULTILINE)
    assert found is not None
    assert found["version"] == proxy.__version__


def test_the_newest_release_of_the_changelog_is_this_version() -> None:
    released = re.findall(r"^## \[(\d[\d.]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == proxy.__version__


def test_the_wheel_has_the_code_the_licence_and_the_command(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    if done.returncode:
        parts.missing("package index", done.stderr)
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as content:
        names = set(content.namelist())
        info = f"kubemux-{proxy.__version__}.dist-info"
        metadata = content.read(f"{info}/METADATA").decode()
        assert "kubemux = proxy.__main__:program" in content.read(f"{info}/entry_points.txt").decode()
    assert f"{info}/licenses/LICENSE" in names
    code = {name for name in names if not name.startswith(info)}
    assert code == {str(path.relative_to(ROOT)) for path in (ROOT / "proxy").rglob("*.py")}
    assert {"License-Expression: Apache-2.0", "Author: kubemux contributors"} <= set(metadata.splitlines())
    assert re.search(r"^Requires-Dist: prometheus-client", metadata, re.MULTILINE)
    assert "\n# kubemux\n" in metadata, "the README is the description of the package"
