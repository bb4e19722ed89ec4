"""`allow` under the shipped unit: three users and a group, through each kind of listener and entry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.files import whole_lines
from tests.systemd.machine import Machine
from tests.systemd.test_callers import GROUPS, USERS, run_as

pytestmark = pytest.mark.systemd

_ECHO: Final = """
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1000):
            with open("/run/echo.log", "ab") as log:
                log.write(data)
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 100
Server(("127.0.0.1", 7000), Echo).serve_forever()
"""
_IS_THERE: Final = "import socket; socket.create_connection(('127.0.0.1', 7000), timeout=5).close()"
_ENTRIES: Final = ("3128", "/run/kubemux-entries/everybody.sock")
_OF_ROOT: Final = "3129"
"""The port of the entry that only root may use."""
_LISTENERS: Final = {
    "sre": ("16443", "/run/kubemux-entries/sre.sock"),
    "rooted": ("16444", "/run/kubemux-entries/rooted.sock"),
}
_MAY: Final = {"sre": "alice", "rooted": "root", "a.bobs": "bob"}
"""By the requested name: which of the three users may use it."""
_UIDS: Final = {"alice": 1002, "bob": 1003, "root": 0}


def _config() -> dict[str, Any]:
    allow = {"sre": ["gid:sre"], "rooted": ["uid:root"]}
    echo = {"gateway": "direct", "api_servers": ["127.0.0.1:7000"]}
    clusters = {
        name if kind == "tcp" else f"{name}-{kind}": {**echo, "listen": listen, "allow": allow[name], **more}
        for name, (port, path) in _LISTENERS.items()
        for kind, listen, more in (
            ("tcp", f"127.0.0.1:{port}", {}),
            ("unix", f"unix:{path}", {"mode": "0666"}),
        )
    }
    bobs = {"name": "bobs", "match": ["*.bobs:22"], "gateway": "direct", "target": "127.0.0.1:7000"}
    port, path = _ENTRIES
    return {
        "version": 1,
        "clusters": clusters,
        "routes": [{**bobs, "allow": ["uid:bob"]}],
        "entries": {
            "proxy": {"listen": f"127.0.0.1:{port}"},
            "everybody": {"listen": f"unix:{path}", "mode": "0666"},
            "roots": {"listen": f"127.0.0.1:{_OF_ROOT}", "allow": ["uid:root"]},
        },
    }


# Connects in each of the given ways, and prints each result: `served`, or the answer.
_CLIENT: Final = """
import json, socket, sys

def reply(client, size):
    data = b""
    while len(data) < size and (piece := client.recv(size - len(data))):
        data += piece
    return data

def came(way, address, name, port):
    try:
        return answered(way, address, name, port)
    except ConnectionError:
        if way == "listener":  # it resets, at any moment
            return "cut"
        raise

def answered(way, address, name, port):
    if address.startswith("/"):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        client.connect(address)
    else:
        client = socket.create_connection(("127.0.0.1", int(address)), timeout=60)
    with client:
        if way == "CONNECT":
            client.sendall(f"CONNECT {name}:{port} HTTP/1.1\\r\\n\\r\\n".encode())
            head = b""
            while not head.endswith(b"\\r\\n\\r\\n"):
                head += reply(client, 1)
            if not head.startswith(b"HTTP/1.1 200 "):
                return head.partition(b"\\r\\n")[0].decode()
        elif way == "SOCKS5":
            client.sendall(bytes([5, 1, 0]))
            assert reply(client, 2) == bytes([5, 0])
            client.sendall(bytes([5, 1, 0, 3, len(name)]) + name.encode() + port.to_bytes(2, "big"))
            code = reply(client, 10)[1]
            if code:
                return f"reply {code}"
        client.sendall(b"hello")
        return "served" if reply(client, 5) == b"hello" else "cut"

