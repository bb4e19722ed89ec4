"""Run the demo: the stand-in clusters, the SSH server, then the daemon as `kubemux run` runs it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from proxy.daemon.daemon import Daemon
from proxy.daemon.signals import run_until_stopped
from proxy.demo import api_server, ssh_server
from proxy.demo.stage import Stage
from proxy.demo.welcome import welcome

ENDINGS: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


async def run(stage: Stage, say: Callable[[str], None]) -> None:
    """Run until the process gets one of the signals `ENDINGS`, which are blocked before and after.

    `say` gets the welcome text when every listener is bound.
    """
    async with AsyncExitStack() as stack:
        for cluster in stage.clusters:
            await stack.enter_async_context(
                api_server.serve(cluster.sock, cluster.tls, cluster.contents, token=stage.token)
            )
        await stack.enter_async_context(
            ssh_server.serve(stage.ssh_socket, stage.ssh_host_key, stage.ssh_authorized_keys)
        )
        daemon = Daemon(stage.config, config_path=stage.config_path, sockets=stage.daemon_sockets)

        def on_started() -> None:
            # A terminal that is closed sends SIGHUP. The daemon would reload and go on, and nobody would see
            # that the demo still runs.
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, signal.raise_signal, signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)  # by now the loop handles them
            say(welcome(stage))

        try:
            await run_until_stopped(daemon, on_started)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
