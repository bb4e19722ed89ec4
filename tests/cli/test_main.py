"""What all commands have in common: help without imports, exit codes, and never a traceback."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from proxy import cli
from proxy.errors import ConfigError, ListenError, Problem, ProxyError, UnknownName

HOSTILE = "\x1b]0;owned\x07\x9b2J\x85\u202egpj.exe\u2028kubemux: all is well\r\udc9b"
"""Text with 7-bit and C1 escapes, an override of direction, line separators, and a byte that is not valid
text.
"""
COMMANDS = [
    "run",
    "check",
    "schema",
    "demo",
    "status",
    "probe",
    "route",
    "connect",
    "ssh-config",
    "ssh-server",
    "site",
    "kubeconfig",
]
COMMANDS += ["reload", "reconnect", "drain"]


def kubemux(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "proxy", *args]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **env}
    )


def failing(error: BaseException, **env: str) -> Result:
    """Run a command that raises `error`."""

    @click.command("check")
    def check() -> None:
        raise error

    class OneCommand(cli._Commands):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
            return check

    return CliRunner().invoke(OneCommand(name="kubemux"), ["check"], env=env)


def test_help_lists_every_command_with_a_line_each() -> None:
    shown = kubemux("--help")
    assert shown.returncode == 0
    listed = [line.split() for line in shown.stdout.partition("Commands:\n")[2].splitlines()]
    assert [words[0] for words in listed] == COMMANDS
    assert all(len(words) > 2 for words in listed)
    assert "78 bad configuration" in shown.stdout


def test_the_version_is_printed() -> None:
    assert kubemux("--version").stdout.startswith("kubemux, version ")


@pytest.mark.parametrize("args", [["nope"], ["status", "--nope"], ["reconnect"], []])
def test_usage_errors_exit_2(args: list[str]) -> None:
    shown = CliRunner().invoke(cli.main, args)
    assert shown.exit_code == 2
    assert "Usage: " in shown.output


@pytest.mark.parametrize(
    ("args", "guess"),
    [
        (["staus"], "did you mean 'status'?"),
        (["kubeconfig", "exprot"], "did you mean 'export'?"),
        (["status", "--watc"], "Did you mean '--watch'?"),
    ],
)
def test_a_misspelt_command_or_option_gets_a_suggestion(args: list[str], guess: str) -> None:
    shown = CliRunner().invoke(cli.main, args)
    assert shown.exit_code == 2
    assert guess in shown.stderr


@pytest.mark.parametrize("name", ["status", "reload", "reconnect", "drain"])
def test_commands_that_ask_the_daemon_import_no_ssh_library_and_no_server(name: str) -> None:
    """The HTTP client is imported only when a command asks a daemon."""
    code = (
        "import sys; from proxy.cli import main; main(sys.argv[1:], standalone_mode=False); "
        "print({'asyncssh', 'uvicorn', 'starlette', 'anyio', 'httpx2'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_daemon_imports_no_tables_and_no_parser() -> None:
    """The daemon must not import what only commands need: 100 clusters should take less than half the memory
    of 100 `ssh -L`.
    """
    code = (
        "import sys, click, proxy.cli; proxy.cli.main.get_command(click.Context(proxy.cli.main), "
        "'run'); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"asyncssh", "uvloop", "structlog", "proxy"} <= loaded
    assert not {"rich", "ruamel", "pydantic", "hypothesis", "httpx2", "httpcore2"} & loaded
    assert not {"websockets", "wsproto", "httptools", "watchfiles", "yaml", "multipart"} & loaded
    assert "importlib.metadata" not in done.stdout


def test_a_bad_configuration_exits_78_with_the_whole_report() -> None:
    error = ConfigError(
        "/k.yaml", [Problem(3, "clusters.x", "bad port", "use 1-65535"), Problem(9, "", "worse")]
    )
    shown = failing(error)
    assert shown.exit_code == 78
    assert shown.stderr == "/k.yaml:3: clusters.x: bad port\n  hint: use 1-65535\n/k.yaml:9: worse\n"
    assert shown.stdout == ""


def test_a_failure_exits_1_with_a_line_and_a_hint() -> None:
    shown = failing(ListenError("admin.listen 127.0.0.1:9464: busy", hint="choose another"))
    assert (shown.exit_code, shown.stderr) == (
        1,
        "kubemux: admin.listen 127.0.0.1:9464: busy\n  hint: choose another\n",
    )
    assert failing(ProxyError("odd", hint="")).stderr == "kubemux: odd\n"
    assert failing(ProxyError("odd")).stderr.startswith(
        "kubemux: odd\n  hint: this is a bug: please report it"
    )


@pytest.mark.parametrize(
    "error",
    [
        ProxyError(f"refused: {HOSTILE}", hint=HOSTILE),
        UnknownName.among("cluster", HOSTILE, [HOSTILE]),
        ConfigError(HOSTILE, [Problem(1, HOSTILE, HOSTILE, HOSTILE)]),
        click.UsageError(HOSTILE),
        OSError(5, HOSTILE, HOSTILE),
        RuntimeError(HOSTILE),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("debug", ["", "1"])
def test_text_from_the_peer_cannot_control_the_terminal(error: Exception, debug: str) -> None:
    said = failing(error, KUBEMUX_DEBUG=debug).output
    assert said
    assert all(char.isprintable() or char == "\n" for char in said), ascii(said)


@pytest.mark.parametrize("path", sorted(Path(cli.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_commands_write_only_through_the_functions_that_filter(path: Path) -> None:
    """All output goes through `say`, `note` and `complain`, which remove terminal control characters."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    named = {ast.unparse(call) for call in calls} & {
        "print",
        "click.echo",
        "click.secho",
        "sys.stdout.write",
        "sys.stderr.write",
    }
    assert not named or path.name == "__init__.py"


def test_interrupted_exits_130_quietly() -> None:
    shown = failing(KeyboardInterrupt())
    assert (shown.exit_code, shown.output) == (130, "")


def test_a_reader_that_disconnects_is_not_reported() -> None:
    shown = failing(BrokenPipeError(32, "Broken pipe"))
    assert (shown.exit_code, shown.output) == (1, "")


@pytest.mark.parametrize(("debug", "lines"), [("", 2), ("1", 0)])
def test_a_bug_is_one_line_that_names_the_place_of_the_traceback(debug: str, lines: int) -> None:
    shown = failing(ZeroDivisionError("by zero"), KUBEMUX_DEBUG=debug)
    assert shown.exit_code == 1
    assert "kubemux: internal error: ZeroDivisionError: by zero; this is a bug" in shown.stderr
    assert ("Traceback" in shown.stderr) == bool(debug)
    if lines:
        assert len(shown.stderr.splitlines()) == lines
        assert "KUBEMUX_DEBUG=1" in shown.stderr
