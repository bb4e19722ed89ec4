"""Changes to asyncssh's connections of an SSH server: those of sites and users.

They use private parts of asyncssh. `proxy.ssh.internals.check` fails if asyncssh lacks one of them.
"""

# ruff: noqa: SLF001 - asyncssh's private parts are what this module is for

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import asyncssh

from proxy.openssh.blobs import Reader
from proxy.ssh.internals import Connection
from proxy.ssh.native.wire import messages
from proxy.ssh.native.wire.errors import ProtocolError

_LOGIN: Final = b"ssh-userauth"
LARGEST: Final = 32 << 10
"""The maximum packet size that we offer to the peer (RFC 4254 5.1), in bytes of data."""


def on_end(conn: asyncssh.SSHServerConnection, ended: Callable[[Exception | None], None]) -> None:
    """Call `ended` after the `connection_lost` of the connection's owner."""
    owner = cast("Any", conn)._owner
    connection_lost = owner.connection_lost

    def both(exc: Exception | None) -> None:
        connection_lost(exc)
        ended(exc)

    owner.connection_lost = both


def on_guess(conn: asyncssh.SSHServerConnection) -> None:
    """Ignore the first message of a client's key exchange if the client has guessed wrong (RFC 4253 7).

    The guess is right only if both sides prefer the same algorithms. asyncssh 2.24 considers it right if the
    server merely supports the client's algorithm. It then does not ignore the guessed message, and the
    client's next message is an error. dropbear's client guesses.
    """
    inner = cast("Any", conn)
    exchange = inner._packet_handlers[messages.KEXINIT]

    async def judged(server: Any, kind: int, sequence: int, packet: asyncssh.packet.SSHPacket) -> None:
        await exchange(server, kind, sequence, packet)
        client = inner._client_kexinit
        has_guessed = bool(client[-5])  # first_kex_packet_follows: only a reserved uint32 comes after it
        inner._ignore_first_kex = has_guessed and _preferred(client) != _preferred(inner._server_kexinit)

    inner._packet_handlers = {**inner._packet_handlers, messages.KEXINIT: judged}


def on_service(conn: asyncssh.SSHServerConnection) -> None:
    """Accept further requests for the login's service, as sshd does.

    paramiko asks for the service before each key or password that it tries. asyncssh 2.24 accepts one request
    and ends the connection at the second, so the client could not try its second key.
    """
    inner = cast("Any", conn)
    accept_service = inner._packet_handlers[messages.SERVICE_REQUEST]

    def again(server: Any, kind: int, sequence: int, packet: asyncssh.packet.SSHPacket) -> None:
        if inner._auth_in_progress and not inner._auth_complete:
            inner._next_service = _LOGIN
        accept_service(server, kind, sequence, packet)

    inner._packet_handlers = {**inner._packet_handlers, messages.SERVICE_REQUEST: again}


def _preferred(kexinit: bytes) -> list[bytes]:
    """The preferred key exchange and the preferred kind of host key in a KEXINIT (RFC 4253 7.1)."""
    lists = Reader(kexinit[1 + 16 :])  # after the message type and a cookie
    return [lists.string().partition(b",")[0] for _ in range(2)]


def on_prove(conn: asyncssh.SSHServerConnection) -> None:
    """Prove each of our host keys to a client at most once (`hostkeys-prove-00@openssh.com`).

    A request can name the same key 900 times, and asyncssh signs each time. With RSA that blocked the loop
    for 6 s.
    """
    inner = cast("Any", conn)
    prove = inner._process_hostkeys_prove_00_at_openssh_dot_com_global_request
    left = len(inner._all_server_host_keys)

    def proving(packet: Any) -> None:
        nonlocal left
        asked = 0
        copy = asyncssh.packet.SSHPacket(packet.get_remaining_payload())
        while copy:
            copy.get_string()
            asked += 1
        left -= asked
        if left < 0:
            inner._report_global_response(False)
        else:
            prove(packet)

    inner._process_hostkeys_prove_00_at_openssh_dot_com_global_request = proving


def on_open(conn: Connection, asked: Callable[[memoryview], None]) -> None:
    """Call `asked` with each OPEN of the peer, in place of asyncssh's handler. `asked` may raise
    ProtocolError.
    """

    def opening(_conn: object, _kind: int, _sequence: int, packet: asyncssh.packet.SSHPacket) -> None:
        try:
            asked(memoryview(packet.get_full_payload()))
        except ProtocolError as exc:
            raise asyncssh.ProtocolError(str(exc)) from exc

    inner = cast("Any", conn)
    inner._packet_handlers = {**inner._packet_handlers, messages.OPEN: opening}


def accept(
    conn: Connection, asked: messages.Open, window: int, session: asyncssh.SSHTCPSession[bytes]
) -> None:
    """Confirm an OPEN of the peer, with a channel of asyncssh.

    asyncssh itself does this in a task. Here the channel is open when the function returns.
    """
    channel = cast("Any", conn).create_tcp_channel(None, "strict", window, LARGEST)
    cast("Any", conn).send_channel_open_confirmation(asked.sender, channel._recv_chan, window, LARGEST)
    state = {
        "_send_chan": asked.sender,
        "_send_window": asked.window,
        "_send_pktsize": asked.largest,
        "_send_state": "open",
        "_recv_state": "open",
        "_session": session,
    }
    for name, value in state.items():
        setattr(channel, name, value)
    session.connection_made(channel)


def refuse(conn: Connection, asked: messages.Open, code: int, text: str) -> None:
    """Send an OPEN_FAILURE."""
    cast("Any", conn).send_channel_open_failure(asked.sender, code, text, "en")


def on_forward(
    conn: asyncssh.SSHServerConnection,
    register: Callable[[str, int], bool],
    cancel: Callable[[str, int], bool],
) -> None:
    """Let `register` and `cancel` answer `tcpip-forward` and `cancel-tcpip-forward`. Both get the address and
    the port as the client has sent them, and return whether the request succeeds. Forwards of unix sockets
    are refused.

    This replaces three habits of asyncssh. It answers in a task. It changes the address to lower case, but
    OpenSSH compares the address exactly and would refuse the channels of such a forward. It ends the
    connection when a client cancels a forward that does not exist; `ssh -O cancel -R` does that after a
    forward was refused.
    """
    inner = cast("Any", conn)

    def answering(answer: Callable[[str, int], bool]) -> Callable[[asyncssh.packet.SSHPacket], None]:
        def handler(packet: asyncssh.packet.SSHPacket) -> None:
            host, port = packet.get_string().decode("utf-8", "replace"), packet.get_uint32()
            packet.check_end()
            inner._report_global_response(answer(host, port))

        return handler

    def refuse(_packet: asyncssh.packet.SSHPacket) -> None:
        inner._report_global_response(False)

    inner._process_tcpip_forward_global_request = answering(register)
    inner._process_cancel_tcpip_forward_global_request = answering(cancel)
    inner._process_streamlocal_forward_at_openssh_dot_com_global_request = refuse
    inner._process_cancel_streamlocal_forward_at_openssh_dot_com_global_request = refuse
