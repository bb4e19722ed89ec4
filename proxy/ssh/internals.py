"""What kubemux needs of asyncssh that asyncssh's public interface does not offer.

An asyncssh connection ignores its transport's `pause_writing`, queues packets without bound during a key
exchange, never changes a channel's receive window, and has no call that measures a round trip.

Only this module, `native.handover` (for a link's bytes) and `metered` (for its limits) use asyncssh's private
parts. They are written for asyncssh 2.24, which pyproject.toml pins; `check` fails if another release lacks
one of these parts. A connection is one that we have dialled, or one of a client of our SSH server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast

import asyncssh

from proxy.errors import LinkError

Connection = asyncssh.SSHClientConnection | asyncssh.SSHServerConnection

_LOGIN: Final[Mapping[str, object]] = {
    "_client_keys": (),
    "_known_hosts": b"",
    "_server_sig_algs": frozenset(),
    "_options": None,
}
_LOGIN_OF_CLIENT: Final[Mapping[str, object]] = {
    "_authorized_client_keys": None,
    "_known_client_hosts": None,
    "_options": None,
}
"""Attributes that a connection needs only until it is authenticated, and the values that replace them: of one
that we have dialled, and of one to our SSH server.

asyncssh reads the options again only for sessions (shells, commands), and a link has none. The server's host
keys are needed in each key exchange.
"""

_KEXINITS: Final = ("_client_kexinit", "_server_kexinit")
"""Only a key exchange needs them, for its hash (RFC 4253 8). The next exchange sets them again."""

_CONNECTION_PARTS = (
    "_transport",
    "_kex_complete",
    "_make_global_request",
    "_report_global_response",
    "_global_request_waiters",
    "_process_global_response",
    "_packet_handlers",
    "_send_global_request",
    "_recv_seq",
    "_session_id",
    "_recv_handler",
    "_inpbuf",
    "_owner",
    *_KEXINITS,
    "pause_writing",
    "resume_writing",
)
_OF_SERVER = ("_process_hostkeys_00_at_openssh_dot_com_global_request", *_LOGIN)
_OF_CLIENT = (
    "_process_hostkeys_prove_00_at_openssh_dot_com_global_request",
    "_process_tcpip_forward_global_request",
    "_process_cancel_tcpip_forward_global_request",
    "_process_streamlocal_forward_at_openssh_dot_com_global_request",
    "_process_cancel_streamlocal_forward_at_openssh_dot_com_global_request",
    "_all_server_host_keys",
    "_ignore_first_kex",
    "_auth_in_progress",
    "_auth_complete",
    "_next_service",
    *_LOGIN_OF_CLIENT,
)
_MSG_UNIMPLEMENTED = 3
_MSG_REQUEST_SUCCESS = 81
_MSG_REQUEST_FAILURE = 82
_MSG_USERAUTH_FAILURE = 51
_MSG_CHANNEL_CLOSE = 97
_GREETING_BYTES = 1024


def check(conn: Connection) -> None:
    """Raise RuntimeError with the names of the parts that this module uses and `conn` lacks."""
    parts = (*_CONNECTION_PARTS, *(_OF_CLIENT if conn.is_server() else _OF_SERVER))
    missing = [name for name in parts if not hasattr(conn, name)]
    if missing:
        raise RuntimeError(
            f"asyncssh {asyncssh.__version__} has no {', '.join(missing)}; kubemux was tested with 2.24"
        )


async def connect(options: asyncssh.SSHClientConnectionOptions) -> asyncssh.SSHClientConnection:
    """Like `asyncssh.connect(options=...)`, but it uses these options as they are.

    `asyncssh.connect` builds the options once more, in the loop's default executor. The whole process shares
    those few threads, and Python waits for them at exit.
    """
    loop = asyncio.get_running_loop()

    def connection() -> asyncssh.SSHClientConnection:
        conn = asyncssh.SSHClientConnection(loop, options, wait="auth")
        # `_connect` awaits `_waiter` only if it has a socket to tune. The peer may end the connection before.
        cast("Any", conn)._waiter.add_done_callback(lambda waiter: waiter.cancelled() or waiter.exception())
        return conn

    return cast(
        "asyncssh.SSHClientConnection",
        await cast("Any", asyncssh.connection)._connect(
            options, None, loop, 0, None, connection, "Opening SSH connection to"
        ),
    )


def forget_login(conn: Connection) -> None:
    """Drop what only the login needed: private keys, known_hosts, options.

    That is 11 KB, and more with a long known_hosts.
    """
    for name, nothing in (_LOGIN_OF_CLIENT if conn.is_server() else _LOGIN).items():
        setattr(conn, name, nothing)
    accept_any_answer(conn)  # drops the handlers that were replaced for the login
    if not is_exchanging_keys(conn):  # sshd may have begun the next one already
        for name in _KEXINITS:
            setattr(conn, name, b"")


def on_host_key(conn: asyncssh.SSHClientConnection, verify: Callable[[bytes], asyncssh.SSHKey]) -> None:
    """In each key exchange, let `verify` check the server's key or certificate; it returns the key to use.

    `verify` raises LinkError to refuse the server. The connection then ends with HostKeyNotVerifiable, whose
    cause is that error.
    """

    def verifying(key_data: bytes) -> asyncssh.SSHKey:
        try:
            return verify(key_data)
        except LinkError as exc:
            raise asyncssh.HostKeyNotVerifiable(str(exc)) from exc

    setattr(conn, conn.validate_server_host_key.__name__, verifying)


def on_login(
    conn: asyncssh.SSHClientConnection,
    vouched: Callable[[], Awaitable[None]],
    shows: Callable[[asyncssh.SSHKeyPair], None],
    refused: Callable[[Sequence[str], bool], None],
) -> None:
    """Wait for `vouched` before the login shows one of our public keys to the server.

    `vouched` may raise LinkError, as `verify` of `on_host_key` may. `shows` is called with each key that is
    shown. `refused` is called when the server refuses one: with the methods that it still accepts, and
    whether the key was accepted as one step of several (RFC 4252 5.1).
    """
    requested, inner = conn.public_key_auth_requested, cast("Any", conn)

    async def requesting() -> asyncssh.SSHKeyPair | None:
        try:
            await vouched()
        except LinkError as exc:
            raise asyncssh.HostKeyNotVerifiable(str(exc)) from exc
        pair = await requested()
        if pair is not None:
            shows(pair)
        return pair

    failed = inner._packet_handlers[_MSG_USERAUTH_FAILURE]

    def failing(itself: object, kind: int, number: int, packet: asyncssh.packet.SSHPacket) -> object:
        copy = asyncssh.packet.SSHPacket(packet.get_full_payload())
        copy.get_byte()
        methods = copy.get_namelist()
        refused([method.decode("ascii", "replace") for method in methods], copy.get_boolean())
        return failed(itself, kind, number, packet)

    setattr(conn, requested.__name__, requesting)
    inner._packet_handlers = {**inner._packet_handlers, _MSG_USERAUTH_FAILURE: failing}


def on_greeting(conn: asyncssh.SSHClientConnection, said: Callable[[bytes], None]) -> None:
    """Call `said` with the text that a server sends before and in its version line, as it arrives.

    RFC 4253 4.2 allows lines of text before the version.
    """
    inner = cast("Any", conn)
    receive = inner._recv_handler

    def receiving() -> object:
        said(bytes(inner._inpbuf[:_GREETING_BYTES]))
        return receive()

    inner._recv_handler = receiving


def offers(conn: asyncssh.SSHClientConnection) -> tuple[bytes, bytes]:
    """Our KEXINIT message, and that of the server."""
    inner = cast("Any", conn)
    return bytes(inner._client_kexinit), bytes(inner._server_kexinit)


def on_host_keys(conn: asyncssh.SSHClientConnection, announced: Callable[[bytes], None]) -> None:
    """Call `announced` with the host keys that sshd lists after login.

    The request is `hostkeys-00@openssh.com` (OpenSSH's PROTOCOL, 2.5). This replaces asyncssh's own handler,
    which ends the connection if a key is listed twice, and accepts proofs by SHA-1.
    """

    def handler(packet: asyncssh.packet.SSHPacket) -> None:
        announced(packet.get_remaining_payload())
        cast("Any", conn)._report_global_response(False)  # sshd wants no reply

    setattr(conn, "_process_hostkeys_00_at_openssh_dot_com_global_request", handler)  # noqa: B010 - no attribute of that type


async def prove_host_keys(conn: asyncssh.SSHClientConnection, keys: Sequence[bytes]) -> list[bytes] | None:
    """Ask the server to prove that it has `keys`: returns a signature for each, None if it refuses.

    Raises asyncssh.PacketDecodeError.
    """
    asked = b"".join(len(key).to_bytes(4) + key for key in keys)
    kind, packet = await cast("Any", conn)._make_global_request(b"hostkeys-prove-00@openssh.com", asked)
    if kind != _MSG_REQUEST_SUCCESS:
        return None
    proofs = [packet.get_string() for _ in keys]
    packet.check_end()
    return proofs


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


def pinger(conn: Connection, answered: Callable[[], None]) -> Callable[[], None]:
    """Returns a function that asks the peer for an answer; `answered` is called when it has come, or when the
    connection ends.

    An SSH server or client refuses a global request that it does not know (RFC 4254 4).
    """
    inner, waiter = cast("Any", conn), _Waiter(answered)

    def ask() -> None:
        inner._global_request_waiters.append(waiter)
        inner._send_global_request(b"keepalive@openssh.com", want_reply=True)

    return ask


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


def grow_window(channel: asyncssh.SSHTCPChannel[bytes], nbytes: int) -> None:
    """Let the next WINDOW_ADJUST of `channel` make its window larger by `nbytes`.

    asyncssh fills the window up to `_init_recv_window` whenever half of it has been delivered.
    """
    cast("Any", channel)._init_recv_window += nbytes


def on_close(channel: asyncssh.SSHTCPChannel[bytes]) -> None:
    """Call the session's `close_received` when the peer's CLOSE arrives. `has_eof` is whether an EOF waits.

    If the session has paused the channel, asyncssh keeps data for it, and the EOF after the data. It forgets
    that EOF when the CLOSE comes.
    """
    setattr(channel, "_packet_handlers", _CHANNEL_HANDLERS)  # noqa: B010 - no attribute of that type


def _closing(channel: Any, kind: int, sequence: int, packet: asyncssh.packet.SSHPacket) -> None:
    if channel._session is not None:
        channel._session.close_received(has_eof=channel._recv_state == "eof_pending")
    _CLOSE(channel, kind, sequence, packet)


_CHANNEL_HANDLERS: Final = {
    **cast("Any", asyncssh.SSHTCPChannel)._packet_handlers,
    _MSG_CHANNEL_CLOSE: _closing,
}
_CLOSE: Final = cast("Any", asyncssh.SSHTCPChannel)._packet_handlers[_MSG_CHANNEL_CLOSE]


def unsent(channel: asyncssh.SSHTCPChannel[bytes]) -> int:
    """Bytes written to `channel` that wait for room in the peer's window."""
    return cast("int", cast("Any", channel)._send_buf_len)
