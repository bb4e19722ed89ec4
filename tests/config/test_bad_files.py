"""One bad file for each mistake. Its `# expect:` lines are the whole report of `kubemux check`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.config import loader
from proxy.errors import ConfigError
from tests.support.ssh_keys import new_key, public

FOLDER = Path(__file__).parents[2] / "config"
BAD = sorted((FOLDER / "bad").glob("*.yaml"))
EXPECT = re.compile(r"# expect: line=(\d+) key=(\S+) text=(.+)")


def expected(path: Path, material: Path) -> list[tuple[int, str, str]]:
    found = EXPECT.findall(path.read_text())
    return [
        (int(line), "" if key == "-" else key, text.replace("${KUBEMUX_TEST}", str(material)))
        for line, key, text in found
    ]


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_is_reported_in_full(path: Path, material: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loader.load(path)
    problems = [(problem.line, problem.key, problem.message) for problem in caught.value.problems]
    assert problems == expected(path, material)
    assert all(problem.hint for problem in caught.value.problems)


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_check_prints_the_report_and_exits_78(path: Path, material: Path) -> None:
    result = CliRunner().invoke(main, ["check", "--config", str(path)])
    assert (result.exit_code, result.stdout) == (78, "")
    for line, key, text in expected(path, material):
        where = f"{path}:{line}: " if line else f"{path}: "
        assert f"{where}{key + ': ' if key else ''}{text}\n  hint: " in result.stderr
    assert "Traceback" not in result.stderr


def test_check_as_a_process_prints_the_mistake_and_exits_78(material: Path) -> None:
    path = FOLDER / "bad" / "unknown_key.yaml"
    command = [sys.executable, "-m", "proxy", "check"]
    env = {**os.environ, "KUBEMUX_CONFIG": str(path), "KUBEMUX_TEST": str(material)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (78, "")
    assert f"{path}:{expected(path, material)[0][0]}: gateways.edge.hots: unknown key" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("material")
def test_another_version_says_which_one_is_read() -> None:
    with pytest.raises(ConfigError) as caught:
        loader.load(FOLDER / "bad" / "wrong_version.yaml")
    assert [problem.hint for problem in caught.value.problems] == ["this kubemux reads version 1"]


def test_check_accepts_a_good_file(material: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    text = (FOLDER / "minimal.yaml").read_text().replace("bastion.eu.example.com", "bastion.example.com")
    for name, there in {
        "${CREDENTIALS_DIRECTORY}/eu-edge": "key",
        "/etc/kubemux/prod-eu.crt": "ca.crt",
    }.items():
        text = text.replace(name, f"{material}/{there}")
    path.write_text(text.replace("/etc/kubemux", str(material)))
    result = CliRunner().invoke(main, ["check", "--config", str(path)])
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{path}: ok, 1 gateway, 1 cluster\n", "")


@pytest.mark.parametrize("text", ["version: 1\n", "version: 1\nclusters:\n"])
def test_check_warns_of_a_file_without_clusters(tmp_path: Path, text: str) -> None:
    """The file may have been cut off, but it is valid."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    result = CliRunner().invoke(main, ["check", "--config", str(path)])
    assert (result.exit_code, result.stdout) == (0, f"{path}: ok, 0 gateways, 0 clusters\n")
    assert result.stderr.splitlines() == [
        f"WARNING: {path}: clusters: there is none; a reload with this file removes every cluster",
        "  hint: is the file complete? config/example.yaml shows how clusters are written",
    ]


def test_check_does_not_warn_of_a_file_that_has_sites_and_no_cluster(tmp_path: Path) -> None:
    key = new_key(tmp_path / "key")
    path = tmp_path / "config.yaml"
    (tmp_path / "site").write_text(f"{public(key)}\n")
    (tmp_path / "site").chmod(0o644)
    path.write_text(
        f'version: 1\nssh_server: {{listen: "127.0.0.1:2222", host_keys: [{key}]}}\n'
        f"sites: {{factory-7: {{authorized_keys: [{tmp_path}/site], permit: ['*:22']}}}}\n"
    )
    result = CliRunner().invoke(main, ["check", "--config", str(path)])
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.usefixtures("material")
def test_a_secret_where_its_file_was_asked_for_is_not_repeated() -> None:
    result = CliRunner().invoke(
        main, ["check", "--config", str(FOLDER / "bad" / "secret_instead_of_path.yaml")]
    )
    assert "passphrase_file" in result.stderr
    assert "battery" not in result.output


@pytest.mark.parametrize(
    ("stem", "hint"),
    [
        (
            "undefined_variable",
            "set it where kubemux is started, or write the path itself: for example known_hosts: [",
        ),
        ("unquoted_variable", 'put what has a variable in quotes: ["${NAME}/FILE"]'),
    ],
)
@pytest.mark.usefixtures("material")
def test_the_hint_says_what_is_wrong_with_a_variable(stem: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loader.load(FOLDER / "bad" / f"{stem}.yaml")
    assert hint in caught.value.problems[0].hint
