"""One of the two places that touch asyncssh's private parts; the other, for a link's bytes, is
`native.handover`.

What asyncssh does not offer and a proxy cannot do without: its connection ignores its transport's
`pause_writing`, queues packets without bound while keys are exchanged, keeps a channel's receive window
fixed, and has no call that times a round trip. Everything here was read in asyncssh 2.24; `check` says so
when another release differs, and pyproject.toml pins it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast

import asyncssh

from proxy.errors import LinkError

_LOGIN: Final[Mapping[str, object]] = {
    "_client_keys": (),
    "_known_hosts": b"",
    "_server_sig_algs": frozenset(),
    "_options": None,
}
"""Attributes that a connection reads until it is authenticated, and what to leave in their place.

The options count again only for sessions (shells, commands), which no link has.
"""

_KEXINITS: Final = ("_client_kexinit", "_server_kexinit")
"""Hashed in a key exchange (RFC 4253 8); the next one sets them anew."""

_CONNECTION_PARTS = (
    "_transport",
    "_kex_complete",
    "_make_global_request",
    "_report_global_response",
    "_global_request_waiters",
    "_process_global_response",
    "_packet_handlers",
    "_keepalive_count",
    "_process_hostkeys_00_at_openssh_dot_com_global_request",
    "_session_id",
    "_recv_handler",
    "_inpbuf",
    *_LOGIN,
    *_KEXINITS,
    "pause_writing",
    "resume_writing",
)
_MSG_UNIMPLEMENTED = 3
_MSG_REQUEST_SUCCESS = 81
_MSG_REQUEST_FAILURE = 82
_MSG_USERAUTH_FAILURE = 51
_GREETING_BYTES = 1024
_CHANNEL_PARTS = ("_init_recv_window", "_send_buf_len")


def check(conn: asyncssh.SSHClientConnection) -> None:
    """Raise RuntimeError, naming them, if `conn` lacks a part that this module uses."""
    missing = [name for name in _CONNECTION_PARTS if not hasattr(conn, name)]
    if missing:
        raise RuntimeError(
            f"asyncssh {asyncssh.__version__} has no {', '.join(missing)}; kubemux was tested with 2.24"
        )


async def connect(options: asyncssh.SSHClientConnectionOptions) -> asyncssh.SSHClientConnection:
    """As `asyncssh.connect(options=...)`, with these very options.

    That one makes them once more, in the loop's default executor: with a few threads that everything in the
    process shares, and that are waited for at exit.
    """
    loop = asyncio.get_running_loop()

    def connection() -> asyncssh.SSHClientConnection:
        conn = asyncssh.SSHClientConnection(loop, options, wait="auth")
        # Who dials waits for it only once it has a socket to tune, and a peer can end it before.
        cast("Any", conn)._waiter.add_done_callback(lambda waiter: waiter.cancelled() or waiter.exception())
        return conn

    return cast(
        "asyncssh.SSHClientConnection",
        await cast("Any", asyncssh.connection)._connect(
            options, None, loop, 0, None, connection, "Opening SSH connection to"
        ),
    )


def forget_login(conn: asyncssh.SSHClientConnection) -> None:
    """Drop what only the login needed: private keys, the whole of known_hosts, options. 11 KB, more with a
    long known_hosts.
    """
    for name, nothing in _LOGIN.items():
        setattr(conn, name, nothing)
    take_any_answer(conn)  # the handlers that are of no login
    if not is_exchanging_keys(conn):  # sshd may have begun the next one already
        for name in _KEXINITS:
            setattr(conn, name, b"")


def on_host_key(conn: asyncssh.SSHClientConnection, verify: Callable[[bytes], asyncssh.SSHKey]) -> None:
    """Have `verify` say which key a server has that identifies itself with this key or certificate, in each
    key exchange.

    It raises what a server is refused for: that is the cause of the HostKeyNotVerifiable which the connection
    ends with.
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
    """Wait for `vouched` before a key of ours is shown.

    It raises LinkError, as `verify` of `on_host_key` does.

    `shows` is told which, and `refused` how one may log in after a refusal, and whether that was none: a step
    that is not enough (RFC 4252 5.1).
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
    """Call `said` with what a server says before its version (RFC 4253 4.2), and with that, as it comes."""
    inner = cast("Any", conn)
    receive = inner._recv_handler

    def receiving() -> object:
        said(bytes(inner._inpbuf[:_GREETING_BYTES]))
        return receive()

    inner._recv_handler = receiving


def offers(conn: asyncssh.SSHClientConnection) -> tuple[bytes, bytes]:
    """Our KEXINIT and the server's."""
    inner = cast("Any", conn)
    return bytes(inner._client_kexinit), bytes(inner._server_kexinit)


