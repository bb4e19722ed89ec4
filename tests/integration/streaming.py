"""What kubectl does through an API server and a kubelet: terminals, pipes, ports and logs.

Each raises AssertionError unless it works.
"""

from __future__ import annotations

import os
import socket
from typing import Final, Literal

from tests.support.at_terminal import COLUMNS, ROWS
from tests.support.echo import pattern
from tests.support.kubectl import Kubectl, next_line
from tests.support.nodes import NODE
from tests.support.ports import free_port

MUCH: Final = 300_000
"""Bytes: more than one message, or one window, holds."""
BY_POD: Final = "/api/v1/namespaces/default/pods/web:8080/proxy"
BY_NODE: Final = f"/api/v1/nodes/{NODE}/proxy"


def type_and_see(kubectl: Kubectl, *arguments: str) -> None:
    """At a terminal, the pod echoes each key, its shell knows the terminal's size, and kubectl gets the exit
    code.
    """
    with kubectl.at_terminal(*arguments) as terminal:
        terminal.expect(b"$ ")
        for key in (b"s", b"i", b"z", b"e"):
            terminal.type(key)
            assert terminal.expect(key) == b""
        terminal.type(b"\r")
        assert terminal.expect(b"$ ") == f"\r\n{ROWS} {COLUMNS}\r\n".encode()
        terminal.type(b"exit 7\r")
        assert terminal.end() == 7
        assert b"terminated with exit code 7" in terminal.shown


def pipe(kubectl: Kubectl) -> None:
    """The end of the input reaches the command, which then ends by itself."""
    done = kubectl.ran("exec", "-i", "web", "--", "cat", stdin=pattern(MUCH))
    assert (done.returncode, len(done.stdout)) == (0, MUCH), done.stderr.decode()
    assert done.stdout == pattern(MUCH)


def forward_a_port(kubectl: Kubectl) -> None:
    port = free_port()
    with kubectl.started("port-forward", "pod/web", f"{port}:5432") as forward:
        assert f"127.0.0.1:{port}" in next_line(forward)
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(pattern(MUCH))
            client.shutdown(socket.SHUT_WR)
            with client.makefile("rb") as answer:
                got = answer.read()
            assert len(got) == MUCH
            assert got == pattern(MUCH)


def follow_logs(kubectl: Kubectl, asked: str = BY_NODE, who: str = "kubelet") -> None:
    """The log has each request that the API server's proxy makes to the pod or to its kubelet."""
    with kubectl.started("logs", "-f", "web") as logs:
        assert next_line(logs) == "started\n"
        for n in range(2):
            path = f"/asked/{os.urandom(4).hex()}/{n}"
            assert kubectl.said("get", "--raw", f"{asked}{path}") == f"{who}: {path}\n"
            while next_line(logs) != f"GET {path}\n":
                pass


def stream(kubectl: Kubectl, *, by: Literal["SPDY", "WebSocket"]) -> None:
    """Do all of them with this upgrade. The kubelet reports which upgrade it was."""
    kubectl = kubectl.by_websocket(by == "WebSocket")
    kubectl.upgrades()
    type_and_see(kubectl, "exec", "-it", "web", "--", "sh")
    type_and_see(kubectl, "attach", "-it", "web")
    pipe(kubectl)
    forward_a_port(kubectl)
    follow_logs(kubectl)
    assert kubectl.upgrades() == [f"{action} by {by}" for action in ("exec", "attach", "exec", "portForward")]