print(json.dumps([came(*way) for way in json.loads(sys.argv[1])]))
"""
_SENDS_AND_CLOSES: Final = """
import socket, sys
for port, data in (3128, "CONNECT rooted:443 HTTP/1.1\\r\\n\\r\\n"), (16444, ""):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(f"{data}{sys.argv[1]} has sent and closed".encode())
"""

Way = tuple[str, str, str, int]


def _ways() -> Iterator[tuple[str, Way]]:
    """Each requested name, and the way to ask for it."""
    for name, addresses in _LISTENERS.items():
        for address in addresses:
            yield name, ("listener", address, name, 443)
    for entry in _ENTRIES:
        for way in ("CONNECT", "SOCKS5"):
            for name in _MAY:
                yield name, (way, entry, name, 22 if name == "a.bobs" else 443)
    for way in ("CONNECT", "SOCKS5"):
        yield "rooted", (way, _OF_ROOT, "rooted", 443)


def _denial(user: str, way: str, address: str, name: str) -> str:
    match way:
        case "CONNECT" if address == _OF_ROOT:
            why = f"uid {_UIDS[user]} is not in allow of entries.roots"
            return f"HTTP/1.1 403 kubemux: denied ({why})"
        case "CONNECT":
            return f"HTTP/1.1 403 kubemux: {name}: denied (uid {_UIDS[user]} is not in allow)"
        case "SOCKS5":
            return "reply 2"
        case _:
            return "cut"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    for name, text in (("passwd", USERS), ("group", GROUPS)):
        path = tmp_path / "etc" / name
        path.write_text(path.read_text() + text)
    machine.drop_in("watchdog", "[Service]\nWatchdogSec=0\n")  # the test stops the daemon for a while
    machine.config.write_text(json.dumps(_config()))
    machine.config.chmod(0o644)
    with machine, machine.background("python3", "-c", _ECHO):
        machine.wait(
            lambda: machine.run("python3", "-c", _IS_THERE, check=False).returncode == 0, "the target"
        )
        machine.systemctl("start", "kubemux.service")
        yield machine


def trail(machine: Machine) -> list[dict[str, Any]]:
    """The log entries of ended connections. (An entry's own `allow` refuses clients earlier.)"""
    lines = (json.loads(line) for line in whole_lines(machine.log) if line.startswith("{"))
    return [line for line in lines if line["event"] in {"connection closed", "connection refused"}]


def test_each_way_in_admits_only_its_user_under_the_shipped_unit(machine: Machine) -> None:
    asked = list(_ways())
    ways = json.dumps([way for _, way in asked])
    for user in _UIDS:
        answers = json.loads(machine.run(*run_as(user, "python3", "-c", _CLIENT, ways)).stdout)
        for (name, (way, address, *_)), answer in zip(asked, answers, strict=True):
            expected = "served" if _MAY[name] == user else _denial(user, way, address, name)
            assert answer == expected, (user, way, address, name)
    count = len(asked) * len(_UIDS)
    machine.wait(lambda: len(trail(machine)) == count, "the daemon to tell of all")
    told = {(line["caller"], line["reason"] == "denied") for line in trail(machine)}
    assert told == {(f"uid:{uid}", is_denied) for uid in _UIDS.values() for is_denied in (True, False)}

    # If a client sends and closes, the kernel reports uid 0 for its socket. Such a client must be unknown,
    # not root. The daemon is stopped meanwhile, so that it certainly asks too late.
    pid = machine.show("MainPID")["MainPID"]
    machine.run("kill", "-STOP", pid)
    for user in _UIDS:
        machine.run(*run_as(user, "python3", "-c", _SENDS_AND_CLOSES, user))
    machine.run("kill", "-CONT", pid)
    machine.wait(lambda: len(trail(machine)) == count + 6, "the daemon to tell of them")
    for line in trail(machine)[count:]:
        assert (line["reason"], line["caller"]) == ("denied", line["client"])
        assert line["client"].startswith("127.0.0.1:")
    for text, is_found in (("hello", 0), ("has sent and closed", 1)):
        assert machine.run("grep", "-aq", text, "/run/echo.log", check=False).returncode == is_found, text