def on_host_keys(conn: asyncssh.SSHClientConnection, announced: Callable[[bytes], None]) -> None:
    """Call `announced` with the list of keys that sshd sends after login (`hostkeys-00@openssh.com`, PROTOCOL
    2.5).

    Instead of asyncssh's own handler: that one ends the connection over a key that is listed twice, and takes
    SHA-1 proofs.
    """

    def handler(packet: asyncssh.packet.SSHPacket) -> None:
        announced(packet.get_remaining_payload())
        cast("Any", conn)._report_global_response(False)  # sshd wants no reply

    setattr(conn, "_process_hostkeys_00_at_openssh_dot_com_global_request", handler)  # noqa: B010 - no attribute of that type


async def prove_host_keys(conn: asyncssh.SSHClientConnection, keys: Sequence[bytes]) -> list[bytes] | None:
    """Ask the server to sign with each of `keys`: the signatures, None if it will not.

    Raises asyncssh.PacketDecodeError.
    """
    asked = b"".join(len(key).to_bytes(4) + key for key in keys)
    kind, packet = await cast("Any", conn)._make_global_request(b"hostkeys-prove-00@openssh.com", asked)
    if kind != _MSG_REQUEST_SUCCESS:
        return None
    proofs = [packet.get_string() for _ in keys]
    packet.check_end()
    return proofs


def session_id(conn: asyncssh.SSHClientConnection) -> bytes:
    """The exchange hash of the first key exchange (RFC 4253 7.2)."""
    return cast("bytes", cast("Any", conn)._session_id)


def on_congestion(
    conn: asyncssh.SSHClientConnection, high_water: int, pause: Callable[[], None], resume: Callable[[], None]
) -> None:
    """Call `pause` when more than `high_water` bytes wait in the connection's transport, `resume` when they
    have gone.
    """
    transport = cast("asyncio.WriteTransport", cast("Any", conn)._transport)
    transport.set_write_buffer_limits(high=high_water)
    # Instance attributes over the no-ops of SSHConnection: transports look them up at each call.
    for name, callback in (("pause_writing", pause), ("resume_writing", resume)):
        setattr(conn, name, callback)


def is_exchanging_keys(conn: asyncssh.SSHClientConnection) -> bool:
    """Whether packets of channels are queued until new keys are agreed on (RFC 4253 9)."""
    return not cast("Any", conn)._kex_complete


def is_gone(conn: asyncssh.SSHClientConnection) -> bool:
    """Whether the connection has ended, also while its channels are still being told (`is_closed()` is not
    true yet).
    """
    return cast("Any", conn)._transport is None


async def ping(conn: asyncssh.SSHClientConnection) -> None:
    """One round trip to sshd: a global request it does not know, answered with a failure (RFC 4254 4)."""
    await cast("Any", conn)._make_global_request(b"keepalive@openssh.com")


def take_any_answer(conn: asyncssh.SSHClientConnection) -> None:
    """Let UNIMPLEMENTED (RFC 4253 11.4) answer the oldest question, as a failure would.

    Some servers say nothing else to a global request that they do not know, and answer one after the other.
    To asyncssh that is no answer: their links would be given up for silence.
    """
    setattr(conn, "_packet_handlers", _HANDLERS)  # noqa: B010 - no attribute of that type


def _unimplemented(conn: Any, _kind: int, _sequence: int, packet: asyncssh.packet.SSHPacket) -> None:
    packet.get_uint32()
    packet.check_end()
    if conn._global_request_waiters:
        conn._process_global_response(_MSG_REQUEST_FAILURE, 0, asyncssh.packet.SSHPacket(b""))


_HANDLERS: Final = {
    **cast("Any", asyncssh.SSHClientConnection)._packet_handlers,
    _MSG_UNIMPLEMENTED: _unimplemented,
}


def is_heard(conn: asyncssh.SSHClientConnection) -> None:
    """The peer lives, whether it has answered or not: asyncssh counts no question as unanswered so far."""
    cast("Any", conn)._keepalive_count = 0


def grow_window(channel: asyncssh.SSHTCPChannel[bytes], nbytes: int) -> None:
    """Let the next WINDOW_ADJUST of `channel` grant `nbytes` more than its window so far.

    asyncssh tops the window up to `_init_recv_window` whenever half of it has been delivered.
    """
    cast("Any", channel)._init_recv_window += nbytes


def unsent(channel: asyncssh.SSHTCPChannel[bytes]) -> int:
    """Bytes written to `channel` that the peer's window has no room for."""
    return cast("int", cast("Any", channel)._send_buf_len)
