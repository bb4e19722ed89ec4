"""Dials links for a gateway with its present settings, and learns the host keys that the server announces."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from itertools import count
from pathlib import Path

import asyncssh

from proxy.config.model import GatewayConfig
from proxy.errors import CredentialsUnusable
from proxy.relay.budget import MemoryBudget
from proxy.runtime.blocking import Hangs, Place
from proxy.runtime.tasks import Tasks
from proxy.ssh.handshakes import Handshakes, RefusedGateway
from proxy.ssh.link import Link
from proxy.ssh.login.dial import Dialled, Places, dial
from proxy.ssh.login.learning import Announcement, learn
from proxy.ssh.supervision.establish import establish
from proxy.ssh.supervision.report import Report
from proxy.ssh.turns import Turns


class Dialler:
    """Makes the links of one gateway. All gateways share `budget`, `turns` and `handshakes`."""

    def __init__(
        self,
        name: str,
        config: GatewayConfig,
        gateways: Mapping[str, GatewayConfig],
        *,
        budget: MemoryBudget,
        turns: Turns,
        handshakes: Handshakes,
        report: Report,
        places: Places | None,
    ) -> None:
        self._name = name
        self._config = config
        self._gateways = gateways
        self._budget = budget
        self._turns = turns
        self._handshakes = handshakes
        self._report = report
        self._places = places or Places(f"gateway {name}")
        self._learning = Place(f"host keys of gateway {name}")
        self._tasks = Tasks(f"gateway {name}")
        self._numbers = count(1)
        self._is_ordered = False

    def reconfigure(self, config: GatewayConfig, gateways: Mapping[str, GatewayConfig]) -> None:
        """Change the settings for the next dial."""
        self._config = config
        self._gateways = gateways

    def begin_anew(self) -> None:
        """Use new places for files and names: calls for the old ones may hang, and the new must not wait."""
        self._places = Places(f"gateway {self._name}")

    def order(self) -> None:
        """The operator wants a dial: the next one is made even if the server has refused the key before."""
        self._is_ordered = True

    async def dial(self, who: RefusedGateway) -> Link:
        """Dial once, for the gateway `who`. Raises LinkError."""
        is_ordered, self._is_ordered = self._is_ordered, False
        dialling = partial(
            dial,
            self._config,
            self._gateways,
            self._handshakes,
            on_expiry=self._report.expiry,
            who=who,
            is_ordered=is_ordered,
            places=self._places,
        )
        return await establish(dialling, self._link, name=self._name)

    async def close(self) -> None:
        """Stop learning host keys."""
        await self._tasks.close()

    def _link(self, dialled: Dialled) -> Link:
        self._report.handshake(dialled.handshake)
        link = Link(
            dialled.conns,
            server=dialled.server,
            budget=self._budget,
            turns=self._turns,
            name=f"{self._name}/{next(self._numbers)}",
            command=dialled.command,
        )
        dialled.announcement.add_done_callback(partial(self._host_keys_announced, link))
        return link

    def _host_keys_announced(self, link: Link, announcement: asyncio.Future[Announcement]) -> None:
        path = self._config.learned_host_keys
        if path is not None and not (link.closed.done() or self._report.is_closing):
            self._tasks.spawn(self._learn(path, announcement.result()), name=f"learn {link.name}")

    async def _learn(self, path: Path, announcement: Announcement) -> None:
        try:
            if update := await learn(path, self._config, announcement, self._learning):
                self._report.learned(path, announcement.name, update)
        except (CredentialsUnusable, OSError, asyncssh.Error, Hangs) as exc:
            self._report.not_learned(path, exc)
