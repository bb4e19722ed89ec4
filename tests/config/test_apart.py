"""A configuration read by a child process is the one read here, and so are its mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.config import apart, loader
from proxy.errors import ConfigError

CONFIG = """\
version: 1
admin: {listen: "127.0.0.1:9464", socket: "${HERE}/admin.sock"}
clusters:
  "arn:aws:eks:cluster/one":
    gateway: direct
    listen: "127.0.0.1:16443"
    api_servers: ["10.0.0.10:6443", "[::1]:6443"]
    probe: {interval: 1.5m}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HERE", str(tmp_path))
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def test_it_is_the_same_configuration(file: Path) -> None:
    assert apart.load(file) == loader.load(file)


@pytest.mark.parametrize(
    "text", ["", "version: 2\nclusters: {x: {}}\n", "a: [", "version: 1\n" + "".join(f"k{n}: 1\n" for n in range(300))]
)
def test_so_are_its_mistakes(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as here:
        loader.load(file)
    with pytest.raises(ConfigError) as there:
        apart.load(file)
    assert (str(there.value), there.value.render(), there.value.hint) == (str(here.value), here.value.render(), here.value.hint)


def test_a_relative_path_means_the_same_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert apart.load(Path(file.name)) == loader.load(file)


def test_a_reader_that_cannot_start_or_crashes_is_a_mistake_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(file.parent / "nothing"))
    with pytest.raises(ConfigError, match="1 problem") as missing:
        apart.load(file)
    assert "No such file" in missing.value.render()
    for script, why in (("exit 3", "exit code 3"), ("kill -KILL $$", "SIGKILL")):
        reader = file.parent / "reader"
        reader.write_text(f"#!/bin/sh\n{script}\n")
        reader.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(reader))
        with pytest.raises(ConfigError) as crashed:
            apart.load(file)
        assert why in crashed.value.render()


def test_the_parser_does_not_come_back_with_the_configuration(file: Path) -> None:
    code = "import pathlib, sys, proxy.config.apart as a; a.load(pathlib.Path(sys.argv[1])); print('ruamel' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
