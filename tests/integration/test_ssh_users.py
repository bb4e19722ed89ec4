"""Connected users of the SSH server while the operator removes something: a connection, a key, an `allow`,
the whole daemon.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path
from signal import SIGHUP, SIGTERM
from typing import Final

import pytest

from tests.integration.jumping import Jumping, jumping
from tests.integration.running import changed
from tests.integration.test_life import kubemux

pytestmark = [pytest.mark.sshd]

SECONDS: Final = 60.0
BANNER: Final = b"SSH-2.0-"


class Clients:
    """ssh processes, which are killed when the block ends."""

    def __init__(self, bed: Jumping, stack: ExitStack) -> None:
        self._bed = bed
        self._stack = stack

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._bed.desk.words("ssh", *args),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._bed.desk.home,
            env=self._bed.desk.environment,
        )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process

    def connected(self, user: str, *args: str) -> subprocess.Popen[bytes]:
        """A client with a channel to node-a, on which sshd has sent its version."""
        process = self.start(*args, "-W", "node-a:22", user)
        assert process.stdout
        assert process.stdout.read(len(BANNER)) == BANNER
        return process

    def without_channel(self, user: str) -> subprocess.Popen[bytes]:
        """A client that has logged in."""
        logins = self._bed.daemon.events("logged in")
        process = self.start("-N", user)
        self._bed.daemon.wait_for("a login", lambda: len(self._bed.daemon.events("logged in")) > len(logins))
        return process


def ended(process: subprocess.Popen[bytes]) -> str:
    """Wait for the end of a client. Returns its output."""
    _, said = process.communicate(timeout=SECONDS)
    return said.decode()


def test_removed_access_ends_connections_and_others_go_on(tmp_path: Path) -> None:
    with jumping(tmp_path) as bed, ExitStack() as stack:
        clients, daemon = Clients(bed, stack), bed.daemon

        drained, stays = clients.connected("bastion"), clients.connected("narrow")
        said = kubemux("drain", "nodes", "--caller", "ssh-user:ops", "--config", daemon.config)
        assert said == "nodes: 1 connection of ssh-user:ops ended\n"
        ended(drained)

        idle, channel = clients.without_channel("bastion"), clients.connected("bastion")
        bed.files.authorized("ops", "restrict")  # the same key may do nothing any more
        daemon.signal(SIGHUP)
        daemon.wait_for("a reload", lambda: len(daemon.events("reloaded")) == 1)
        assert (
            "denied (the key of ssh-user:ops may open nothing"
            in bed.desk.typed("ssh -W node-a:22 bastion").stderr.decode()
        )
        ended(channel)
        assert idle.poll() is None

        bed.files.authorized("ops")
        daemon.signal(SIGHUP)
        daemon.wait_for("another", lambda: len(daemon.events("reloaded")) == 2)
        busy = clients.connected("bastion")
        bed.files.replace("ops", by="other")
        daemon.signal(SIGHUP)
        assert "kubemux: key_removed" in ended(idle)
        assert "kubemux: key_removed" in ended(busy)

        def removed(event: str) -> int:
            return [one["reason"] for one in daemon.events(event)].count("key_removed")

        daemon.wait_for("both are logged out", lambda: removed("logged out") == 2)
        daemon.wait_for("the channel's end, not by its client", lambda: removed("connection closed") == 1)
        assert stays.poll() is None


def test_a_stop_lets_channels_end_and_opens_no_others(tmp_path: Path) -> None:
    with jumping(tmp_path, limits={"drain_timeout": "1m"}) as bed, ExitStack() as stack:
        clients, daemon = Clients(bed, stack), bed.daemon
        idle, busy = clients.without_channel("narrow"), clients.connected("bastion", "-M", "-S", "m")
        daemon.signal(SIGTERM)
        assert "kubemux stops: connect again" in ended(idle)
        assert bed.desk.typed("ssh -S m -W prod-eu:443 bastion").returncode == 255
        daemon.wait_for("the refusal in the log", lambda: bool(daemon.events("connection refused")))
        (refused,) = daemon.events("connection refused")
        assert (refused["asked"], refused["reason"]) == ("prod-eu:443", "shutdown")
        assert busy.poll() is None
        # It sends its end of file; sshd ends, and with it the last channel.
        assert "kubemux: prod-eu: shutdown (kubemux stops)" in ended(busy)
        assert daemon.wait_ended() == 0


def test_the_connections_and_channels_of_a_user_are_limited(tmp_path: Path) -> None:
    with jumping(tmp_path) as bed, ExitStack() as stack:
        clients, daemon = Clients(bed, stack), bed.daemon
        limits = {"connections": 2, "max_channels": 3}
        changed(daemon, lambda config: config["users"]["ops"].update(limits))
        master = ["-M", "-S", "m", "-o", "ControlPersist=no"]
        stays = [clients.connected("bastion", *master), clients.connected("bastion")]
        third = bed.desk.typed("ssh -W node-a:22 bastion")
        assert third.returncode == 255
        said = "kubemux: limit (users.ops.connections is 2, and as many are open)"
        assert said in third.stderr.decode()
        assert daemon.metric("kubemux_ssh_logins_total", result="limit") == 1
        [refused] = [one for one in daemon.events("login refused") if one["reason"] == "limit"]
        assert refused["caller"] == "ssh-user:ops"

        stays.append(clients.connected("bastion", "-S", "m"))
        assert "refused by peer" in ended(clients.start("-S", "m", "-W", "node-a:22", "bastion"))
        daemon.wait_for("the refusal in the log", lambda: bool(daemon.events("channels refused")))
        [line] = daemon.events("channels refused")
        assert line["message"] == "users.ops.max_channels is 3, and as many are open"
        stays.append(clients.connected("narrow"))
        changed(daemon, lambda config: config["users"]["ops"].update(connections=3, max_channels=4))
        stays.append(clients.connected("bastion"))
        assert [client.poll() for client in stays] == [None] * 5


def test_status_shows_who_is_logged_in(tmp_path: Path) -> None:
    with jumping(tmp_path) as bed, ExitStack() as stack:
        clients, daemon = Clients(bed, stack), bed.daemon
        first = clients.without_channel("narrow")
        second = clients.connected("narrow")
        [old, new] = daemon.events("logged in")
        document = json.loads(kubemux("status", "--json", "ssh-user:narrow", "--config", daemon.config))
        assert [document[kind] for kind in ("clusters", "routes", "sites")] == [[], [], []]
        [user] = document["users"]
        assert (user["name"], user["identity"], user["most"]) == ("narrow", "ssh-user:narrow", 100)
        told = [(one["address"], one["key"], one["channels"], one["open"]) for one in user["logins"]]
        assert told == [
            (old["client"], old["key"], 0, []),
            (new["client"], new["key"], 1, ["node-a:22"]),
        ]
        shown = kubemux("status", "--config", daemon.config)
        [line] = [line.split() for line in shown.splitlines() if line.startswith("ssh-user:")]
        assert line[:3] == ["ssh-user:narrow", "2/100", "1"]
        for client in (first, second):
            client.kill()
        daemon.wait_for(
            "both are gone", lambda: "ssh-user:" not in kubemux("status", "--config", daemon.config)
        )
        assert len(daemon.events("logged out")) == 2
