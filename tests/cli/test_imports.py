"""Commands are imported fast, and the patches for that end with the import."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.cli.imports import uncollected, without_compilers
from tests.support.daemon import ROOT


def test_the_daemon_starts_no_compiler(tmp_path: Path) -> None:
    """asyncssh would start one; these stand-ins for compilers are on PATH and in the working directory."""
    for name in ("gcc", "cc", "ld"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho {name} >>{tmp_path}/started\n")
        program.chmod(0o700)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    search = [sys.executable, "-c", "import asyncssh"]
    run = [sys.executable, "-m", "proxy", "run", "--help"]
    subprocess.run(run, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=60)
    assert not (tmp_path / "started").exists()
    subprocess.run(search, cwd=tmp_path, env=environment, check=True, timeout=60)
    assert (tmp_path / "started").exists(), "asyncssh no longer searches: without_compilers can be removed"


@pytest.mark.parametrize("path", ["/usr/bin", None])
def test_settings_changed_for_an_import_are_restored(
    path: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PATH")
    if path is not None:
        monkeypatch.setenv("PATH", path)
    with uncollected(), without_compilers():
        assert not gc.isenabled()
        assert os.environ["PATH"] == os.devnull
    assert gc.isenabled()
    assert os.environ.get("PATH") == path
