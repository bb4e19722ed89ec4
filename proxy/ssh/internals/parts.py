"""The private parts of asyncssh's connections that are used here, and a check that they are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import asyncssh

Connection = asyncssh.SSHClientConnection | asyncssh.SSHServerConnection

LOGIN: Final[Mapping[str, object]] = {
    "_client_keys": (),
    "_known_hosts": b"",
    "_server_sig_algs": frozenset(),
    "_options": None,
}
LOGIN_OF_CLIENT: Final[Mapping[str, object]] = {
    "_authorized_client_keys": None,
    "_known_client_hosts": None,
    "_options": None,
}
"""Attributes that a connection needs only until it is authenticated, and the values that replace them: of one
that we have dialled, and of one to our SSH server.

asyncssh reads the options again only for sessions (shells, commands), and a link has none. The server's host
keys are needed in each key exchange.
"""

KEXINITS: Final = ("_client_kexinit", "_server_kexinit")
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
    "_recv_pkthdr",
    "_auth_final",
    "_inpbuf",
    "_owner",
    *KEXINITS,
    "pause_writing",
    "resume_writing",
)
_OF_SERVER = ("_process_hostkeys_00_at_openssh_dot_com_global_request", *LOGIN)
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
    *LOGIN_OF_CLIENT,
)


def check(conn: Connection) -> None:
    """Raise RuntimeError with the names of the parts that this module uses and `conn` lacks."""
    parts = (*_CONNECTION_PARTS, *(_OF_CLIENT if conn.is_server() else _OF_SERVER))
    missing = [name for name in parts if not hasattr(conn, name)]
    if missing:
        raise RuntimeError(
            f"asyncssh {asyncssh.__version__} has no {', '.join(missing)}; kubemux was tested with 2.24"
        )
