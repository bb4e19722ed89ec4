"""The login to a server, and the host keys that a server shows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import asyncssh

from proxy.errors import LinkError
from proxy.ssh.internals.connection import accept_any_answer, is_exchanging_keys
from proxy.ssh.internals.parts import KEXINITS, LOGIN, LOGIN_OF_CLIENT, Connection

_MSG_USERAUTH_FAILURE = 51
_MSG_REQUEST_SUCCESS = 81
_GREETING_BYTES = 1024


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
    for name, nothing in (LOGIN_OF_CLIENT if conn.is_server() else LOGIN).items():
        setattr(conn, name, nothing)
    accept_any_answer(conn)  # drops the handlers that were replaced for the login
    if not is_exchanging_keys(conn):  # sshd may have begun the next one already
        for name in KEXINITS:
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
    require_unrevoked: Callable[[], Awaitable[None]],
    shows: Callable[[asyncssh.SSHKeyPair], None],
    refused: Callable[[Sequence[str], bool], None],
) -> None:
    """Wait for `require_unrevoked` before the login shows one of our public keys to the server.

    `require_unrevoked` may raise LinkError, as `verify` of `on_host_key` may. `shows` is called with each key
    that is shown. `refused` is called when the server refuses one: with the methods that it still accepts,
    and whether the key was accepted as one step of several (RFC 4252 5.1).
    """
    requested, inner = conn.public_key_auth_requested, cast("Any", conn)

    async def requesting() -> asyncssh.SSHKeyPair | None:
        try:
            await require_unrevoked()
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
