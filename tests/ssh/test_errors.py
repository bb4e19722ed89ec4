"""Every failure that asyncssh reports becomes a LinkError with a reason, a remedy and the server's name."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import asyncssh
import pytest

from proxy.errors import (
    AuthFailed,
    ConnectTimeout,
    CredentialsUnusable,
    HandshakeFailed,
    KeepaliveTimeout,
    LinkError,
    LinkLost,
    ProxyError,
    RetryClass,
    Stage,
    Unreachable,
    Unresolvable,
)
from proxy.ssh.errors import Heard, describe_connect, describe_handshake, describe_loss
from proxy.ssh.native.wire.errors import ProtocolError

SERVER = "bastion.example:22"


@pytest.mark.parametrize(
    ("exc", "kind", "says"),
    [
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            Unresolvable,
            "Name or service not known",
        ),
        (UnicodeError("label too long"), Unresolvable, "not a host name"),
        (TimeoutError(errno.ETIMEDOUT, "Connect call failed"), ConnectTimeout, "timed out"),
        (TimeoutError(), ConnectTimeout, "timed out"),
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"),
            Unreachable,
            "Connection refused",
        ),
        (OSError(errno.EHOSTUNREACH, "x"), Unreachable, "No route to host"),
        (OSError("no address"), Unreachable, "no address"),
    ],
)
def test_a_failed_tcp_connection_is_described(
    exc: OSError | UnicodeError, kind: type[LinkError], says: str
) -> None:
    found = describe_connect(SERVER, exc)
    assert type(found) is kind
    assert SERVER in str(found)
    assert says in str(found)
    assert found.stage is Stage.TCP


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (asyncssh.PermissionDenied("no more methods"), AuthFailed),
        (asyncssh.KeyEncryptionError("Incorrect passphrase"), CredentialsUnusable),
        (asyncssh.KeyImportError("Invalid private key"), CredentialsUnusable),
        (asyncssh.ConnectionLost("Connection lost"), HandshakeFailed),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), HandshakeFailed),
        (asyncssh.KeyExchangeFailed("no matching cipher"), HandshakeFailed),
        (asyncssh.ProtocolError("bad packet"), HandshakeFailed),
        (asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "Connection refused"), Unreachable),
        (asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "open failed"), Unreachable),
        (IndexError("a bug"), HandshakeFailed),
        (AssertionError(), HandshakeFailed),
    ],
)
def test_a_failed_handshake_is_described(exc: Exception, kind: type[LinkError]) -> None:
    found = describe_handshake(SERVER, exc, who="user tunnel with no key at all", heard=Heard())
    assert type(found) is kind
    assert SERVER in str(found)
    assert found.hint
    assert not str(found).endswith((": ", "open failed"))
    assert "HOST" not in found.hint, "the message names the address"


def raised(exc: Exception) -> Exception:
    """`exc`, as asyncssh raises it when the peer breaks the protocol."""
    with pytest.raises(type(exc)):
        raise exc
    return exc


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (None, LinkLost),
        (asyncssh.ConnectionLost("Server not responding to keepalive"), KeepaliveTimeout),
        (asyncssh.ConnectionLost("Connection lost"), LinkLost),
        (ConnectionResetError("reset"), LinkLost),
        (asyncssh.ProtocolError("go away"), LinkLost),
        (raised(asyncssh.ProtocolError("bad packet")), ProtocolError),
        (raised(asyncssh.MACError("bad packet")), ProtocolError),
    ],
)
def test_a_lost_link_is_described(exc: Exception | None, kind: type[LinkError]) -> None:
    found = describe_loss(SERVER, exc)
    assert type(found) is kind
    assert SERVER in str(found)
    assert found.retry is RetryClass.SOON


def kinds(root: type[ProxyError]) -> set[type[ProxyError]]:
    return {root, *(kind for child in root.__subclasses__() for kind in kinds(child))}


def test_every_reason_of_a_link_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs/troubleshooting.md").read_text()
    # Its members are all kinds of LinkError.
    reasons = {kind.reason for kind in kinds(LinkError)} - {LinkError.reason}
    assert {"proxy_command_failed", "bad_version", "internal", "link_lost"} <= reasons
    assert not {reason for reason in reasons if f"`{reason}`" not in text}
