"""The boundary where asyncssh's exceptions become ours."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import asyncssh

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
    Unreachable,
    Unresolvable,
)


def fingerprint(key: asyncssh.SSHKey) -> str:
    """As OpenSSH prints it: `ssh-ed25519 SHA256:...`."""
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


def describe_connect(server: str, exc: OSError) -> LinkError:
    """Why there is no TCP connection to `server`."""
    if isinstance(exc, socket.gaierror):
        return Unresolvable(f"{server} does not resolve: {exc.strerror}")
    if isinstance(exc, TimeoutError):
        return ConnectTimeout(f"no TCP connection to {server}: {exc.strerror or 'timed out'}")
    return Unreachable(f"no TCP connection to {server}: {exc.strerror or exc}")


def describe_handshake(
    server: str, exc: Exception, *, shown: asyncssh.SSHKey | None, known: Sequence[asyncssh.SSHKey], user: str
) -> LinkError:
    """Why the SSH handshake with `server` failed. `shown` is its key, `known` are those that known_hosts has for it."""
    if isinstance(exc, asyncssh.HostKeyNotVerifiable):
        return _host_key(server, str(exc), shown, known)
    if isinstance(exc, asyncssh.PermissionDenied):
        return AuthFailed(f"{server} refuses user {user}: {exc.reason}")
    if isinstance(exc, asyncssh.KeyEncryptionError | asyncssh.KeyImportError):
        return CredentialsUnusable(f"a key for {server} cannot be used: {exc}")
    if isinstance(exc, asyncssh.ConnectionLost | ConnectionError):
        return HandshakeFailed(
            f"{server} hung up during the SSH handshake: {exc}",
            hint="sshd drops connections at random over MaxStartups, and from addresses under PerSourcePenalties: see its log",
        )
    return HandshakeFailed(f"SSH handshake with {server} failed: {exc}")


def _host_key(server: str, said: str, shown: asyncssh.SSHKey | None, known: Sequence[asyncssh.SSHKey]) -> LinkError:
    seen = fingerprint(shown) if shown else "a certificate"
    if "revoked" in said:
        return HostKeyRevoked(f"{server} shows a key that known_hosts marks as revoked: {seen}")
    if shown is None:
        return HostKeyChanged(f"{server} shows a host certificate that is not valid: {said}")
    if known:
        expected = ", ".join(fingerprint(key) for key in known)
        return HostKeyChanged(f"{server} shows host key {seen}, but known_hosts has {expected}")
    return HostKeyUnknown(f"{server} shows host key {seen}, and known_hosts has no key for it")


def describe_loss(server: str, exc: Exception | None) -> LinkError:
    """Why an established link ended."""
    if exc is None:
        return LinkLost(f"{server} closed the connection")
    if "keepalive" in str(exc):
        return KeepaliveTimeout(f"{server} stopped answering")
    return LinkLost(f"connection to {server} lost: {exc}")
