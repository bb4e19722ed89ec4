"""An ssh-agent that has to answer in time: one that hangs (its own hardware, a question to a user who is away) is passed over.

As with ssh(1), the other keys are tried then; what failed is kept for the error if the server takes none of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import asyncssh

T = TypeVar("T")


class Agent(asyncssh.SSHAgentClient):
    """The agent at `path`, for one login. `failure` says what was wrong with it, if anything was."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__(path)
        self.failure = ""
        self._path = path
        self._seconds = seconds

    async def get_keys(self, identities: Sequence[bytes] | None = None) -> Sequence[asyncssh.SSHKeyPair]:
        """Asyncssh's call. It takes ValueError for an agent without keys."""
        return await self._within(super().get_keys(identities))

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
