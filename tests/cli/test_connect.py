"""`kubemux connect` with arguments that are not plain: help, usage errors, and an entry of the
configuration.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main
from proxy.connect import command
from proxy.runtime.endpoint import Endpoint, UnixPath
from tests.connect.scripted import ACCEPTED, ended, kubemux

CONFIG = """
version: 1
entries:
  proxy: {listen: "127.0.0.1:3128"}
  other: {listen: "127.0.0.1:3129"}
"""


def connect(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(main, ["connect", *words], env={"KUBEMUX_ENTRY": "", **environment})


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[command.Order]:
    """The orders that would have been run."""
    orders: list[command.Order] = []

    def run(order: command.Order) -> int:
        orders.append(order)
        return len(orders) - 1

    monkeypatch.setattr("proxy.cli.connect.run", run)
    return orders


def test_the_help_says_why_to_name_the_entry() -> None:
    words = " ".join(connect("--help").output.split())
    assert "With an address the command starts faster, and does not read the configuration." in words


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nb"], "Missing argument 'PORT'"),
        (["nb", "22", "more"], "unexpected extra argument (more)"),
        (["nb", "ssh", "--entry", "unix:/x"], "expected HOST:PORT or [IPV6]:PORT, got 'nb:ssh'."),
        (["n b", "22", "--entry", "unix:/x"], "'n b' is neither a host name nor an IP address."),
        (
            ["nb", "22", "--entry", "/run/proxy.sock"],
            "got '/run/proxy.sock'; or unix:PATH, or the name of an entry.",
        ),
        (["nb", "22", "--entry", ""], "expected HOST:PORT"),
        (["nb", "22", "--fdpas"], "Did you mean '--fdpass'?"),
    ],
)
def test_mistakes_in_usage_are_named(words: list[str], says: str) -> None:
    done = connect(*words)
    assert done.exit_code == 2
    assert says in done.output


def test_the_entry_comes_from_the_configuration_or_the_environment(
    tmp_path: Path, ran: list[command.Order]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    assert connect("nb", "22", "--config", str(path)).exit_code == 0
    assert connect("--fdpass", "--", "nb", "22", KUBEMUX_ENTRY="unix:/e.sock").exit_code == 1
    nb = Endpoint("nb", 22)
    assert ran == [
        command.Order(Endpoint("127.0.0.1", 3128), nb, False),
        command.Order(UnixPath("/e.sock"), nb, True),
    ]


def test_an_entry_on_a_unix_socket_comes_first(tmp_path: Path, ran: list[command.Order]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"{CONFIG}  local: {{listen: 'unix:/run/kubemux-entries/local.sock'}}\n")
    assert connect("nb", "22", "--config", str(path)).exit_code == 0
    assert [order.entry for order in ran] == [UnixPath("/run/kubemux-entries/local.sock")]


def test_an_entry_may_be_called_by_its_name(tmp_path: Path, ran: list[command.Order]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    assert connect("nb", "22", "--entry", "other", "--config", str(path)).exit_code == 0
    assert connect("nb", "22", "--config", str(path), KUBEMUX_ENTRY="other").exit_code == 1
    assert [order.entry for order in ran] == [Endpoint("127.0.0.1", 3129)] * 2
    done = connect("nb", "22", "--entry", "othr", "--config", str(path))
    assert done.exit_code == 2
    assert done.output.startswith(
        f"{path}: entries: no entry is called 'othr'\n  hint: did you mean 'other'?"
    )
    done = connect("nb", "22", "--entry", "other", "--config", str(tmp_path / "none.yaml"))
    assert done.exit_code == 78
    assert "it was read because 'other' is the name of an entry\n  hint: say where" in done.output


def test_without_a_configuration_the_hint_says_how_to_name_the_entry(tmp_path: Path) -> None:
    done = connect("nb", "22", "--config", str(tmp_path / "none.yaml"))
    assert done.exit_code == 78
    assert "hint: say where the entry is: --entry unix:PATH, or KUBEMUX_ENTRY=unix:PATH" in done.output


def test_a_configuration_without_entries_gets_a_message(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("version: 1\n")
    done = connect("nb", "22", "--config", str(path))
    assert done.exit_code == 78
    assert f"{path}: entries: there is no entry to connect to\n" in done.output


def test_the_command_as_a_process_uses_the_configured_entry(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        path.write_text(CONFIG.replace("3128", str(listener.getsockname()[1])))
        with kubemux("nb", "22", KUBEMUX_CONFIG=str(path), KUBEMUX_ENTRY="") as process:
            sock, _ = listener.accept()
            with sock:
                assert sock.recv(1000).startswith(b"CONNECT nb:22 ")
                sock.sendall(ACCEPTED + b"hello")
            assert ended(process) == (0, b"hello", b"")
