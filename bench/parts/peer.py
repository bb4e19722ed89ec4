"""A gateway without a network: it accepts every channel, and closes each when the client closes it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import Channel
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.link import Link
from proxy.ssh.native import native_plane
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.packets import HEADER, OVERHEAD, Opener, Sealer
from proxy.ssh.turns import Turns
from tests.fuzz.border import KEYS, Border, Wire

TARGET = Endpoint("10.0.0.1", 6443)
ORIGIN = Endpoint("127.0.0.1", 1)
WINDOW = 1 << 30
LARGEST_PACKET = 64 << 10
SECONDS = 60.0
"""Seconds to open a channel. The peer answers in the same turn of the loop, or the test has a mistake."""


def timed(benchmark: Any, work: Callable[..., object], *, items: int, **how: object) -> object:
    """Call `benchmark.pedantic`, which has no types. `items` is how many things a call of `work` handles: it
    is stored with the result.
    """
    benchmark.extra_info["items"] = items
    return benchmark.pedantic(work, **how)


def sealed(sealer: Sealer, payloads: list[bytes]) -> bytes:
    """Seal each payload, and return the packets one after the other."""
    buffer, end = memoryview(bytearray(sum(len(payload) + OVERHEAD for payload in payloads))), 0
    for payload in payloads:
        buffer[end + HEADER : end + HEADER + len(payload)] = payload
        end = sealer.seal(buffer, end, len(payload))
    return bytes(buffer[:end])


class Connection(Border):
    """Replaces the asyncssh connection of a `Link`."""

    _kex_complete = True

    def is_server(self) -> bool:
        """False: the peer is a gateway."""
        return False

    def get_extra_info(self, name: str, default: object = None) -> Any:
        """Return the default: there is no socket."""
        del name
        return default

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        """Every other attribute is a function that does nothing."""
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_: None


class Peer:
    """The peer of a link, and a `Way` with that link.

    It counts the bytes that it receives. With `is_deaf` it does not decrypt them.
    """

    def __init__(self) -> None:
        self.heard = 0
        self.is_deaf = False
        self.wire = Wire(self._hear)
        self.sealer = Sealer(*KEYS)
        self._opener = Opener(*KEYS, largest=LARGEST_PACKET)
        self._answers: list[bytes] = []
        self._closed: set[bytes] = set()
        """Channels that the peer has closed before us."""
        self.budget = MemoryBudget(1 << 30, connections=10_000)
        conn: Any = Connection(self.wire)
        with patch.dict(vars(native_plane), Handover=conn):
            self.link = Link((conn,), server="peer", budget=self.budget, turns=Turns(), name="link")

    is_up = True
    is_idle = False

    def is_given_up(self, patience: float) -> bool:
        del patience
        return False

    @property
    def connect_timeout(self) -> float:
        """See `Way`."""
        return 10.0

    async def open_channel(
        self,
        target: Endpoint,
        *,
        origin: Endpoint,
        hold_until: float,
        answer_by: float = math.inf,
        is_needed: bool = True,
    ) -> Channel:
        """Open a channel as a gateway with one link does."""
        del hold_until, answer_by, is_needed
        return await self.link.open_channel(target, origin=origin, timeout=SECONDS)

    def arrive(self, data: bytes) -> None:
        """Let the link read `data`."""
        self.wire.arrived += data
        self.wire.deliver(1 << 18)

    def _hear(self, data: bytes | memoryview) -> None:
        self.heard += len(data)
        if self.is_deaf:
            return
        view, start = memoryview(bytearray(data)), 0
        while opened := self._opener.open(view, start, len(view)):
            first, last, start = opened
            self._answer(bytes(view[first:last]))

    def _answer(self, message: bytes) -> None:
        if message[0] == messages.OPEN:
            sender = 1 + 4 + int.from_bytes(message[1:5])  # after the channel's type
            number = message[sender : sender + 4]
            rest = b"".join(value.to_bytes(4) for value in (WINDOW, LARGEST_PACKET))
            # The peer uses our channel number as its own.
            answer = bytes((messages.OPEN_CONFIRMATION,)) + number * 2 + rest
            self._closed.discard(number)
            self._later(answer)
        elif message[0] == messages.EOF:  # the client has closed its side, so the API server closes
            self._closed.add(message[1:5])
            self._later(message)
            self._later(bytes((messages.CLOSE,)) + message[1:5])
        elif message[0] == messages.CLOSE and message[1:5] not in self._closed:
            self._later(message)

    def _later(self, message: bytes) -> None:
        if not self._answers:
            asyncio.get_running_loop().call_soon(self._say)
        self._answers.append(message)

    def _say(self) -> None:
        answers, self._answers = self._answers, []
        self.arrive(sealed(self.sealer, answers))
