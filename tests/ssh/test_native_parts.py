"""The parts of the native data plane without a server: who owns which buffer, and what goes in
and comes out.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import Mock

import asyncssh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.ssh.native.buffers import RECEIVED, SENT
from proxy.ssh.native.incoming import ASYNCSSH_COST, LARGEST_DATA, TURN, Incoming
from proxy.ssh.native.native_plane import _tcp_socket
from proxy.ssh.native.outgoing import DATA_AT, Outgoing
from proxy.ssh.native.valve import Valve
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.errors import ProtocolError
from proxy.ssh.native.wire.keys import Keys
from proxy.ssh.native.wire.packets import HEADER, PADDING, TAG, Opener, Sealer

KEYS = Keys(bytes(16), bytes(12))


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@contextmanager
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


@pytest.mark.both_loops
async def test_a_buffer_is_used_again_only_when_the_transport_holds_nothing_of_it() -> None:
    """uvloop keeps a memoryview of bytes that the kernel did not accept, so new packets must not be sealed
    into that buffer.
    """
    sizes: list[int] = []
    with ends() as (ours, theirs):
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        transport.set_write_buffer_limits(high=0)
        outgoing = Outgoing(transport, KEYS, on_written=sizes.append, on_turn=lambda _: None)
        payloads = [bytes((number,)) * 100_000 for number in range(1, 9)]
        expected = sum(HEADER + len(payload) + 19 + TAG for payload in payloads)
        for payload in payloads[:4]:
            outgoing.put(payload)
            outgoing.flush()
        assert sizes[-1] > 0  # the kernel was full
        held = {id(buffer.obj) for buffer in outgoing._lent}
        assert id(outgoing._buffer.obj) not in held
        assert len(held) == len(outgoing._lent)
        for payload in payloads[4:]:
            outgoing.put(payload)
            outgoing.flush()
        found: list[bytes] = []
        wire = b""
        async with asyncio.timeout(30):
            while len(found) < len(payloads):
                wire += await loop.sock_recv(theirs, 1 << 20)
                assert len(wire) <= expected
                opener, found = Opener(*KEYS, largest=SENT.size), []
                buffer, start = memoryview(bytearray(wire)), 0
                while opened := opener.open(buffer, start, len(buffer)):
                    first, last, start = opened
                    found.append(bytes(buffer[first:last]))
        assert found == payloads
        lent = len(outgoing._lent)
        outgoing.put(b"last")
        outgoing.flush()
        assert not outgoing._lent
        assert lent >= 4
        await turns(2)
        assert not outgoing._buffer  # a link without anything to send has no buffer
        assert len(SENT.spares) <= 4
        transport.abort()
        await turns(3)


async def test_small_writes_to_a_stalled_link_take_no_more_buffers() -> None:
    with ends() as (ours, theirs):
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        outgoing = Outgoing(transport, KEYS, on_written=lambda _: None, on_turn=lambda _: None)
        while not transport.get_write_buffer_size():
            outgoing.put(bytes(100_000))
            outgoing.flush()
        held = len(outgoing._lent)
        for _ in range(1000):
            outgoing.put(b"a request")
            outgoing.flush()
        assert len(outgoing._lent) == held
        transport.abort()
        await turns(3)
        del theirs


async def test_the_packets_of_a_turn_go_out_in_one_write() -> None:
    writes: list[int] = []

    class Counting:
        def write(self, data: bytes | memoryview) -> None:
            writes.append(len(data))

        def get_write_buffer_size(self) -> int:
            return 0

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
        def is_closing(self) -> bool:
            return False

        def pause_reading(self) -> None: ...
        def resume_reading(self) -> None: ...

    ended: list[int] = []
    outgoing = Outgoing(Counting(), KEYS, on_written=lambda _: None, on_turn=ended.append)
    for number in range(10):
        outgoing.put_data(number, memoryview(bytearray(DATA_AT + 3 + PADDING)), DATA_AT, 3)
    assert writes == []
    await turns(2)
    assert len(writes) == 1
    assert ended == writes
    outgoing.schedule()
    await turns(2)
    assert ended == [*writes, 0]  # nothing was sent, so the acknowledgement has to be asked for


class Heard:
    """Records what an `Incoming` passes on."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.others: list[bytes] = []
        self.errors: list[ProtocolError] = []
        self.leave = False
        self.kept: list[memoryview] = []
        self.is_paused = False
        self.is_there = True
        self.incoming = Incoming(
            KEYS,
            Valve(self),
            on_message=self.message,
            on_opened=lambda: False,
            on_other=self.other,
            on_error=self.errors.append,
            on_read=lambda: None,
            on_lost=lambda _: None,
            on_congestion=lambda _: None,
        )

    def message(self, kind: int, payload: memoryview) -> bool:
        assert kind == payload[0]
        self.messages.append(bytes(payload))
        if self.leave:
            self.kept.append(payload)
        return self.leave

    def other(self, packet: memoryview, _: int) -> bool:
        self.others.append(bytes(packet))
        return self.is_there

    def write(self, data: bytes | memoryview) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


