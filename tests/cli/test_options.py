"""Which configuration file a command uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main, options
from proxy.cli.options import user_config


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without /etc/kubemux/config.yaml, and a user without a file."""
    monkeypatch.setattr(options, "DEFAULT_CONFIG", tmp_path / "etc" / "config.yaml")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("KUBEMUX_CONFIG", raising=False)
    return tmp_path


def written(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "version: 1\nclusters: {c: {gateway: direct, listen: '127.0.0.1:16443', api_servers: "
        "['10.0.0.1:6443']}}\n"
    )
    return path


def check(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["check", *map(str, args)])


def test_the_configuration_file_may_be_an_argument_or_an_option(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(home / "any.yaml")
    for args in ([path], ["--config", path]):
        assert check(*args).stdout == f"{path}: ok, 0 gateways, 1 cluster\n"
    monkeypatch.setenv("KUBEMUX_CONFIG", str(home / "missing.yaml"))
    assert check(path).exit_code == 0
    assert check().exit_code == 78
    both = check(path, "--config", path)
    assert (both.exit_code, both.stdout) == (2, "")
    assert "Give FILE or --config, not both" in both.stderr


def test_check_counts_entries_and_routes_where_there_are_some(home: Path) -> None:
    path = written(home / "any.yaml")
    path.write_text(
        f"{path.read_text()}entries: {{proxy: {{listen: '127.0.0.1:3128'}}}}\n"
        "routes: [{name: a, match: ['a:1'], gateway: direct}, {name: b, match: ['b:1'], gateway: direct}]\n"
    )
    assert check(path).stdout == f"{path}: ok, 0 gateways, 1 cluster, 1 entry, 2 routes\n"


def test_a_bad_match_gives_no_second_error_about_the_target(home: Path) -> None:
    path = home / "any.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "version: 1\nroutes: [{name: a, match: ['*.a', '*.b'], gateway: direct, target: '{1}:22'}]\n"
    )
    done = check(path)
    assert (done.exit_code, done.stderr.count("has no port"), done.stderr.count("hint:")) == (78, 2, 2)


def test_run_takes_the_file_as_an_argument(home: Path) -> None:
    (home / "bad.yaml").write_text("version: 2\n")
    shown = CliRunner().invoke(main, ["run", str(home / "bad.yaml")])
    assert shown.exit_code == 78
    assert shown.stderr.startswith(f"{home}/bad.yaml:1: version: ")


def test_a_named_file_comes_before_the_machines_file_and_that_before_the_users(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = written(home / "home" / ".config" / "kubemux" / "config.yaml")
    assert check().stdout.startswith(f"{users}: ok")
    other = written(home / "xdg" / "kubemux" / "config.yaml")
    monkeypatch.setenv("XDG_CONFIG_HOME", "not/absolute")  # is ignored, by the XDG specification
    assert check().stdout.startswith(f"{users}: ok")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))
    assert check().stdout.startswith(f"{other}: ok")
    machines = written(home / "etc" / "config.yaml")
    assert check().stdout.startswith(f"{machines}: ok")
    named = written(home / "named.yaml")
    monkeypatch.setenv("KUBEMUX_CONFIG", str(named))
    assert check().stdout.startswith(f"{named}: ok")
    assert check("--config", machines).stdout.startswith(f"{machines}: ok")


@pytest.mark.parametrize(
    "args",
    [["check"], ["run"], ["status"], ["reload"], ["probe", "c"], ["kubeconfig", "export"]],
    ids=" ".join,
)
def test_without_a_file_the_message_names_every_place(home: Path, args: list[str]) -> None:
    shown = CliRunner().invoke(main, args)
    assert (shown.exit_code, shown.stdout) == (78, "")
    assert f"{home}/etc/config.yaml: " in shown.stderr
    assert (
        f"nor is there {home}/home/.config/kubemux/config.yaml, and KUBEMUX_CONFIG is not set" in shown.stderr
    )
    assert "--config FILE, or KUBEMUX_CONFIG=FILE" in shown.stderr
    assert "nor is there" in shown.stderr.splitlines()[2], "the message comes before anything was done"


def test_an_import_without_a_configuration_fails_and_makes_nothing(home: Path) -> None:
    kubeconfig = home / "kubeconfig"
    kubeconfig.write_text(
        "{contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: "
        "'https://10.0.0.1:6443'}}]}"
    )
    args = ["kubeconfig", "import", "--kubeconfig", str(kubeconfig), "--context", "c", "--gateway", "direct"]
    shown = CliRunner().invoke(main, args)
    assert (shown.exit_code, shown.stdout) == (78, "")
    assert f"{home}/etc/config.yaml: the file does not exist" in shown.stderr
    assert f"nor is there {home}/home/.config/kubemux/config.yaml" in shown.stderr
    assert not (home / "etc").exists()


@pytest.mark.parametrize(
    "args",
    [
        ["check", ""],
        ["run", ""],
        ["check", "--config", ""],
        ["status", "--config", ""],
        ["probe", "c", "--config", ""],
        ["kubeconfig", "export", "--base", ""],
        ["kubeconfig", "export", "--output", ""],
        ["kubeconfig", "import", "--gateway", "direct", "--kubeconfig", ""],
        ["kubeconfig", "import", "--gateway", "direct", "--output", ""],
    ],
    ids=" ".join,
)
def test_an_empty_path_is_a_usage_error(home: Path, args: list[str]) -> None:
    """As in `kubemux check "$FILE"` with FILE unset."""
    shown = CliRunner().invoke(main, args)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "the path is empty: name a file (was a variable in its place not set?)" in shown.stderr


def test_an_empty_variable_names_no_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEMUX_CONFIG", "")
    assert "config.yaml, and KUBEMUX_CONFIG is empty\n" in check().stderr
    users = written(home / "home" / ".config" / "kubemux" / "config.yaml")
    assert check().stdout.startswith(f"{users}: ok")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("folder", "is a directory"),
        ("fifo", "is not a regular file"),
        ("/dev/null", "is not a regular file"),
        ("/dev/zero", "is not a regular file"),
        ("/proc/self/mem", "cannot be read: Input/output error"),
        ("utf-16", "is not UTF-8 text"),
        ("latin-1", "is not UTF-8 text"),
        ("empty", "is empty"),
    ],
)
@pytest.mark.parametrize("command", ["check", "run", "status"])
def test_the_error_says_why_a_file_is_no_configuration(
    home: Path, command: str, name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    (home / "folder").mkdir()
    os.mkfifo(home / "fifo")
    (home / "empty").touch()
    for encoding in ("utf-16", "latin-1"):
        (home / encoding).write_bytes("version: 1  # für alle\n".encode(encoding))
    shown = CliRunner().invoke(main, [command, "--config", name])
    assert (shown.exit_code, shown.stdout) == (78, "")
    assert f"the file {says}\n  hint: " in shown.stderr


def test_an_error_about_a_named_file_does_not_mention_other_places(home: Path) -> None:
    assert "KUBEMUX_CONFIG" not in check(home / "missing.yaml").stderr


def test_a_user_without_a_home_has_no_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", classmethod(nobody))
    assert user_config() is None
    assert check().exit_code == 78
