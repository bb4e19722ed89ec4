"""`python -m bench.logins [COUNT]`: all sites log in again at once after a restart of the daemon.

It starts COUNT OpenSSH clients at the same time, from one address. Each is a site with its own key and its
own dynamic forward. Each dials only once: a site that is refused does not try again. The daemon is restarted
several times, because the machine may be busy. The bench prints how many sites have logged in, how long that
took, the daemon's CPU time for each login, and its CPU time while the sites are connected and idle, which is
measured several times, too. The figures for 10,000 sites are extrapolated.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import asyncssh
import click

from bench import machine
from bench.waiting import cpu_seconds
from tests.support.daemon import Daemon
from tests.support.site import SshServerFiles

MANY: Final = 10_000
WITHIN_S: Final = 60.0
"""The target: `MANY` logins may take so many seconds of one core."""
_PATIENCE_S: Final = 300.0
_IDLE_S: Final = 10.0
"""Seconds: three keepalives of each site."""


class Back(NamedTuple):
    """The result after the restart."""

    sites: int
    came: int
    seconds: float
    """From the first dial until the last site was connected. Clients and daemon share the cores."""
    cpu: float
    """CPU time of the daemon during these seconds, in seconds."""


class Fleet:
    """`count` sites, and their ssh processes."""

    def __init__(self, folder: Path, count: int) -> None:
        self._files = SshServerFiles(folder)
        self._names = [f"site-{n}" for n in range(count)]
        for name in self._names:
            key = asyncssh.generate_private_key("ssh-ed25519")
            key.write_private_key(folder / name)
            (folder / name).chmod(0o600)
            key.write_public_key(folder / f"{name}.pub")
        self._processes: list[subprocess.Popen[bytes]] = []

    def sections(self) -> Mapping[str, object]:
        """`ssh_server`, whose `sources` allow so many logins from one address, and `sites`."""
        sources = [{"networks": ["127.0.0.0/8"], "max_startups": max(2000, len(self._names))}]
        return {
            "ssh_server": {**self._files.sections(), "sources": sources},
            "sites": {name: self._files.authorized(name) for name in self._names},
        }

    def dial(self) -> None:
        """Start the ssh process of every site."""
        for name in self._names:
            command = self._files.command(name, "-N", "-T", "-R", f"{name}:1080")
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )

    @property
    def running(self) -> int:
        """How many ssh processes run."""
        return sum(process.poll() is None for process in self._processes)

    def end(self) -> None:
        """Kill every ssh process, and wait until all have ended."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._processes.clear()


@contextmanager
def dialled(folder: Path, count: int) -> Iterator[tuple[Daemon, Fleet]]:
    """A daemon that all sites have dialled. Each is connected or was refused."""
    fleet = Fleet(folder / "sites", count)
    with Daemon(folder / "daemon", gateways={}, clusters={}, sections=fleet.sections()) as daemon:
        try:
            fleet.dial()
            daemon.wait_for(f"{count} sites", lambda: ups(daemon) >= fleet.running, seconds=_PATIENCE_S)
            yield daemon, fleet
        finally:
            fleet.end()


def ups(daemon: Daemon) -> int:
    """How many links came up so far. It is counted in the log, because a scrape needs the daemon's CPU."""
    return daemon.log().count('"event":"link up"')


def restart_and_measure(daemon: Daemon, fleet: Fleet, count: int) -> Back:
    """Restart the daemon, let every site dial once, and wait until each is connected or was refused."""
    daemon.stop()
    fleet.end()
    daemon.start()
    known = ups(daemon)
    began, before = time.monotonic(), cpu_seconds(daemon.pid)
    fleet.dial()
    daemon.wait_for("every site is back", lambda: ups(daemon) - known >= fleet.running, seconds=_PATIENCE_S)
    took, used = time.monotonic() - began, cpu_seconds(daemon.pid) - before
    return Back(count, int(daemon.metric("kubemux_site_connected")), took, used)


def idle(daemon: Daemon) -> float:
    """CPU time of the daemon in a second, while all sites are connected and none logs in."""
    began, before = time.monotonic(), cpu_seconds(daemon.pid)
    time.sleep(_IDLE_S)
    return (cpu_seconds(daemon.pid) - before) / (time.monotonic() - began)


def refusals(daemon: Daemon) -> str:
    """Why sites were refused since the first start, as text."""
    reasons = Counter(str(entry["reason"]) for entry in daemon.events("login refused"))
    return ", ".join(f"{reason} {times} times" for reason, times in reasons.most_common()) or "none"


def describe(backs: Sequence[Back], idles: Sequence[float], refused: str) -> str:
    """The measured result as text, and what is extrapolated from it."""
    each = sorted(back.cpu / back.sites for back in backs)
    count, least = backs[0].sites, each[0]
    came, took = min(back.came for back in backs), sorted(back.seconds for back in backs)
    verdict = "within" if least * MANY <= WITHIN_S else "not within"
    return (
        f"measured: at least {came} of {count} sites were back {took[0]:.1f} to {took[-1]:.1f} s after each "
        f"of {len(backs)} restarts,\nclients on the same {os.cpu_count()} cores; "
        f"a login took the daemon {least * 1e3:.1f} to {each[-1] * 1e3:.1f} ms of CPU\n"
        f"logins refused by the daemon in all dials: {refused}\n"
        f"measured: {count} sites that are connected and idle take {min(idles):.1%} to {max(idles):.1%} of "
        f"one core\n"
        f"extrapolated from the least, not measured: {MANY:,} logins would take {least * MANY:.0f} s of one "
        f"core, which is {verdict} {WITHIN_S:g} s"
    )


@click.command()
@click.argument("count", default=1000, type=click.IntRange(1, 5000))
@click.option("--restarts", default=3, type=click.IntRange(1))
def main(count: int, restarts: int) -> None:
    """Measure with COUNT sites."""
    with tempfile.TemporaryDirectory() as folder, dialled(Path(folder), count) as (daemon, fleet):
        paces = [machine.pace()]
        backs = []
        for _ in range(restarts):
            backs.append(restart_and_measure(daemon, fleet, count))
            paces.append(machine.pace())
        idles = [idle(daemon) for _ in range(restarts)]
        refused = refusals(daemon)
    click.echo(describe(backs, idles, refused))
    load = os.getloadavg()[0]
    click.echo(f"the machine: {machine.describe_paces(paces)}, load {load:.1f} with the clients' own")


if __name__ == "__main__":
    main()
