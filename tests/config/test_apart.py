"""A child process reads the same configuration, and reports the same mistakes, as this process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from proxy.config import apart, loader
from proxy.config.apart import Loaded
from proxy.errors import ConfigError
from proxy.runtime import program
from tests.support.daemon import ROOT
from tests.support.shim import Shim

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


def read(path: Path) -> Loaded:
    return asyncio.run(apart.load(path))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HERE", str(tmp_path))
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def test_the_child_process_reads_the_same_configuration(file: Path) -> None:
    assert read(file).config == loader.load(file)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "version: 2\nclusters: {x: {}}\n",
        "a: [",
        "version: 1\n" + "".join(f"k{n}: 1\n" for n in range(300)),
    ],
)
def test_the_child_process_reports_the_same_mistakes(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as here:
        loader.load(file)
    with pytest.raises(ConfigError) as there:
        read(file)
    assert (str(there.value), there.value.render(), there.value.hint) == (
        str(here.value),
        here.value.render(),
        here.value.hint,
    )


def test_each_python_warning_has_a_warning_here(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = program.run

    async def warned(command: Sequence[str], *, environment: Mapping[str, str], most: int) -> program.Ran:
        ran = await run(command, environment=environment, most=most)
        return ran._replace(errors=b"x509.py:7: OddWarning: odd\n  load()\n")

    monkeypatch.setattr(program, "run", warned)
    with pytest.warns(RuntimeWarning, match="^x509.py:7: OddWarning: odd"):
        assert read(file).config == loader.load(file)


def test_a_relative_path_means_the_same_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert read(Path(file.name)).config == loader.load(file)


def test_a_reader_that_cannot_start_or_crashes_is_a_config_error(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(file.parent / "nothing"))
    with pytest.raises(ConfigError, match="1 problem") as missing:
        read(file)
    assert "No such file" in missing.value.render()
    for script, why in (("exit 3", "exit code 3"), ("kill -KILL $$", "SIGKILL")):
        reader = file.parent / "reader"
        reader.write_text(f"#!/bin/sh\n{script}\n")
        reader.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(reader))
        with pytest.raises(ConfigError) as crashed:
            read(file)
        assert why in crashed.value.render()


def test_the_configuration_is_unpickled_without_the_parser(file: Path) -> None:
    code = "import asyncio, pathlib, sys; from proxy.config.apart import load; "
    code += "asyncio.run(load(pathlib.Path(sys.argv[1]))); print({'ruamel', 'pydantic'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code, file], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "set()\n"


KEYS = """\
version: 1
gateways:
  dead: {host: dead.example, user: u, known_hosts: ["${HERE}/known_hosts"],
         identity_files: ["${HERE}/nfs/key"]}
  edge: {host: edge.example, user: u, known_hosts: ["${HERE}/known_hosts"],
         identity_files: ["${HERE}/key"]}
"""


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on which the reader's calls hang."""
    shim = Shim(tmp_path)
    for name, value in shim.environment.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "nfs"
    folder.mkdir()
    shim.hang(folder)
    yield folder
    shim.close()


@pytest.mark.gcc
def test_a_key_file_that_hangs_is_named_and_is_no_mistake(file: Path, disk: Path) -> None:
    file.write_text(KEYS)
    for path in (file.parent / "key", file.parent / "known_hosts", disk / "key"):
        path.touch(mode=0o600)
    found = read(file)
    assert set(found.config.gateways) == {"dead", "edge"}
    [problem] = found.hanging
    assert (problem.line, problem.key) == (3, "gateways.dead")
    assert problem.message.startswith(f"reading {disk / 'key'} has been hanging since 20")
    assert file.parent / "key" in found.fingerprint
    assert disk / "key" not in found.fingerprint


@pytest.mark.gcc
def test_a_configuration_file_that_hangs_is_named(disk: Path) -> None:
    path = disk / "config.yaml"
    with pytest.raises(ConfigError) as failure:
        read(path)
    assert f"reading {path} has been hanging since 20" in failure.value.render()


@pytest.mark.gcc
def test_a_check_names_the_file_that_hangs(file: Path, disk: Path) -> None:
    file.write_text(KEYS)
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "check", "--config", file],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 78
    assert f"{file}:3: gateways.dead: reading {disk / 'key'} has been hanging since 20" in done.stderr
    assert "edge" in done.stderr, "together with all other mistakes"
