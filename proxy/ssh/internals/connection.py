"""A connection that is up: its congestion, its key exchanges, and the answers of its peer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import asyncssh

from proxy.ssh.internals.parts import Connection

_MSG_UNIMPLEMENTED = 3
_MSG_REQUEST_FAILURE = 82
_KEEPALIVE: Final = b"keepalive@openssh.com"
_KEEPALIVE_MESSAGE: Final = b"\x50" + len(_KEEPALIVE).to_bytes(4) + _KEEPALIVE + b"\x01"
"""GLOBAL_REQUEST, the request's name, and that an answer is wanted."""


def limit_packets(conn: Connection, nbytes: int) -> None:
    """Accept no larger packet: the connection then ends with ProtocolError. asyncssh's limit is 256 KiB."""
    setattr(conn, "_max_recv_pktlen", nbytes)  # noqa: B010 - no attribute of that type


def session_id(conn: Connection) -> bytes:
    """The exchange hash of the first key exchange (RFC 4253 7.2)."""
    return cast("bytes", cast("Any", conn)._session_id)


def on_congestion(
    conn: Connection, high_water: int, pause: Callable[[], None], resume: Callable[[], None]
) -> None:
    """Call `pause` when more than `high_water` bytes wait in the connection's transport, then `resume`."""
    transport = cast("asyncio.WriteTransport", cast("Any", conn)._transport)
    transport.set_write_buffer_limits(high=high_water)
    # Instance attributes hide the empty methods of SSHConnection: transports look them up at each call.
    for name, callback in (("pause_writing", pause), ("resume_writing", resume)):
        setattr(conn, name, callback)


def is_exchanging_keys(conn: Connection) -> bool:
    """Whether the packets of channels wait until a key exchange ends (RFC 4253 9)."""
    return not cast("Any", conn)._kex_complete


def is_gone(conn: Connection) -> bool:
    """Whether the connection has ended.

    `is_closed()` becomes true later, when asyncssh has told all channels.
    """
    return cast("Any", conn)._transport is None


def pinger(
    conn: Connection, answered: Callable[[], None], send: Callable[[bytes], bool]
) -> Callable[[], None]:
    """Returns a function that asks the peer for an answer; `answered` is called when it has come, or when the
    connection ends.

    An SSH server or client refuses a global request that it does not know (RFC 4254 4). `send` sends a
    message for less CPU than asyncssh, and returns False if it cannot. It is not called during a key
    exchange: asyncssh may keep other requests until the exchange ends, and the answers come in the order in
    which the requests were sent.
    """
    inner, waiter = cast("Any", conn), _Waiter(answered)

    def ask() -> None:
        inner._global_request_waiters.append(waiter)
        if is_exchanging_keys(conn) or not send(_KEEPALIVE_MESSAGE):
            inner._send_global_request(_KEEPALIVE, want_reply=True)

    return ask


def take_answer(conn: Connection) -> bool:
    """The peer has answered a global request. If that is the request of a pinger, call its `answered`.
    Otherwise, or if asyncssh is busy with a packet, return False: asyncssh must get the answer.
    """
    inner = cast("Any", conn)
    waiters = inner._global_request_waiters
    if not waiters or not isinstance(waiters[0], _Waiter) or inner._recv_handler != inner._recv_pkthdr:
        return False
    inner._auth_final = True  # as asyncssh does: the peer may not log in again
    waiters.pop(0).set_result(None)
    return True


class _Waiter:
    """Stands for the future on which asyncssh waits for the answer to a global request."""

    __slots__ = ("_answered",)

    def __init__(self, answered: Callable[[], None]) -> None:
        self._answered = answered

    def cancelled(self) -> bool:
        """Nobody cancels it."""
        return False

    def set_result(self, result: object) -> None:
        """The answer has come. What it says is of no interest."""
        del result
        self._answered()


def received(conn: Connection) -> int:
    """The sequence number of the next packet of the peer."""
    return cast("int", cast("Any", conn)._recv_seq)


def stop_keepalive(conn: Connection) -> None:
    """End asyncssh's own keepalive."""
    if not is_gone(conn):
        conn.set_keepalive(0)


def accept_any_answer(conn: Connection) -> None:
    """Count UNIMPLEMENTED (RFC 4253 11.4) as an answer to the oldest global request, like a failure.

    Some servers answer an unknown global request in this way. For asyncssh that is no answer, so without this
    kubemux would end such a link as silent.
    """
    setattr(conn, "_packet_handlers", _HANDLERS)  # noqa: B010 - no attribute of that type


def _unimplemented(conn: Any, _kind: int, _sequence: int, packet: asyncssh.packet.SSHPacket) -> None:
    packet.get_uint32()
    packet.check_end()
    if conn._global_request_waiters:
        conn._process_global_response(_MSG_REQUEST_FAILURE, 0, asyncssh.packet.SSHPacket(b""))


_HANDLERS: Final = {
    **cast("Any", asyncssh.SSHClientConnection)._packet_handlers,  # those of the server, too
    _MSG_UNIMPLEMENTED: _unimplemented,
}
