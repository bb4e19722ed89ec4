"""The users that have logged in to the SSH server: they jump, by the SSH entry."""

from __future__ import annotations

from functools import partial
from typing import Final

from proxy.config.model import Config, UserConfig
from proxy.daemon.connections import Shared
from proxy.entries.ssh_entry import SshEntry
from proxy.runtime.tasks import Tasks
from proxy.ssh.server.session import Guest, Session
from proxy.ssh.server.user import User
from proxy.ssh.turns import Turns

_REMOVED: Final = UserConfig()
"""Of users whom a reload has removed, and whose keys go a moment later."""


class Users:
    """All of them, as long as they are connected."""

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
        """Use these settings for users who come from now on."""
        self._config = config

    def logged_in(self, session: Session) -> Guest:
        """Take over the login of a user."""
        login, config = session.login, self._config
        assert login is not None  # noqa: S101 - the SSH server calls this after a login
        assert config is not None  # noqa: S101 - nobody has a key before
        self._number += 1
        user = User(
            session,
            login,
            partial(self._entry.asked, session),
            name=f"{login.identity}/{self._number}",
            budget=self._shared.budget,
            turns=self._turns,
            max_channels=config.users.get(login.name, _REMOVED).max_channels,
            tasks=self._tasks,
        )
        self._users.add(user)
        user.ended.add_done_callback(lambda _: self._users.discard(user))
        return user

    def leave(self) -> None:
        """End each connection when it has no channel left."""
        for user in self._users:
            self._tasks.spawn(user.leave(), name="leave")

    async def close(self) -> None:
        """End what is left of them. The SSH server has ended their connections by then."""
        await self._tasks.close()
