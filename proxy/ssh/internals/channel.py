"""asyncssh's channels: their windows, and the end of their data."""

from __future__ import annotations

from typing import Any, Final, cast

import asyncssh

_MSG_CHANNEL_CLOSE = 97


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
