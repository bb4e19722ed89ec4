"""A whole native data plane between a gateway that has the keys and sends anything, and clients that do
anything.

The fuzzer's bytes are a script: messages of the gateway, key changes, a transport that stalls, and actions of
clients on their channels. For every script:

* nothing is raised;
* the first broken rule ends the link, and nothing is delivered after it;
* memory stays within the windows;
* each client's end is reported once;
* at the end, the budget is released completely.

As long as the gateway follows the rules, the link does not end, the gateway's data arrives in order, and the
link breaks no rule itself (`tests.fuzz.ear`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast
from unittest.mock import patch

from proxy.errors import LinkError, MemoryExhausted, ProxyError
from proxy.relay.budget import MemoryBudget
from proxy.relay.interfaces import OpenRequest, Pieces
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.data_plane import Refusal
from proxy.ssh.native import native_plane
from proxy.ssh.native.incoming import ASYNCSSH_COST, TURN
from proxy.ssh.native.native_channel import NativeChannel
from proxy.ssh.native.valve import Reason
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.errors import ProtocolError
from proxy.ssh.native.wire.packets import HEADER, OVERHEAD, Sealer
from proxy.ssh.open_requests import at_most
from proxy.ssh.turns import Turns
from tests.fuzz.border import KEYS, Border, ManualLoop, Wire
from tests.fuzz.choices import Choices
from tests.fuzz.gateway import Gateway
from tests.fuzz.takeover import Takeover

MEMORY = 4 << 20
UNREAD = 16 << 10
"""Bytes of answers that a gateway may leave unread; few, so that a script can reach the limit."""
CHANNELS = 4
REQUESTS = 3
ADDRESS = Endpoint("10.0.0.1", 6443)
TAKEOVER = b"\xe0"
"""An input with this first byte is for the takeover."""
LARGEST_BUFFER = 1 << 20
"""Bytes of incomplete packets that a link may hold."""


class Client:
    """The user of a channel, which may pause it at any moment. `sent` is what an honest gateway has sent."""

    def __init__(self, channel: NativeChannel, gateway: Gateway, answers: list[Refusal | None]) -> None:
        self._gateway = gateway
        self.channel = channel
        self.answers = answers
        """The gateway's answer to the open; there must be only one."""
        self.pauses = False
        self.is_attached = False
        self.has_ended = False
        """Whether the client has ended its direction."""
        self.sent = bytearray()
        self._taken = 0
        self.is_lost = False
        self._had_eof = False

    def channel_data(self, pieces: Pieces, nbytes: int) -> None:
        """Must not be called after an end, and the data must be in order."""
        assert not self.is_lost
        assert not self._had_eof
        data = b"".join(pieces)
        assert len(data) == nbytes
        start, self._taken = self._taken, self._taken + nbytes
        assert not self._gateway.is_honest or self.sent[start : self._taken] == data
        if self.pauses:
            self.channel.pause_reading()

    def channel_eof(self) -> None:
        """Must be called once."""
        assert not self._had_eof
        assert not self.is_lost
        self._had_eof = True

    def channel_full(self) -> None:
        """Must not be called after the end."""
        assert not self.is_lost

    def channel_writable(self) -> None:
        """Must not be called after the end."""
        assert not self.is_lost

    def channel_lost(self, error: ProxyError | None) -> None:
        """Must be called once."""
        del error
        assert not self.is_lost
        self.is_lost = True


