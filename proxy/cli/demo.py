"""`kubemux demo`: runs the demo in a temporary folder."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

import click
import uvloop

from proxy.cli import say
from proxy.demo.run import ENDINGS, run
from proxy.demo.stage import prepare
from proxy.runtime.logging import configure


@click.command()
def demo() -> None:
    """Try it: two stand-in clusters behind an embedded SSH server.

    Needs no root, no sshd and no cluster; listens on loopback, on ports that are free. Ctrl-C leaves nothing
    behind.
    """
    configure("console", "info")
    # No signal may end this process while the folder is made or removed. They are delivered while the daemon
    # runs.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    with (
        tempfile.TemporaryDirectory(prefix="kubemux-demo-") as folder,
        prepare(Path(folder).resolve()) as stage,
    ):
        uvloop.run(run(stage, say))
