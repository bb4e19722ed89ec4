"""Turns exceptions of asyncssh into errors of kubemux."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
from dataclasses import dataclass, field
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
from proxy.runtime.names import remedy
from proxy.runtime.text import printable
from proxy.ssh.native.wire.errors import ProtocolError

_LISTS: Final = 1500
"""How many characters of the two lists of algorithms one message shows."""


def without_traceback(exc: LinkError) -> LinkError:
    """A copy of `exc` without its traceback, which would keep the objects of its frames alive."""
    return type(exc)(str(exc), hint=exc.hint)


def host_key_line(blob: bytes) -> bytes:
    """A key or certificate as known_hosts and `.pub` files write it: `TYPE BASE64`.

    Empty if `blob` does not begin with a type.
    """
    kind = blob[4 : 4 + int.from_bytes(blob[:4])]
    return kind + b" " + base64.b64encode(blob) if kind else b""


def identity(options: asyncssh.SSHClientConnectionOptions) -> str:
    """Who we log in as, for messages: the user, and the keys that we offer (an agent's without details)."""
    pairs = options.client_keys or ()
    keys = [describe_key(pair) for pair in pairs if not isinstance(pair, asyncssh.SSHAgentKeyPair)]
    agent = ["the agent's keys"] if len(keys) < len(pairs) else []
    return f"user {options.username} with {' and '.join([*keys, *agent]) or 'no key at all'}"


def describe_key(pair: asyncssh.SSHKeyPair) -> str:
    """The algorithm and fingerprint of one of our keys, or of its certificate."""
    return f"{pair.get_algorithm()} {_digest(pair.public_data)}"


def _digest(blob: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


_ALIAS: Final = "An alias of ~/.ssh/config counts if the gateway says ssh_config: FILE. "


def describe_connect(server: str, exc: OSError | UnicodeError) -> LinkError:
    """Why there is no TCP connection to `server`."""
    if isinstance(exc, socket.gaierror):
        host = server.rpartition(":")[0]
        return Unresolvable(
            f"{server} does not resolve: {exc.strerror}", hint=remedy(host, exc.errno, also=_ALIAS)
        )
    if isinstance(exc, UnicodeError):
        return Unresolvable(f"{server} does not resolve: it is not a host name")
    if isinstance(exc, TimeoutError):
        return ConnectTimeout(f"no TCP connection to {server}: timed out")
    # `strerror` does not help: event loops write "Connect call failed" there.
    why = os.strerror(exc.errno) if exc.errno else exc
    host, _, port = server.rpartition(":")
    hint = f"is sshd running there, and does a firewall let this machine through? Try: nc -vz {host} {port}"
    return Unreachable(f"no TCP connection to {server}: {why}", hint=hint)


@dataclass(slots=True)
class Heard:
    """What a server has sent before the login ended, for an error message."""

    greeting: str = ""
    """The text before its version line. It may say why the server refuses us."""
    shown: list[str] = field(default_factory=list)
    """Our keys that it has seen in the login, in that order."""
    is_refused: bool = False
    """Whether it has refused one of them."""
    accepted: str = ""
    """The key that it accepted as one step of several."""
    methods: tuple[str, ...] = ()
    """The login methods that it still accepts."""
    prompts: list[str] = field(default_factory=list)
    """What it would ask a user for."""
    disagreement: LinkError | None = None
    """Set if the two sides have no algorithm in common."""


def describe_handshake(server: str, exc: Exception, *, who: str, heard: Heard) -> LinkError:
    """Why the SSH handshake with `server` failed. `who` is our `identity`."""
    if isinstance(exc.__cause__, LinkError):  # `proxy.ssh.login.client` has refused the server
        return without_traceback(exc.__cause__)
    if heard.disagreement is not None:
        return heard.disagreement
    if isinstance(exc, asyncssh.PermissionDenied):
        return _refused(server, who, heard)
    if isinstance(exc, asyncssh.DisconnectError) and "too many authentication failures" in exc.reason.lower():
        return _too_many(server, who, heard)
    if isinstance(exc, asyncssh.ChannelOpenError):
        return _not_forwarded(server, exc)
    if isinstance(exc, asyncssh.KeyEncryptionError | asyncssh.KeyImportError):
        return CredentialsUnusable(f"a key for {server} cannot be used: {exc}")
    if isinstance(exc, UnicodeDecodeError) and bytes(exc.object).startswith(b"SSH-"):
        return BadVersion(
            f"{server} has a version line that is not ASCII: {_text(exc.object.decode(errors='replace'))}"
        )
    if is_hung_up(exc):
        said = f"it says {heard.greeting!r}" if heard.greeting else _text(exc)
        return HandshakeFailed(
            f"{server} hung up during the SSH handshake: {said}",
            hint="is that port an SSH server? If so, its log says why: over MaxStartups it drops "
            "connections at random, and PerSourcePenalties shut out an address for a while "
            "(`Not allowed at this time`)",
        )
    # Asyncssh's message ends with the lists of both sides, which are long; the peer's is the second.
    if isinstance(exc, asyncssh.KeyExchangeFailed):
        return HandshakeFailed(f"SSH handshake with {server} failed: {printable(str(exc), most=_LISTS)}")
    return HandshakeFailed(f"SSH handshake with {server} failed: {_text(exc)}")


def is_hung_up(exc: Exception) -> bool:
    """Whether the connection ended and the peer gave no reason."""
    return isinstance(exc, asyncssh.ConnectionLost | ConnectionError)


def _text(exc: Exception | str) -> str:
    """The text of a peer or library, without unprintable characters."""
    return printable(str(exc)) or type(exc).__name__


def _refused(server: str, who: str, heard: Heard) -> LinkError:
    if heard.accepted:
        asks = f", and asks: {'; '.join(heard.prompts)}" if heard.prompts else ""
        return AuthFailed(
            f"{server} has accepted {heard.accepted}, but wants {' or '.join(heard.methods)} as well{asks}",
            hint="kubemux logs in with keys, and nobody is there to be asked: let this user in with a key "
            "alone (AuthenticationMethods publickey, for a Match User in sshd_config)",
        )
    if heard.methods and "publickey" not in heard.methods and not heard.shown:
        return AuthFailed(
            f"{server} takes no keys from this user, only {', '.join(heard.methods)}",
            hint="kubemux logs in with keys: see PubkeyAuthentication and AuthenticationMethods in its "
            "sshd_config",
        )
    return AuthFailed(f"{server} refuses {who}")


def _too_many(server: str, who: str, heard: Heard) -> LinkError:
    shown = ", ".join(heard.shown)
    return AuthFailed(
        f"{server} has refused {len(heard.shown)} keys, and takes no more in one login (MaxAuthTries): "
        f"{shown}; we are {who}",
        hint="configure only the key that is in that user's authorized_keys, perhaps one that was not tried: "
        "identity_files: [FILE], or for a key of an agent IdentityFile and IdentitiesOnly in an ssh_config",
    )


def why_refused(said: str) -> str:
    """`: WHY`, to end a sentence about a channel that was not opened.

    Empty if sshd gave no reason, `open failed`.
    """
    return f": {printable(said)}" if said not in {"", "open failed"} else ""


def _not_forwarded(server: str, exc: asyncssh.ChannelOpenError) -> LinkError:
    """Why a jump host opened no channel to the next hop."""
    if exc.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        return Unreachable(
            f"the jump host before {server} does not allow forwarding to it{why_refused(exc.reason)}",
            hint="see AllowTcpForwarding and PermitOpen of the jump host's sshd, and permitopen= in its "
            "authorized_keys",
        )
    host, _, port = server.rpartition(":")
    return Unreachable(
        f"no TCP connection to {server} from the jump host before it{why_refused(exc.reason)}",
        hint=f"is sshd running there, and does the jump host reach it? Try on the jump host: nc -vz {host} "
        f"{port}",
    )


def describe_loss(server: str, exc: Exception | None) -> LinkError:
    """Why an established link ended."""
    if isinstance(exc, LinkError):
        return exc
    if exc is None:
        return LinkLost(f"{server} closed the connection")
    if isinstance(exc.__cause__, LinkError):  # the server was refused in a later key exchange
        return without_traceback(exc.__cause__)
    if isinstance(exc, asyncssh.ConnectionLost) and "keepalive" in str(exc):
        return KeepaliveTimeout(f"{server} stopped answering")
    if isinstance(exc, TimeoutError):  # ETIMEDOUT, from TCP_USER_TIMEOUT
        return KeepaliveTimeout(f"{server} stopped acknowledging what is sent")
    kind = ProtocolError if _is_breach(exc) else LinkLost
    return kind(f"connection to {server} lost: {_text(exc)}")


def _is_breach(exc: Exception) -> bool:
    """Whether asyncssh has ended the connection because the peer broke the protocol.

    For a DISCONNECT of the peer, asyncssh makes an error of the same class, but does not raise it. OpenSSH
    sends DISCONNECT with the code of a protocol error for nearly every reason.
    """
    return isinstance(exc, asyncssh.ProtocolError | asyncssh.MACError) and exc.__traceback__ is not None


def unused(server: str, seconds: float) -> LinkLost:
    """The error for a link that the server closed without a reason, after `seconds` without a channel."""
    hint = (
        "sshd's UnusedConnectionTimeout (9.2 and later) ends connections without channels; kubemux dials "
        "again at once. Set it to none for this user to keep the links. If that is not the cause, sshd's "
        "log says why it hung up"
    )
    return LinkLost(
        f"{server} closed the connection, which had carried no channel for {seconds:.0f} s", hint=hint
    )
