"""The edge gateway of rows in which it is a site: OpenSSH's client with a dynamic forward, not an sshd."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Final

from proxy.runtime.endpoint import Endpoint
from tests.support.site import SshServerFiles

NAME: Final = "edge"
RIVAL: Final = "rival"
RIVALS: Final = {
    "permit": ["127.0.0.1:*"],
    # While it floods, on a busy machine, it does not get to its answers for 10 s.
    "keepalive": {"interval": "30s", "max_missed": 2},
}
END_S: Final = 60.0
ALIVE: Final = ("ServerAliveInterval=1", "ServerAliveCountMax=4")


class SiteEdge:
    """The ssh processes of a site. The test starts them in place of a service manager."""

    def __init__(self, folder: Path) -> None:
        self.files = SshServerFiles(folder)
        self.via: Endpoint | None = None
        """The address to which ssh connects; None for the daemon's."""
        self._log = folder / "ssh.log"
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def listen(self) -> Endpoint:
        """The daemon's SSH server."""
        return self.files.listen

    def sections(self, **keys: object) -> dict[str, object]:
        """`ssh_server` and `sites`. RIVAL is another site, which uses the same names."""
        edge = {**self.files.authorized(NAME), "permit": ["127.0.0.1:*"], **keys}
        return {
            "ssh_server": self.files.sections(),
            "sites": {NAME: edge, RIVAL: {**self.files.authorized(RIVAL), **RIVALS}},
        }

    def start(self) -> None:
        """Start another ssh."""
        # ssh has to notice silence only where a relay can cause it. The daemon may be busy for seconds.
        spoken = ("LogLevel=VERBOSE", *(ALIVE if self.via else ()))
        options = [word for option in spoken for word in ("-o", option)]
        command = self.files.command(
            NAME, "-N", "-T", "-E", str(self._log), *options, "-R", f"{NAME}:1080", via=self.via
        )
        self._processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))

    def stop(self) -> None:
        """Kill every ssh. Idempotent."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()

    def stop_oldest(self) -> None:
        """Kill the ssh that was started first."""
        oldest = self._processes.pop(0)
        oldest.kill()
        oldest.wait()

    def authorize(self, name: str) -> None:
        """Authorize only the key of `name` for this site."""
        self.files.authorized(NAME, key=name)

    def pause(self) -> None:
        """Freeze every ssh. The kernel still acknowledges received bytes."""
        for process in self._processes:
            process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        for process in self._processes:
            process.send_signal(signal.SIGCONT)

    def wait_ended(self) -> None:
        """Wait until every ssh has ended by itself."""
        for process in self._processes:
            assert process.wait(END_S) == 255, self.log()
        self._processes.clear()

    def sessions(self) -> set[int]:
        """The process ids of the running ssh processes."""
        return {process.pid for process in self._processes if process.poll() is None}

    def log(self) -> str:
        """The output of every ssh so far."""
        return self._log.read_text() if self._log.exists() else ""

    def logins(self) -> int:
        """How often the site has logged in."""
        return self.log().count("Authenticated to ")
