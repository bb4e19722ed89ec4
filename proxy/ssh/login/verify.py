"""Checks whether a server has the host key that known_hosts contains, and tells the operator what to do if
not.

It decides like ssh(1) (sshconnect.c, check_host_key). asyncssh's own check is not used: it also accepts a key
that known_hosts has for the server's address.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncssh

from proxy.config.learned_keys import kind
from proxy.config.model import GatewayConfig
from proxy.errors import HostKeyChanged, HostKeyRevoked, HostKeyUnknown, LinkError
from proxy.runtime.text import printable
from proxy.ssh.login.prepared import Prepared
from proxy.ssh.login.trust import Known, Trusted, decode, fingerprint

_AGAIN: Final = "The next dial reads it; kubemux reconnect skips the wait"
_HOST: Final = 2
"""The type of a host's certificate (PROTOCOL.certkeys)."""


@dataclass(frozen=True, slots=True)
class Server:
    """The server that we have connected to, and the command that shows its keys."""

    name: str
    """`HOST:PORT`, for messages."""
    scan: str
    """A command that adds the server's keys to known_hosts."""
    trusted: Trusted
    algorithms: Sequence[str]
    """The algorithms that we offered to it, for its key and for its signature."""


def scan(config: GatewayConfig, prepared: Prepared, hop: asyncssh.SSHClientConnectionOptions | None) -> str:
    """A command that adds the server's keys to known_hosts. `hop` is the last jump host before it."""
    options, trusted = prepared.options, prepared.trusted
    file = shlex.quote(str(trusted.files[0] if trusted.files else "known_hosts"))
    if prepared.proxy_command is not None and hop is None:  # ssh-keyscan cannot use a ProxyCommand
        return (
            f"ssh -F {shlex.quote(str(config.ssh_config))} -o UserKnownHostsFile={file} "
            f"{shlex.quote(config.host)}"
        )
    command = f"ssh-keyscan -p {options.port} {shlex.quote(options.host)}"
    if hop is not None:  # ssh-keyscan cannot use a jump host, either
        command = f"ssh -p {hop.port} {shlex.quote(f'{hop.username}@{hop.host}')} {shlex.quote(command)}"
    if options.host_key_alias:
        command += f" | sed {shlex.quote(f's/^[^ ]*/{options.host_key_alias}/')}"
    return f"{command} >> {file}"


def verify(server: Server, shown: bytes) -> asyncssh.SSHKey:
    """Check the key or certificate `shown`. Returns the key that must have signed the key exchange.

    Raises LinkError.
    """
    certificate = _certificate(shown)
    key = certificate.key if certificate else _plain(server, shown)
    trusted = server.trusted
    blobs = {key.public_data, *([certificate.signing_key.public_data] if certificate else [])}
    for known in trusted.revoked:
        if known.key.public_data in blobs:
            raise revoked(server, str(known))
    is_known = key.public_data in {
        known.key.public_data for known in trusted.keys
    }  # like ssh(1), accept the key also without its certificate
    if not is_known and (why := _distrusted(server, certificate) if certificate else _unknown(server, key)):
        raise why
    # The server must not sign with SHA-1 if we did not offer that. OpenSSH checks it, but asyncssh accepts
    # any signature by the key.
    offered = {_bare(name.encode()) for name in server.algorithms}
    key.all_sig_algorithms = {name for name in key.all_sig_algorithms if _bare(name) in offered}
    return key


def _bare(algorithm: bytes) -> bytes:
    """The signature algorithm, without the suffix for a key in a certificate."""
    return algorithm.removesuffix(b"@openssh.com").removesuffix(b"-cert-v01")


def revoked(server: Server, by: str) -> LinkError:
    """The error for a revoked key. `by` is the file that revokes it."""
    return HostKeyRevoked(f"{server.name} shows a key that is revoked: {by}")