def wire(payloads: list[bytes], keys: Keys = KEYS) -> bytes:
    sealer, buffer, end = (
        Sealer(*keys),
        memoryview(bytearray(sum(len(payload) + 64 for payload in payloads))),
        0,
    )
    for payload in payloads:
        buffer[end + HEADER : end + HEADER + len(payload)] = payload
        end = sealer.seal(buffer, end, len(payload))
    return bytes(buffer[:end])


channel_messages = st.builds(
    lambda kind, rest: bytes((kind,)) + rest,
    st.integers(messages.OPEN_CONFIRMATION, messages.FAILURE),
    st.binary(max_size=200) | st.integers(0, LARGEST_DATA).map(bytes),
)


@settings(deadline=None)  # a busy machine
@given(st.lists(channel_messages, max_size=12), st.lists(st.integers(20, 70_000), min_size=1), st.booleans())
def test_messages_come_out_whole_however_they_arrive(
    payloads: list[bytes], reads: list[int], leave: bool
) -> None:
    heard = Heard()
    heard.leave = leave
    data, turn = wire(payloads), 0
    while data:
        room = heard.incoming.get_buffer(-1)
        size = min(len(room), len(data), reads[turn % len(reads)])
        assert size > 0
        room[:size] = data[:size]
        data, turn = data[size:], turn + 1
        heard.incoming.buffer_updated(size)
    assert heard.messages == payloads
    # Data that a user has kept was not overwritten.
    assert [bytes(view) for view in heard.kept] == (payloads if leave else [])
    assert not heard.errors


@given(st.lists(st.binary(min_size=1, max_size=5000), min_size=1, max_size=20))
def test_noise_ends_in_at_most_one_error_and_bounded_memory(noise: list[bytes]) -> None:
    heard = Heard()
    for data in noise:
        heard.incoming.data_received(data)
    assert not heard.messages
    assert not heard.others
    assert len(heard.errors) <= 1
    assert len(heard.incoming._view) <= 1 << 20


def test_kept_messages_are_packed_into_few_buffers() -> None:
    heard = Heard()
    heard.leave = True
    payloads = [bytes((messages.DATA,)) * 1000] * 300
    data = wire(payloads)
    for start in range(0, len(data), 1500):
        heard.incoming.data_received(data[start : start + 1500])
        heard.incoming.turn_ends()
    assert heard.messages == payloads
    assert [bytes(view) for view in heard.kept] == payloads
    assert len({id(view.obj) for view in heard.kept}) <= 1 + len(data) // (RECEIVED.size - (48 << 10))


def test_leftover_bytes_before_a_protocol_error_are_not_reused() -> None:
    """The plane delivers the data that it kept for one channel before it reads a message of another channel,
    and that message may break the protocol.
    """
    heard, kept = Heard(), list[memoryview]()

    def message(_: int, payload: memoryview) -> bool:
        kept.append(payload)
        if len(kept) == 2:
            raise ProtocolError("a breach")
        return False

    heard.incoming._on_message = message
    heard.incoming.data_received(wire([bytes((messages.DATA,)) + bytes(LARGEST_DATA)] * 2))
    assert len(heard.errors) == 1
    assert all(spare.obj is not kept[0].obj for spare in RECEIVED.spares)


def test_packets_behind_newkeys_wait_for_the_keys() -> None:
    heard, fresh = Heard(), Keys(b"k" * 16, b"n" * 12)
    before, after = bytes((messages.DATA,)) + b"before", bytes((messages.DATA,)) + b"after"
    heard.incoming.data_received(wire([before, bytes((messages.NEWKEYS,))]) + wire([after], fresh))
    assert heard.messages == [before]
    assert [packet[HEADER] for packet in heard.others] == [messages.NEWKEYS]
    heard.incoming.change_keys(fresh)
    assert heard.messages == [before, after]
    assert not heard.errors


