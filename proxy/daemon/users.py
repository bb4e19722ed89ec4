"""The users that have logged in to the SSH server. They open channels through the SSH entry."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import Final

from proxy.config.key_table import Who
from proxy.config.model import Config, UserConfig
from proxy.daemon.connections import Shared
from proxy.entries.ssh_entry import SshEntry
from proxy.errors.reasons import Reason
from proxy.runtime.tasks import Tasks
from proxy.snapshots import UserSnapshot
from proxy.ssh.open_requests import at_most
from proxy.ssh.server.login import Refused
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
        self._users: dict[str, set[User]] = {}
        self._number = 0
        self._tasks = Tasks("users")

    def __repr__(self) -> str:
        return f"<Users {sum(map(len, self._users.values()))}>"

    def reconfigure(self, config: Config) -> None:
        """Use these settings for new logins and channels."""
        self._config = config

    def logged_in(self, session: Session) -> Guest:
        """Return the owner of a user's connection, after its login. Raises Refused."""
        login = session.login
        assert login is not None  # noqa: S101 - the SSH server calls this after a login
        mine, most = self._users.setdefault(login.name, set()), self._limits(login.name).connections
        if len(mine) >= most:
            raise Refused(Reason.LIMIT, f"users.{login.name}.connections is {most}, and as many are open")
        self._number += 1
        user = User(
            session,
            login,
            partial(self._entry.asked, session),
            partial(self._entry.refused, session),
            name=f"{login.identity}/{self._number}",
            budget=self._shared.budget,
            turns=self._turns,
            limit=lambda _: self._why_full(login.name),
            tasks=self._tasks,
        )
        mine.add(user)
        user.ended.add_done_callback(lambda _: mine.discard(user))
        return user

    def snapshot(self) -> tuple[UserSnapshot, ...]:
        """The users in the order of the file."""
        return tuple(
            UserSnapshot(
                name,
                str(Who("user", name)),
                config.connections,
                tuple(
                    sorted((user.snapshot() for user in self._users.get(name, ())), key=lambda one: -one.age)
                ),
            )
            for name, config in (self._config.users if self._config else {}).items()
        )

    def _limits(self, name: str) -> UserConfig:
        assert self._config is not None  # noqa: S101 - no key is accepted before `reconfigure`
        return self._config.users.get(name, _REMOVED)

    def _why_full(self, name: str) -> str:
        count = sum(user.channels for user in self._users[name])
        return at_most(self._limits(name).max_channels, f"users.{name}.max_channels")(count)

    def leave(self) -> None:
        """End each connection as soon as it has no channel."""
        for user in chain.from_iterable(self._users.values()):
            self._tasks.spawn(user.leave(), name="leave")

    async def close(self) -> None:
        """Wait until every user is gone. The SSH server must have ended their connections before."""
        await self._tasks.close()
