"""The users that have logged in to the SSH server. They open channels through the SSH entry."""

from __future__ import annotations

from functools import partial
from typing import Final

from proxy.config.model import Config, UserConfig
from proxy.daemon.connections import Shared
from proxy.entries.ssh_entry import SshEntry
from proxy.runtime.tasks import Tasks
from proxy.ssh.open_requests import at_most
from proxy.ssh.server.session import Guest, Session
from proxy.ssh.server.user import User
from proxy.ssh.turns import Turns

_REMOVED: Final = UserConfig()
"""For a user whom a reload has removed already, while the user's keys are still accepted."""


class Users:
    """The connected users."""

    def __init__(self, shared: Shared, turns: Turns, entry: SshEntry) -> None:
        self._shared = shared
        self._turns = turns
        self._entry = entry
        self._config: Config | None = None
        self._users: set[User] = set()
        self._number = 0
        self._tasks = Tasks("users")

    def __repr__(self) -> str:
        return f"<Users {len(self._users)}>"

    def reconfigure(self, config: Config) -> None:
        """Use these settings for new logins."""
        self._config = config

    def logged_in(self, session: Session) -> Guest:
        """Return the owner of a user's connection, after its login."""
        login, config = session.login, self._config
        assert login is not None  # noqa: S101 - the SSH server calls this after a login
        assert config is not None  # noqa: S101 - no key is accepted before `reconfigure`
        self._number += 1
        user = User(
            session,
            login,
            partial(self._entry.asked, session),
            partial(self._entry.refused, session),
            name=f"{login.identity}/{self._number}",
            budget=self._shared.budget,
            turns=self._turns,
            limit=at_most(
                config.users.get(login.name, _REMOVED).max_channels, f"users.{login.name}.max_channels"
            ),
            tasks=self._tasks,
        )
        self._users.add(user)
        user.ended.add_done_callback(lambda _: self._users.discard(user))
        return user

    def leave(self) -> None:
        """End each connection as soon as it has no channel."""
        for user in self._users:
            self._tasks.spawn(user.leave(), name="leave")

    async def close(self) -> None:
        """Wait until every user is gone. The SSH server must have ended their connections before."""
        await self._tasks.close()
