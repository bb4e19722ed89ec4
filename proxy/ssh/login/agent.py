"""An ssh-agent that has to answer in time: one that hangs (its own hardware, a question to a user who is
away) is passed over.

As with ssh(1), the other keys are tried then; what failed is kept for the error if the server takes none of
them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import asyncssh

T = TypeVar("T")


class Agent(asyncssh.SSHAgentClient):
    """The agent at `path`, for one login. `failure` says what was wrong with it, if anything was.

    Its keys are offered in its own order, but those that IdentityFile names first, in theirs (ssh_config(5),
    IdentityFile): sshd counts, and ends the login after MaxAuthTries.
    """

    def __init__(self, path: str, seconds: float, named: Sequence[bytes] = ()) -> None:
        super().__init__(path)
        self.failure = ""
        self._places = {public: place for place, public in enumerate(named)}
        self._path = path
        self._seconds = seconds

    async def get_keys(self, identities: Sequence[bytes] | None = None) -> Sequence[asyncssh.SSHKeyPair]:
        """Asyncssh's call. It takes ValueError for an agent without keys."""
        keys = await self._within(super().get_keys(identities))
        return sorted(keys, key=lambda pair: self._places.get(pair.public_data, len(self._places)))

    async def sign(self, key_blob: bytes, data: bytes, flags: int = 0) -> bytes:
        """Asyncssh's call, through a key. It takes ValueError for a key that cannot be used."""
        return await self._within(super().sign(key_blob, data, flags))

    async def _within(self, answer: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._seconds):
                return await answer
        except TimeoutError:
            self.close()  # its answer would be taken for that to the next question
            self._seconds = 0.0
            self.failure = self.failure or f"the ssh-agent at {self._path} does not answer"
            raise ValueError(self.failure) from None
        except ValueError as exc:
            self.failure = self.failure or f"the ssh-agent at {self._path} cannot be used: {exc}"
            raise
