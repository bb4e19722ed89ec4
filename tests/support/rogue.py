"""`python -m tests.support.rogue KIND HOST_KEY AUTHORIZED_KEYS`: a hostile gateway in its own process, and
`Rogue` to run one.

It prints its port, and a line whenever it has said as much again (`Flooding.count`). KIND is a flood of
`tests.support.hostile`, one of them `before login`, or

    unread    asks without end, and reads no answer
    keys      begins to exchange keys, and asks instead of going on
    late      forwards, and has something more to say on every channel that it has closed
    hasty     says that we are in, and DISCONNECT, in one segment
    odd       forwards, and answers global requests with UNIMPLEMENTED
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import asyncssh
from asyncssh.channel import SSHChannel
from asyncssh.packet import String, UInt32

from proxy.ssh.native.wire import messages
from tests.support import ssh_keys
from tests.support.daemon import ROOT, Sections
from tests.support.hasty_server import Hasty
from tests.support.hostile import FLOODS, Flooding
from tests.support.other_servers import Connections

COUNT: Final = 100_000
UNIMPLEMENTED: Final = 3
GLOBAL_REQUEST: Final = 80
BEFORE_LOGIN: Final = " before login"


class Rogue:
    """Runs a hostile gateway from `start` on."""

    def __init__(self, kind: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._kind = kind
        self._process: subprocess.Popen[str] | None = None
        self.section: Sections = {}
        """The configuration of the gateway, set by `start`."""

    def start(self) -> None:
        """Start it; returns when it listens."""
        host_key, key = ssh_keys.new_key(self._folder / "host"), ssh_keys.new_key(self._folder / "key")
        command = [sys.executable, "-m", "tests.support.rogue", self._kind, str(host_key), f"{key}.pub"]
        with (self._folder / "rogue.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
            )
        port = self.hear()
        known_hosts = self._folder / "known_hosts"
        known_hosts.write_text(f"[127.0.0.1]:{port} {ssh_keys.public(host_key)}\n")
        self.section = {
            "host": "127.0.0.1",
            "port": int(port),
            "user": "root",
            "identity_files": [str(key)],
            "known_hosts": [str(known_hosts)],
            "connections": 1,
            "connect_timeout": "2s",
        }

    def hear(self) -> str:
        """The next line that it prints. Raises AssertionError if it has ended."""
        assert self._process, "it does not run"
        assert self._process.stdout, "it has a pipe"
        line = self._process.stdout.readline().strip()
        assert line, (self._folder / "rogue.log").read_text()
        return line

    def stop(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and process.stdout is not None:
            process.kill()
            process.stdout.close()
            process.wait(timeout=10)


class _Forwarding(asyncssh.SSHServer):
    def connection_requested(self, *_: object) -> bool:
        return True


class _Asking(Flooding):
    """Breaks the protocol as KIND says, and sends requests meanwhile."""

    def __init__(self, conns: Connections, *, reads: bool) -> None:
        super().__init__(conns, "", COUNT, forever=True, on_said=_said)
        self._reads = reads

    def auth_completed(self) -> None:
        super().auth_completed()
        if self._reads:
            self.conn._send_kexinit()
        else:
            self.conn._transport.pause_reading()
        self.flood(FLOODS["global requests"])


class _Odd(_Forwarding):
    def connection_made(self, conn: Any) -> None:
        def unimplemented(conn: Any, _kind: int, sequence: int, _packet: object) -> None:
            conn.send_packet(UNIMPLEMENTED, UInt32(sequence))

        conn._packet_handlers = {**conn._packet_handlers, GLOBAL_REQUEST: unimplemented}


def _hang_up(conn: Any) -> bytes:
    conn._send_disconnect(asyncssh.DISC_TOO_MANY_CONNECTIONS, "not today", "en")
    return b""


def _said() -> None:
    print("said", flush=True)  # noqa: T201 - who has started it reads it


def _speak_after_close() -> None:
    """Make the channels of this process send more after CLOSE."""
    close = SSHChannel._close_send

    def closing(channel: Any) -> None:
        conn, number = channel._conn, channel._send_chan
        close(channel)
        if number is not None and conn is not None:
            conn.send_packet(messages.WINDOW_ADJUST, UInt32(number), UInt32(1))
            conn.send_packet(messages.DATA, UInt32(number), String("late"))
            _said()

    SSHChannel._close_send = closing  # type: ignore[assignment, method-assign]


async def _serve(kind: str, host_key: str, authorized_keys: str) -> None:
    conns: Connections = []
    flood = kind.removesuffix(BEFORE_LOGIN)

    hasty = Hasty(_hang_up)

    def session() -> asyncssh.SSHServer:
        if kind == "hasty":
            return hasty.session(conns)
        if kind == "odd":
            return _Odd()
        if kind == "late":
            return _Forwarding()
        if kind in {"unread", "keys"}:
            return _Asking(conns, reads=kind == "keys")
        return Flooding(conns, flood, COUNT, before_login=flood != kind, forever=True, on_said=_said)

    if kind == "late":
        _speak_after_close()
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=session,
        server_host_keys=[host_key],
        authorized_client_keys=authorized_keys,
        gss_host=None,
    )
    print(server.get_port(), flush=True)  # noqa: T201 - who has started it reads it
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
