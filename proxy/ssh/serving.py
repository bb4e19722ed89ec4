"""What kubemux needs of asyncssh's connections of an SSH server: those of sites, and of people who jump.

Like `proxy.ssh.internals`, which checks that asyncssh has these parts.
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

LARGEST: Final = 32 << 10
"""Bytes of data in a packet that asyncssh may get."""


def on_end(conn: asyncssh.SSHServerConnection, ended: Callable[[Exception | None], None]) -> None:
    """Call `ended` when the connection has ended, after the owner of the connection has been told."""
    owner = cast("Any", conn)._owner
    tell = owner.connection_lost

    def both(exc: Exception | None) -> None:
        tell(exc)
        ended(exc)

    owner.connection_lost = both


def on_guess(conn: asyncssh.SSHServerConnection) -> None:
    """Ignore the first message of a client's key exchange if the client has guessed wrong (RFC 4253 7).

    The guess is wrong unless both sides prefer the same algorithms. For asyncssh 2.24 it is right if the
    server has the client's algorithm at all. It then takes the client's second message for one too many.
    dropbear's client guesses.
    """
    inner = cast("Any", conn)
    exchange = inner._packet_handlers[messages.KEXINIT]

    async def judged(server: Any, kind: int, sequence: int, packet: asyncssh.packet.SSHPacket) -> None:
        await exchange(server, kind, sequence, packet)
        client = inner._client_kexinit
        has_guessed = bool(client[-5])  # the last field but a number of four bytes
        inner._ignore_first_kex = has_guessed and _preferred(client) != _preferred(inner._server_kexinit)

    inner._packet_handlers = {**inner._packet_handlers, messages.KEXINIT: judged}


def _preferred(kexinit: bytes) -> list[bytes]:
    """The preferred key exchange and the preferred kind of host key in a KEXINIT (RFC 4253 7.1)."""
    lists = Reader(kexinit[1 + 16 :])  # after the message type and a cookie
    return [lists.string().partition(b",")[0] for _ in range(2)]


def on_prove(conn: asyncssh.SSHServerConnection) -> None:
    """Prove each of our host keys to a client once (`hostkeys-prove-00@openssh.com`).

    One request has room for 900 keys, and asyncssh signs for each: with RSA that blocked the loop for 6 s.
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
    """Give `asked` each OPEN of the peer, in place of asyncssh. It raises ProtocolError."""

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
    """Open a channel that the peer has asked for, with asyncssh's own channel.

    asyncssh does so in a task of its own. Here the channel is open when this returns.
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
    """Let `register` and `cancel` answer the requests for forwards; both get what the client has written.
    Forwards of unix sockets are refused.

    asyncssh would answer in a task, and change the name to lower case: OpenSSH compares it exactly, and would
    know none of the channels that are opened for it. A request to cancel what is not there would end the
    connection: `ssh -O cancel -R` sends one for a forward that was refused.
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
