"""Every failure asyncssh reports becomes one of ours, with a reason, a remedy and the server's name."""

from __future__ import annotations

import errno
import socket

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import (
    AuthFailed,
    ConnectTimeout,
    CredentialsUnusable,
    HandshakeFailed,
    HostKeyChanged,
    HostKeyRevoked,
    HostKeyUnknown,
    KeepaliveTimeout,
    LinkError,
    LinkLost,
    RetryClass,
    Stage,
    Unreachable,
    Unresolvable,
)
from proxy.ssh.errors import Shown, describe_connect, describe_handshake, describe_loss, fingerprint
from proxy.ssh.known_hosts import Trusted

SERVER = "bastion.example:22"
KEY, OTHER, CA = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(3))
UNTRUSTED = asyncssh.HostKeyNotVerifiable("Host key is not trusted for host bastion.example")


@pytest.mark.parametrize(
    ("exc", "kind", "says"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), Unresolvable, "Name or service not known"),
        (UnicodeError("label too long"), Unresolvable, "not a host name"),
        (TimeoutError(errno.ETIMEDOUT, "Connect call failed"), ConnectTimeout, "timed out"),
        (TimeoutError(), ConnectTimeout, "timed out"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), Unreachable, "Connection refused"),
        (OSError(errno.EHOSTUNREACH, "x"), Unreachable, "No route to host"),
        (OSError("no address"), Unreachable, "no address"),
    ],
)
def test_no_tcp_connection(exc: OSError | UnicodeError, kind: type[LinkError], says: str) -> None:
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
def test_no_handshake(exc: Exception, kind: type[LinkError]) -> None:
    found = describe_handshake(SERVER, exc, shown=Shown(), trusted=Trusted(), who="user tunnel with no key at all")
    assert type(found) is kind
    assert SERVER in str(found)
    assert found.hint
    assert not str(found).endswith((": ", "open failed"))
    assert "HOST" not in found.hint, "the address is known"


@pytest.mark.parametrize(
    ("shown", "trusted", "said", "kind", "keys"),
    [
        (Shown(key=KEY), Trusted(), UNTRUSTED, HostKeyUnknown, [KEY]),
        (Shown(key=KEY), Trusted(keys=[OTHER]), UNTRUSTED, HostKeyChanged, [KEY, OTHER]),
        (Shown(key=KEY), Trusted(authorities=[CA]), UNTRUSTED, HostKeyUnknown, [KEY, CA]),
        (Shown(authority=OTHER), Trusted(authorities=[CA]), UNTRUSTED, HostKeyChanged, [OTHER, CA]),
        (Shown(), Trusted(authorities=[CA]), asyncssh.HostKeyNotVerifiable("Certificate expired"), HostKeyChanged, []),
        (Shown(), Trusted(revoked=[KEY]), asyncssh.HostKeyNotVerifiable("Host key is revoked"), HostKeyRevoked, [KEY]),
    ],
)
def test_a_host_key_that_is_not_trusted(
    shown: Shown, trusted: Trusted, said: Exception, kind: type[LinkError], keys: list[asyncssh.SSHKey]
) -> None:
    found = describe_handshake(SERVER, said, shown=shown, trusted=trusted, who="user tunnel with no key at all")
    assert type(found) is kind
    assert found.retry is RetryClass.SLOW
    for key in keys:
        assert fingerprint(key) in str(found)


@given(st.lists(st.sampled_from(["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp521"]), max_size=3), st.booleans())
def test_what_is_known_is_asked_for_first_and_nothing_weak_at_all(kinds: list[str], has_authority: bool) -> None:
    keys = [asyncssh.generate_private_key(kind).convert_to_public() for kind in kinds]
    algorithms = Trusted(keys=keys, authorities=[CA] if has_authority else []).algorithms()
    assert len(algorithms) == len(set(algorithms))
    certificates = [name for name in algorithms if "cert" in name]
    assert algorithms[: len(certificates)] == certificates
    assert bool(certificates) == has_authority
    plain = algorithms[len(certificates) :]
    assert plain[: len(set(kinds))] == list(dict.fromkeys(kinds))
    assert set(plain) == set(Trusted().algorithms()), "a changed key of another kind must be shown, not fail to agree"
    assert not [name for name in algorithms if name.startswith(("ssh-rsa", "ssh-dss"))]


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (None, LinkLost),
        (asyncssh.ConnectionLost("Server not responding to keepalive"), KeepaliveTimeout),
        (asyncssh.ConnectionLost("Connection lost"), LinkLost),
        (ConnectionResetError("reset"), LinkLost),
    ],
)
def test_a_link_that_was_lost(exc: Exception | None, kind: type[LinkError]) -> None:
    found = describe_loss(SERVER, exc)
    assert type(found) is kind
    assert SERVER in str(found)
    assert found.retry is RetryClass.SOON
