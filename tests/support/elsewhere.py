"""An sshd that seems to be on another machine: in a network namespace at the other end of a veth pair.

Needs root. A relay cannot act as a dead peer, because its kernel still acknowledges what it receives. Here a
test can disconnect the cable.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.support.ports import free_net
from tests.support.sshd import Sshd

_MACHINE = 'mount --bind "$0" /etc/hosts; echo ready; exec sleep infinity'


def _ip(*words: str, inside: str | None = None) -> None:
    into = ["nsenter", "--target", inside, "--net"] if inside else []
    subprocess.run([*into, "ip", *words], check=True, capture_output=True, timeout=60)


class FarSshd(Sshd):
    """An sshd in a namespace of its own; both end with the block.

    `names` are host names of that machine; its own /etc/hosts resolves them.
    """

    def __init__(self, folder: Path, *, names: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self.ours, self.host = map(str, free_net().hosts())
        self.cable = f"kmx{secrets.token_hex(4)}"
        """The name of our interface, one end of the cable."""
        self.hosts = folder / "hosts"
        """The file that is mounted as /etc/hosts there."""
        self.hosts.write_text(f"127.0.0.1 localhost\n{' '.join((self.host, *names))}\n")

    def __enter__(self) -> Self:
        # unshare(1) runs the command after it made the namespace, so the first line of output means: it
        # exists.
        self._machine = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-ec", _MACHINE, self.hosts],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        try:
            assert self._machine.stdout is not None
            assert self._machine.stdout.readline() == b"ready\n"
            pid = str(self._machine.pid)
            _ip("link", "add", self.cable, "type", "veth", "peer", "name", "far", "netns", pid)
            _ip("address", "add", f"{self.ours}/30", "dev", self.cable)
            _ip("link", "set", self.cable, "up")
            _ip("address", "add", f"{self.host}/30", "dev", "far", inside=pid)
            _ip("link", "set", "far", "up", inside=pid)
            _ip("link", "set", "lo", "up", inside=pid)
            self.command = ("nsenter", "--target", pid, "--net", "--mount")
            return super().__enter__()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._machine.kill()
        self._machine.wait()
        if self._machine.stdout:
            self._machine.stdout.close()
        subprocess.run(["ip", "link", "delete", self.cable], capture_output=True, timeout=60, check=False)

    def add_addresses(self, *addresses: str) -> None:
        """Add addresses to that machine's loopback interface, which only itself reaches."""
        for address in addresses:
            _ip("address", "add", address, "dev", "lo", inside=str(self._machine.pid))

    def listen_on_link_local(self) -> str:
        """Listen on an IPv6 link-local address too. Returns it with our interface as its zone
        (RFC 4007 11).
        """
        _ip("address", "add", "fe80::7/64", "dev", self.cable, "nodad")
        _ip("address", "add", "fe80::8/64", "dev", "far", "nodad", inside=str(self._machine.pid))
        self.reconfigure({"ListenAddress": f"{self.host}\nListenAddress ::"})
        self.restart()
        return f"fe80::8%{self.cable}"

    def move(self) -> tuple[str, str]:
        """Give both ends of the cable addresses of another network, and take the machine's first one away, as
        when a NAT changes. Returns our address and its own.
        """
        ours, theirs = map(str, free_net().hosts())
        pid = str(self._machine.pid)
        _ip("address", "add", f"{ours}/30", "dev", self.cable)
        _ip("address", "add", f"{theirs}/30", "dev", "far", inside=pid)
        _ip("address", "delete", f"{self.host}/30", "dev", "far", inside=pid)
        return ours, theirs

    def pull(self) -> None:
        """Disconnect the far end of the cable: packets of both directions are lost, without any error."""
        _ip("link", "set", "far", "down", inside=str(self._machine.pid))

    def plug(self) -> None:
        """Connect the cable again."""
        _ip("link", "set", "far", "up", inside=str(self._machine.pid))
