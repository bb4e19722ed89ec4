"""Uses an ssh-agent, with a deadline for each of its answers.

An agent may hang, for example because it asks a user who is away. Then the other keys are tried, as ssh(1)
does. If the server accepts none of them, the error also says why the agent failed.

The agent is asked for its keys before the login waits for its turn at the server (`proxy/ssh/handshakes.py`),
and the turn ends when the agent is asked for a signature. So no other gateway waits for this agent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import asyncssh

from proxy.errors import CredentialsUnusable, RetryClass
from proxy.ssh.login.prepared import Prepared

T = TypeVar("T")

_HINT: Final = (
    "SSH_AUTH_SOCK, or IdentityAgent in ssh_config, names it. Does it answer? SSH_AUTH_SOCK=PATH ssh-add "
    "-l. It may wait for "
    "somebody to confirm (ssh-add -c), or to touch a security key; kubemux needs a key that it can use alone"
)


class Agent(asyncssh.SSHAgentClient):
    """The ssh-agent at `path`, for one login. If it fails, `failure` says why.

    Its keys are offered in its own order, but after those that an IdentityFile names, which keep the order of
    the file (ssh_config(5)). sshd counts the offers, and ends the login after MaxAuthTries.
    """

    def __init__(self, path: str, seconds: float, named: Sequence[bytes] = ()) -> None:
        super().__init__(path)
        self.failure = ""
        self.on_accepted: Callable[[], None] = lambda: None
        """Called when asyncssh requests a signature: the server has accepted the key (RFC 4252 7)."""
        self._places = {public: place for place, public in enumerate(named)}
        self._path = path
        self._seconds = seconds

    async def keys(self, only: Sequence[bytes] | None) -> Sequence[asyncssh.SSHKeyPair]:
        """The agent's keys, in the order of the class docstring; with `only`, those in `only`.

        Empty if the agent fails; `failure` then says why.
        """
        try:
            keys = await self._within(self._listed(only))
        except ValueError:
            return []
        return sorted(keys, key=lambda pair: self._places.get(pair.public_data, len(self._places)))

    async def sign(self, key_blob: bytes, data: bytes, flags: int = 0) -> bytes:
        """Sign `data`; asyncssh calls this. Raises ValueError if the agent does not sign."""
        self.on_accepted()
        return await self._within(super().sign(key_blob, data, flags))

    async def _listed(self, only: Sequence[bytes] | None) -> Sequence[asyncssh.SSHKeyPair]:
        keys = await self.get_keys(only)
        self.close()  # this login may have to wait for its turn, and the agent may be restarted meanwhile
        await self.wait_closed()
        return keys

    async def _within(self, answer: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._seconds):
                return await answer
        except TimeoutError:
            self.close()  # otherwise a late answer would count as the answer to the next request
            self._seconds = 0.0
            self.failure = self.failure or f"the ssh-agent at {self._path} does not answer"
            raise ValueError(self.failure) from None
        except ValueError as exc:
            self.failure = self.failure or f"the ssh-agent at {self._path} cannot be used: {exc}"
            raise


@asynccontextmanager
async def connected(prepared: Prepared) -> AsyncIterator[Agent | None]:
    """Put the keys of the agent of `prepared`, if it has one, before the other keys.

    The agent can sign until the end of the block. Raises CredentialsUnusable if it fails and there is no
    other key.
    """
    if prepared.agent is None:
        yield None
        return
    options = prepared.options
    agent = Agent(prepared.agent, prepared.connect_timeout / 2, prepared.named_keys)
    try:
        options.client_keys = [*await agent.keys(prepared.agent_keys), *(options.client_keys or ())]
        if agent.failure and not options.client_keys:
            failure = unusable(agent, f"there is no other key for {options.host}:{options.port}")
            failure.retry = RetryClass.SOON  # nothing was sent
            raise failure
        yield agent
    finally:
        agent.close()


def unusable(agent: Agent, besides: str) -> CredentialsUnusable:
    """Why there can be no login: the agent's failure, and what is wrong with the other keys."""
    return CredentialsUnusable(f"{agent.failure}, and {besides}", hint=_HINT)