class Scenario:
    """One link, from its begin to its end."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        self._clients: list[Client] = []
        self._requests: list[OpenRequest] = []
        """The unanswered requests of the peer."""
        self._latest: dict[int, Client] = {}
        """The clients, by our channel numbers."""
        self._errors: list[ProtocolError] = []
        self._budget = MemoryBudget(MEMORY, connections=CHANNELS)
        self._gateway = Gateway(choices, self._latest)
        self._sealer = Sealer(*KEYS)
        self._wire = Wire(self._gateway.hear)
        self._border = Border(self._wire)
        conn = cast("Any", self._border)
        with patch.dict(vars(native_plane), Handover=self._border):
            self._plane = native_plane.NativePlane(
                conn,
                self._budget,
                Turns(),
                on_error=self._errors.append,
                on_lost=lambda _: None,
                on_ended=lambda: None,
                on_request=self._requests.append,
                limit=at_most(REQUESTS, "requests"),
            )
        self._plane.round_trip = choices.below(4) / 2  # with a long round trip, windows grow
        self._opened = 0
        incoming = cast("Any", self._plane)._incoming
        incoming._on_message, incoming._on_other = (
            self._counted(incoming._on_message, 1),
            self._counted(incoming._on_other, ASYNCSSH_COST),
        )

    def _counted(self, handler: Callable[..., bool], weight: int) -> Callable[..., bool]:
        def counted(*args: object) -> bool:
            self._opened += weight
            return handler(*args)

        return counted

    async def run(self) -> None:
        """Run the script, and end the link."""
        steps = (*[self._say] * 4, *[self._act] * 3, *[self._turn] * 2, self._rarely)
        self._open()
        while not self._choices.is_over and not self._errors:
            step = steps[self._choices.below(len(steps))]
            step()
            if step == self._turn:
                await self._go_round()
            self._check()
        await self._settle()
        await self._end()

    async def _go_round(self) -> int:
        """Run the loop once; return how much was opened since the last time."""
        valve, before = cast("Any", self._plane)._valve, self._opened
        was_deaf = valve.is_closed_by(Reason.UNREAD)
        await asyncio.sleep(0)
        # The last message of a turn may be an expensive one, so each of the two turns may exceed its share by
        # one.
        assert self._opened < 2 * (TURN + ASYNCSSH_COST), "at most the rest of one turn, and the next"
        if was_deaf and valve.is_closed_by(Reason.UNREAD):
            assert self._opened == before, "the gateway is heard, and does not read what it is answered"
        opened, self._opened = self._opened, 0
        return opened

    async def _settle(self) -> None:
        """Run the loop until what an honest gateway has sent is opened, if the link may read."""
        idle = 0
        while idle < 3:
            idle = 0 if await self._go_round() else idle + 1
            self._check()
        incoming = cast("Any", self._plane)._incoming
        if self._gateway.is_honest and not (self._wire.is_stalled or self._border.waits_for_keys):
            assert not self._wire.arrived
            assert incoming._start == incoming._end

    def _rarely(self) -> None:
        (self._open, self._open, self._keys, self._stall, self._noise, self._flood)[self._choices.below(6)]()

    def _turn(self) -> None:
        """Let time pass, and run the loop."""
        cast("ManualLoop", asyncio.get_running_loop()).now += self._choices.below(20)

    # -------------------------------------------------------------------------------------------- the gateway

    def _say(self) -> None:
        if not (body := self._gateway.message()):
            return
        buffer = memoryview(bytearray(len(body) + OVERHEAD))
        buffer[HEADER : HEADER + len(body)] = body
        self._arrive(bytes(buffer[: self._sealer.seal(buffer, 0, len(body))]))
        if body[0] == messages.NEWKEYS:
            self._sealer = Sealer(*KEYS)

    def _flood(self) -> None:
        message, times = self._gateway.flood()
        buffer, end = memoryview(bytearray(times * (len(message) + OVERHEAD))), 0
        for _ in range(times):
            buffer[end + HEADER : end + HEADER + len(message)] = message
            end = self._sealer.seal(buffer, end, len(message))
        self._arrive(bytes(buffer[:end]))

    def _noise(self) -> None:
        self._arrive(self._gateway.noise())

    def _arrive(self, data: bytes) -> None:
        """Deliver the data in up to 64 reads, as the script wants.

        A paused transport keeps it (during a key change).
        """
        self._wire.arrived += data
        self._wire.deliver(1 + len(self._wire.arrived) // 64 + self._choices.size(64 << 10))

    def _keys(self) -> None:
        """Begin a key exchange, which holds back what clients send; or set the new keys of one direction."""
        if self._border.waits_for_keys:
            self._border.waits_for_keys = False
            self._plane.receiving_keys(KEYS)
            self._wire.deliver(1 << 16)
        elif self._plane._outgoing.is_rekeying:
            self._plane.send_packet(bytes((messages.NEWKEYS,)))
            self._plane.sending_keys(KEYS)
        else:
            self._plane.send_packet(bytes((messages.KEXINIT,)) + bytes(16))

    def _stall(self) -> None:
        """Stall the transport, or let it send again."""
        self._wire.stall(is_stalled=not self._wire.is_stalled)

    # -------------------------------------------------------------------------------------------- the clients

    def _open(self) -> None:
        if len(self._plane) >= CHANNELS or not (window := self._budget.acquire_initial()):
            return
        answers: list[Refusal | None] = []
        channel = self._plane.open(window, ADDRESS, ADDRESS, answers.append)
        client = self._latest[channel.number] = Client(channel, self._gateway, answers)
        self._clients.append(client)

    def _act(self) -> None:
        """Let a client do something that a relay may do with its channel, in any order."""
        choices = self._choices
        if self._requests and choices.flag():
            self._reply(self._requests.pop())
            return
        if not self._clients:
            return
        client = self._clients[-1 - choices.below(len(self._clients))]
        channel, what = client.channel, choices.below(16)
        if not client.answers:
            if what == 0:
                channel.abort()
        elif client.answers[0] is not None:
            channel.abort()  # the user has given up before the refusal
        elif not client.is_attached:
            client.is_attached = True
            channel.attach(client)
        elif what < 8 and not client.has_ended:
            buffer = channel.get_buffer(-1)
            assert len(buffer), "an empty buffer ends a connection"
            channel.buffer_updated(1 + choices.size(len(buffer) - 1))
        elif what < 11 and what >= 8:
            client.pauses = choices.flag()
            channel.pause_reading()
        elif what < 13:
            client.pauses = False
            channel.resume_reading()
        else:
            client.has_ended = True
            (channel.write_eof, channel.close, channel.abort)[what - 13]()

    def _reply(self, request: OpenRequest) -> None:
        """Open the channel that the peer has asked for, or refuse it."""
        if self._choices.below(4) == 0:
            request.refuse(messages.PROHIBITED, "no")
            return
        try:
            channel = request.accept()
        except ConnectionResetError:
            assert self._errors, "the link is there"
        except MemoryExhausted:
            request.refuse(messages.SHORTAGE, "no memory")
        else:
            assert isinstance(channel, NativeChannel)
            client = self._latest[channel.number] = Client(channel, self._gateway, [None])
            self._clients.append(client)

    # ---------------------------------------------------------------------------------------------- the rules

    def _check(self) -> None:
        assert len(self._errors) <= (not self._gateway.is_honest), self._errors
        assert len(cast("Any", self._plane)._incoming._view) <= LARGEST_BUFFER
        assert len(self._requests) <= REQUESTS
        assert sum(len(cast("Any", client.channel)._undelivered) for client in self._clients) <= MEMORY

    async def _end(self) -> None:
        """End the link: everything must be released, and every client must have been told."""
        self._wire.is_over = True
        self._plane.lost(self._errors[0] if self._errors else LinkError("over"))
        for client in self._clients:
            client.channel.abort()
        for request in self._requests:
            request.refuse(messages.PROHIBITED, "too late")
        for _ in range(3):
            await asyncio.sleep(0)
        assert all(len(client.answers) == 1 for client in self._clients)
        assert not len(self._plane), [client.channel for client in self._clients]
        assert self._budget.used == 0, self._budget


async def _live(data: bytes) -> None:
    if data[:1] >= TAKEOVER:
        await Takeover(Choices(data[1:])).run()
        return
    with patch.dict(vars(native_plane), MOST_UNREAD=UNREAD):
        await Scenario(Choices(data)).run()


def run(data: bytes) -> None:
    """Run one input. Raises if a rule is broken."""
    loop = ManualLoop()
    try:
        loop.run_until_complete(_live(data))
    finally:
        loop.close()
    if loop.unhandled:
        raise AssertionError(loop.unhandled)
