"""`kubemux run`: the daemon in the foreground, as systemd wants it."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import click
import structlog
import uvloop

from proxy.cli.options import config_option, file_argument
from proxy.config.apart import load
from proxy.daemon.daemon import Daemon
from proxy.daemon.signals import run_until_stopped
from proxy.runtime import logging, systemd
from proxy.runtime.malloc import share_one_arena
from proxy.ssh.login import nobody
from proxy.ssh.planes import DATA_PLANE, MODES

log = structlog.get_logger("kubemux.daemon")


@click.command()
@file_argument
@config_option
def run(config: Path) -> None:
    """Run the daemon until SIGTERM or SIGINT; SIGHUP reloads the configuration.

    Stopping waits up to limits.drain_timeout for clients; a second signal stops at once.
    Exit codes: 0 stopped, 1 failed, 78 bad configuration (systemd does not restart then).
    """
    # A SIGHUP that comes before the daemon can handle it waits, and does not end the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    share_one_arena()
    # The imported modules have 45,000 objects, which are never freed. Without freeze(), each full garbage
    # collection would visit them, and stop the event loop for 20 ms.
    gc.collect()
    gc.freeze()
    # With Python's own 700, collections took a tenth of the CPU while 1,000 sites logged in.
    gc.set_threshold(2_000, 10, 10)
    nobody.answer()
    uvloop.run(_serve(config, config.absolute()))  # absolute, because commands compare it with their own file


async def _serve(given: Path, path: Path) -> None:
    loaded = await load(given)
    logging.configure(loaded.config.log.format, loaded.config.log.level)
    if (plane := os.environ.get(DATA_PLANE, MODES[0])) not in MODES:
        log.warning(
            "environment variable ignored",
            name=DATA_PLANE,
            value=plane,
            hint=f"it is one of {', '.join(MODES)}",
        )
    for problem in loaded.hanging:
        log.warning("file hangs", key=problem.key, message=problem.message, hint=problem.hint)
    for problem in loaded.doubts:
        log.warning("rule without effect", key=problem.key, message=problem.message, hint=problem.hint)
    sockets = systemd.inherited_sockets()
    await run_until_stopped(
        Daemon(loaded.config, config_path=path, sockets=sockets, fingerprint=loaded.fingerprint)
    )
