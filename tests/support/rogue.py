"""`python -m tests.support.rogue KIND HOST_KEY AUTHORIZED_KEYS`: a hostile gateway in its own process, and
`Rogue` to run one.

The process prints its port when it listens, and a line each time it has sent another COUNT messages (with
`late`: after each message on a closed channel). KIND is the name of a flood in `tests.support.hostile`, to
which ` before login` may be added, or one of these:

    unread    sends global requests without end, and never reads the answers
    keys      sends KEXINIT, and then global requests instead of the rest of the key exchange
    late      forwards, and sends more data on every channel after CLOSE
    hasty     sends USERAUTH_SUCCESS and DISCONNECT in one TCP segment
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
    """A hostile gateway, which runs between `start` and `stop`."""

    def __init__(self, kind: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._kind = kind
        self._process: subprocess.Popen[str] | None = None
        self.section: Sections = {}
        """The gateway's section of the configuration, set by `start`."""

    def start(self) -> None:
        """Start the process. Returns when it listens."""
        host_key, key = ssh_keys.new_key(self._folder / "host"), ssh_keys.new_key(self._folder / "key")
        command = [sys.executable, "-m", "tests.support.rogue", self._kind, str(host_key), f"{key}.pub"]
        with (self._folder / "rogue.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
            )
        port = self.next_line()
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

    def next_line(self) -> str:
        """Wait for the next line of the process. Raises AssertionError if the process has ended."""
        assert self._process, "the rogue gateway does not run"
        assert self._process.stdout, "the rogue gateway was started with a pipe"
        line = self._process.stdout.readline().strip()
        assert line, (self._folder / "rogue.log").read_text()
        return line

    def stop(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and process.stdout is not None:
            process.kill()
            process.stdout.close()
            process.wait(timeout=60)


class _Forwarding(asyncssh.SSHServer):
    def connection_requested(self, *_: object) -> bool:
        return True


class _Requesting(Flooding):
    """Sends global requests without end; either it never reads, or it has a key exchange open."""

    def __init__(self, conns: Connections, *, reads: bool) -> None:
        super().__init__(conns, "", COUNT, forever=True, on_sent=_print_sent)
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


def _print_sent() -> None:
    print("sent", flush=True)  # noqa: T201 - for `Rogue.next_line`


def _speak_after_close() -> None:
    """Patch asyncssh so that each channel of this process sends more after CLOSE."""
    close = SSHChannel._close_send

    def closing(channel: Any) -> None:
        conn, number = channel._conn, channel._send_chan
        close(channel)
        if number is not None and conn is not None:
            conn.send_packet(messages.WINDOW_ADJUST, UInt32(number), UInt32(1))
            conn.send_packet(messages.DATA, UInt32(number), String("late"))
            _print_sent()

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
            return _Requesting(conns, reads=kind == "keys")
        return Flooding(conns, flood, COUNT, before_login=flood != kind, forever=True, on_sent=_print_sent)

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
    print(server.get_port(), flush=True)  # noqa: T201 - for `Rogue.start`
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