def _certificate(shown: bytes) -> asyncssh.public_key.SSHOpenSSHCertificate | None:
    try:
        found = asyncssh.public_key.decode_ssh_certificate(shown)
    # KeyImportError is a ValueError; see trust.decode for the others.
    except (
        ValueError,
        TypeError,
        ArithmeticError,
    ):
        return None
    return found if isinstance(found, asyncssh.public_key.SSHOpenSSHCertificate) else None


def _plain(server: Server, shown: bytes) -> asyncssh.SSHKey:
    try:
        return decode(shown)
    except ValueError as exc:
        what = printable(kind(shown)[:50].decode("ascii", "replace"))
        raise HostKeyChanged(
            f"{server.name} shows a host key or certificate that is not valid ({what}): {printable(str(exc))}"
        ) from exc


def _distrusted(server: Server, certificate: asyncssh.public_key.SSHOpenSSHCertificate) -> LinkError | None:
    authorities = server.trusted.authorities
    if certificate.signing_key.public_data not in {known.key.public_data for known in authorities}:
        seen = fingerprint(certificate.signing_key)
        if not authorities:
            return HostKeyUnknown(
                f"{server.name} shows a host certificate by {seen}, and known_hosts has no authority for it"
            )
        return HostKeyChanged(
            f"{server.name} shows a host certificate by {seen}, but known_hosts trusts those by "
            f"{_listed(authorities)}"
        )
    try:
        certificate.validate(_HOST, None)
        # A wildcard in a certificate is only a name (sshkey.c, sshkey_cert_check_host).
        if certificate.principals and server.trusted.principal not in certificate.principals:
            raise ValueError(  # noqa: TRY301
                f"Certificate principal mismatch: it is for {', '.join(certificate.principals)[:200]}"
            )
        if _signature(certificate) == b"ssh-rsa":
            raise ValueError("its authority has signed it with SHA-1")  # noqa: TRY301
    except ValueError as exc:
        return HostKeyChanged(f"{server.name} shows a host certificate that is not valid: {exc}")
    return None


def _signature(certificate: asyncssh.public_key.SSHOpenSSHCertificate) -> bytes:
    """The algorithm of the authority's signature, which is the last field (PROTOCOL.certkeys)."""
    signer = certificate.signing_key.public_data
    return kind(certificate.public_data.rpartition(len(signer).to_bytes(4) + signer)[2][4:])


def _unknown(server: Server, key: asyncssh.SSHKey) -> LinkError:
    trusted, seen = server.trusted, fingerprint(key)
    unread = "".join(f"; {why}" for why in trusted.unread)
    if trusted.keys:
        return HostKeyChanged(
            f"{server.name} shows host key {seen}, but known_hosts has {_listed(trusted.keys)}{unread}",
            hint="find out why before you trust it; then remove the old key and add the new one: "
            f"{_removal(trusted.keys)}; "
            f"{server.scan}. {_AGAIN}",
        )
    hint = (
        f"compare the fingerprint with one from a trusted source, then add the key: {server.scan}. {_AGAIN}"
    )
    if trusted.authorities:
        return HostKeyUnknown(
            f"{server.name} shows host key {seen} and no certificate, but known_hosts has only CA "
            f"{_listed(trusted.authorities)}"
            f"{unread}",
            hint=f"have its host key signed (HostCertificate in its sshd_config), or {hint}",
        )
    where = ", ".join(map(str, trusted.files)) or "known_hosts"
    names = " or ".join(trusted.names)
    return HostKeyUnknown(
        f"{server.name} shows host key {seen}, and {where} has no key for {names}{unread}", hint=hint
    )


def _listed(known: Sequence[Known]) -> str:
    return ", ".join(map(str, known))


def _removal(known: Sequence[Known]) -> str:
    """A command that removes these keys from their files.

    A line that also holds other hosts must be edited by a person.
    """
    steps = [
        f"ssh-keygen -f {shlex.quote(str(one.file))} -R {shlex.quote(one.name)}"
        if one.is_simple
        else f"change {one.file}:{one.line}, which is about other servers, too"
        for one in known
    ]
    return "; ".join(dict.fromkeys(steps))
