"""The boundary where asyncssh's exceptions become ours."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
from typing import Final

import asyncssh

from proxy.errors import (
    AuthFailed,
    BadVersion,
    ConnectTimeout,
    CredentialsUnusable,
    HandshakeFailed,
    KeepaliveTimeout,
    LinkError,
    LinkLost,
    Unreachable,
    Unresolvable,
)
from proxy.text import printable

_LISTS: Final = 1500
"""Characters of two lists of algorithms."""


def again(exc: LinkError) -> LinkError:
    """The same, without the traceback, which would keep alive all that it ran through."""
    return type(exc)(str(exc), hint=exc.hint)


def host_key_line(blob: bytes) -> bytes:
    """A key or certificate as known_hosts and `.pub` files have it, `TYPE BASE64`; empty if `blob` begins with no type."""
    kind = blob[4 : 4 + int.from_bytes(blob[:4])]
    return kind + b" " + base64.b64encode(blob) if kind else b""


def identity(options: asyncssh.SSHClientConnectionOptions) -> str:
    """Who we say we are: the user and the keys that are offered, those of an agent not among them."""
    keys = [f"{pair.get_algorithm()} {_digest(pair.public_data)}" for pair in options.client_keys or ()]
    agent = ["the agent's keys"] if options.agent_path else []
    return f"user {options.username} with {' and '.join([*keys, *agent]) or 'no key at all'}"


def _digest(blob: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def describe_connect(server: str, exc: OSError | UnicodeError) -> LinkError:
    """Why there is no TCP connection to `server`."""
    if isinstance(exc, socket.gaierror):
        return Unresolvable(f"{server} does not resolve: {exc.strerror}")
    if isinstance(exc, UnicodeError):
        return Unresolvable(f"{server} does not resolve: it is not a host name")
    if isinstance(exc, TimeoutError):
        return ConnectTimeout(f"no TCP connection to {server}: timed out")
    # Not strerror: event loops put "Connect call failed" there.
    why = os.strerror(exc.errno) if exc.errno else exc
    host, _, port = server.rpartition(":")
    hint = f"is sshd running there, and does a firewall let this machine through? Try: nc -vz {host} {port}"
    return Unreachable(f"no TCP connection to {server}: {why}", hint=hint)


def describe_handshake(server: str, exc: Exception, *, who: str) -> LinkError:
    """Why the SSH handshake with `server` failed, `who` being our `identity`."""
    if isinstance(exc.__cause__, LinkError):  # what `proxy.ssh.login` refuses it for
        return again(exc.__cause__)
    if isinstance(exc, asyncssh.PermissionDenied):
        return AuthFailed(f"{server} refuses {who}")
    if isinstance(exc, asyncssh.ChannelOpenError):
        return _not_forwarded(server, exc)
    if isinstance(exc, asyncssh.KeyEncryptionError | asyncssh.KeyImportError):
        return CredentialsUnusable(f"a key for {server} cannot be used: {exc}")
    if isinstance(exc, UnicodeDecodeError) and bytes(exc.object).startswith(b"SSH-"):
        return BadVersion(f"{server} has a version line that is not ASCII: {_said(exc.object.decode(errors='replace'))}")
    if is_hung_up(exc):
        return HandshakeFailed(
            f"{server} hung up during the SSH handshake: {_said(exc)}",
            hint="is that port an SSH server? If so, its log says why: over MaxStartups it drops connections at random, and "
            "PerSourcePenalties shut out an address for a while",
        )
    if isinstance(exc, asyncssh.KeyExchangeFailed):  # with what both sides have: long lists, of which the peer's is the second
        return HandshakeFailed(f"SSH handshake with {server} failed: {printable(str(exc), most=_LISTS)}")
    return HandshakeFailed(f"SSH handshake with {server} failed: {_said(exc)}")


def is_hung_up(exc: Exception) -> bool:
    """Whether the connection has ended without a word."""
    return isinstance(exc, asyncssh.ConnectionLost | ConnectionError)


def _said(exc: Exception | str) -> str:
    """A peer's words, or a library's about them."""
    return printable(str(exc)) or type(exc).__name__


def why_refused(said: str) -> str:
    """`: WHY`, to end a sentence about a channel that was not opened. Empty if sshd gave no reason, `open failed`."""
    return f": {printable(said)}" if said not in {"", "open failed"} else ""


def _not_forwarded(server: str, exc: asyncssh.ChannelOpenError) -> LinkError:
    """A jump host opened no channel to the next hop."""
    if exc.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        return Unreachable(
            f"the jump host before {server} does not allow forwarding to it{why_refused(exc.reason)}",
            hint="see AllowTcpForwarding and PermitOpen of the jump host's sshd, and permitopen= in its authorized_keys",
        )
    host, _, port = server.rpartition(":")
    return Unreachable(
        f"no TCP connection to {server} from the jump host before it{why_refused(exc.reason)}",
        hint=f"is sshd running there, and does the jump host reach it? Try on the jump host: nc -vz {host} {port}",
    )


def describe_loss(server: str, exc: Exception | None) -> LinkError:
    """Why an established link ended."""
    if isinstance(exc, LinkError):
        return exc
    if exc is None:
        return LinkLost(f"{server} closed the connection")
    if isinstance(exc.__cause__, LinkError):  # in an exchange of new keys
        return again(exc.__cause__)
    if isinstance(exc, asyncssh.ConnectionLost) and "keepalive" in str(exc):
        return KeepaliveTimeout(f"{server} stopped answering")
    if isinstance(exc, TimeoutError):  # ETIMEDOUT: TCP_USER_TIMEOUT
        return KeepaliveTimeout(f"{server} stopped acknowledging what is sent")
    return LinkLost(f"connection to {server} lost: {_said(exc)}")


def unused(server: str, seconds: float) -> LinkLost:
    """Why a link without channels has ended, for so many seconds, about which the server has said nothing."""
    hint = (
        "sshd's UnusedConnectionTimeout (9.2 and later) ends connections without channels; kubemux dials again at once. Set it "
        "to none for this user to keep the links. If it is not that, sshd's log says why it hung up"
    )
    return LinkLost(f"{server} closed the connection, which had carried no channel for {seconds:.0f} s", hint=hint)