SMALL = bytes((messages.WINDOW_ADJUST,)) + bytes(8)
IGNORE = bytes((2,)) + bytes(4)


@pytest.mark.parametrize(("message", "at_once"), [(SMALL, TURN), (IGNORE, TURN // ASYNCSSH_COST)])
def test_a_turn_opens_a_bounded_number_of_packets(message: bytes, at_once: int) -> None:
    heard = Heard()
    heard.incoming.data_received(wire([message] * (2 * at_once + 1)))
    for opened in (at_once, 2 * at_once):
        assert len(heard.messages) + len(heard.others) == opened
        assert heard.is_paused
        heard.incoming.turn_ends()
    assert len(heard.messages) + len(heard.others) == 2 * at_once + 1
    assert not heard.is_paused


def test_reading_resumes_only_when_every_reason_to_pause_is_gone() -> None:
    """The turn's share is used up, and the next packet needs keys that are not set yet. Neither alone resumes
    reading.
    """
    heard = Heard()
    newkeys = bytes((messages.NEWKEYS,))
    fresh = Keys(b"k" * 16, b"n" * 12)
    heard.incoming.data_received(
        wire([IGNORE] * (TURN // ASYNCSSH_COST - 1) + [newkeys]) + wire([SMALL] * TURN, fresh)
    )
    assert len(heard.others) == TURN // ASYNCSSH_COST
    heard.incoming.turn_ends()
    assert heard.is_paused
    heard.incoming.change_keys(fresh)
    assert (len(heard.messages), heard.is_paused) == (TURN, True)
    heard.incoming.turn_ends()
    assert not heard.is_paused


def test_data_that_waits_for_its_turn_is_not_copied() -> None:
    """It goes to another buffer only if a memoryview of earlier data still exists; and a jump host may
    deliver more meanwhile.
    """
    heard = Heard()
    heard.leave = True
    payloads = [bytes((messages.DATA, number % 256)) + bytes(600) for number in range(4 * TURN)]
    heard.incoming.data_received(wire(payloads))
    while heard.is_paused:
        heard.incoming.turn_ends()
    assert heard.messages == payloads
    assert [bytes(view) for view in heard.kept] == payloads


def test_nothing_is_opened_after_the_connection_is_gone() -> None:
    heard = Heard()
    heard.is_there = False
    heard.incoming.data_received(wire([bytes((1,)) + bytes(12), SMALL, IGNORE]))
    assert (len(heard.others), heard.messages) == (1, [])


def test_an_option_that_cannot_be_set_does_not_cost_the_transport_its_descriptor() -> None:
    """As on a system without TCP_NOTSENT_LOWAT; a UDP socket has none either."""
    with socket.socket(type=socket.SOCK_DGRAM) as theirs:
        conn = Mock(spec=asyncssh.SSHClientConnection)
        conn.get_extra_info.return_value = theirs
        with pytest.raises(OSError, match="Protocol not available"):
            _tcp_socket(conn)
        theirs.getsockname()


def test_the_header_leaves_room_where_a_client_is_read_into() -> None:
    assert DATA_AT == HEADER + messages.DATA_HEADER


@pytest.mark.parametrize(
    "received", [b"", wire([bytes((messages.EOF,)) * 5])[:20]], ids=["nothing", "half a packet"]
)
def test_a_link_that_has_ended_keeps_no_buffer(received: bytes) -> None:
    """The objects of a link stay until Python collects cycles: 1,000 links that ended at once had 160 MB."""
    heard = Heard()
    if received:
        heard.incoming.data_received(received)
    heard.incoming.get_buffer(-1)  # for the read that finds the end
    assert len(heard.incoming._view) == RECEIVED.size
    heard.incoming.connection_lost(None)
    assert not heard.incoming._view
    assert RECEIVED.spares


async def test_a_link_that_has_ended_leaves_lent_buffers_to_the_transport() -> None:
    sizes = iter((0, 1))  # it takes nothing
    transport = Mock(is_closing=lambda: False, get_write_buffer_size=lambda: next(sizes))
    outgoing = Outgoing(transport, KEYS, on_written=lambda _: None, on_turn=lambda _: None)
    outgoing.put_data(1, memoryview(bytearray(DATA_AT + 3 + PADDING)), DATA_AT, 3)
    outgoing.flush()
    assert len(outgoing._lent) == 1
    outgoing.lost()
    assert not outgoing._lent
