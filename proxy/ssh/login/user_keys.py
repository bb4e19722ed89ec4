"""Reads the keys and certificates that we log in with. The gateway names them, or its ssh_config does.

Each key that the gateway names must be usable. With ssh_config we do as ssh(1) does: keys that do not exist
or cannot be used are passed over, and for a key in an agent the public half is enough. It is an error only if
no key is left; messages name the keys that were passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from proxy.config.credential_file import is_too_open
from proxy.config.files import MAX_CREDENTIAL_BYTES, Unusable, read_bytes
from proxy.config.model import GatewayConfig
from proxy.config.private_keys import Content, public_blob, recognise
from proxy.errors import CredentialsUnusable
from proxy.openssh.ssh_config import SshConfig
from proxy.runtime.blocking import doing
from proxy.ssh.login.algorithms import is_accepted


@dataclass(slots=True)
class UserKeys:
    """The keys that we offer to the server."""

    pairs: list[asyncssh.SSHKeyPair] = field(default_factory=list)
    public: list[bytes] = field(default_factory=list)
    """The public halves of the keys and certificates that the file names, in that order.

    With IdentitiesOnly, the agent may offer only these.
    """
    passed_over: list[str] = field(default_factory=list)
    """Files that are not used, and why."""


def passphrase(config: GatewayConfig) -> str | None:
    """The content of the gateway's `passphrase_file`. Raises CredentialsUnusable."""
    if config.passphrase_file is None:
        return None
    doing(f"reading {config.passphrase_file}")
    try:
        return config.passphrase_file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise CredentialsUnusable(
            f"passphrase_file {config.passphrase_file} cannot be read: {_text(exc)}"
        ) from exc


# ------------------------------------------------------------------------------------------ the gateway's own


def named(config: GatewayConfig) -> UserKeys:
    """The keys of `identity_files` with their certificates.

    They are loaded one by one, so that an error names its file.
    """
    phrase = passphrase(config)
    given = [certificate for path in config.certificate_files for certificate in _certificates(path)]
    keys = UserKeys()
    for path in config.identity_files:
        doing(f"reading {path}")
        try:
            # Not asyncssh's own loading by path: that compares the key with a KEY.pub beside it. ssh(1) does
            # not need that file, and it may belong to an older key.
            found = asyncssh.read_private_key_list(str(path), phrase)
        except (OSError, ValueError) as exc:
            raise _key_unusable(path, config.passphrase_file, exc) from exc
        if not found:
            raise _key_unusable(path, None, ValueError("there is none in it"))
        keys.pairs += asyncssh.load_keypairs(found, certlist=[*given, *_beside(path, found)])
    return keys


def _beside(path: Path, keys: Sequence[asyncssh.SSHKey]) -> list[asyncssh.SSHCertificate]:
    """The certificate that ssh(1) would use with the key at `path`."""
    certificate = Path(f"{path}-cert.pub")
    doing(f"looking for {certificate}")
    if not certificate.exists():
        return []
    found = _certificates(certificate)
    if not _of(found, keys):
        hint = (
            "have the key signed again (ssh-keygen -s), or remove what is left of another: mv "
            f"{certificate} {certificate}.old"
        )
        raise CredentialsUnusable(
            f"certificate file {certificate} is not of the key beside it, {path}", hint=hint
        )
    return found


def _of(certificates: Sequence[asyncssh.SSHCertificate], keys: Sequence[asyncssh.SSHKey]) -> bool:
    return bool({one.key.public_data for one in certificates} & {key.public_data for key in keys})


def _certificates(path: Path) -> list[asyncssh.SSHCertificate]:
    doing(f"reading {path}")
    try:
        found = asyncssh.load_certificates(str(path))
    except (OSError, ValueError) as exc:
        raise CredentialsUnusable(f"certificate file {path} cannot be used: {_text(exc)}") from exc
    if not found:
        raise CredentialsUnusable(
            f"certificate file {path} holds no certificate", hint="ssh-keygen -L -f FILE shows one"
        )
    return list(found)


def _key_unusable(path: Path, passphrase_file: Path | None, exc: Exception) -> CredentialsUnusable:
    if isinstance(exc, OSError):
        return CredentialsUnusable(f"key {path} cannot be read: {_text(exc)}")
    if passphrase_file is None and "passphrase" in str(exc).lower():
        return CredentialsUnusable(
            f"key {path} is encrypted, and the gateway has no passphrase_file",
            hint="add passphrase_file: FILE to the gateway, or load the key into an ssh-agent and say "
            "agent: true",
        )
    if passphrase_file is not None:
        return CredentialsUnusable(
            f"key {path} cannot be opened with passphrase_file {passphrase_file}: {exc}",
            hint=f"is it the passphrase of that key? ssh-keygen -y -f {path} asks for it",
        )
    return CredentialsUnusable(
        f"key {path} cannot be used: {exc}", hint="it should be a private key as ssh-keygen writes it"
    )


def _text(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)


# ----------------------------------------------------------------------------------------------- ssh_config's


def of_ssh_config(config: GatewayConfig, found: SshConfig, *, has_agent: bool) -> UserKeys:
    """The keys that ssh(1) would offer. Raises CredentialsUnusable if it names some, and none can be used."""
    keys = UserKeys()
    phrase = passphrase(config)
    given = list(_named_certificates(config, found, keys))
    for path in found.identities:
        doing(f"reading {path}")
        private, why = _private(path, phrase)
        if why and (found.are_identities_named or path.exists()):
            keys.passed_over.append(f"{path} {why}")
        beside = [] if given else _beside_if_any(path, private, keys)
        keys.public += [one.public_data for one in beside]
        keys.public += [key.public_data for key in private] or _public(path)
        keys.pairs += asyncssh.load_keypairs(private, certlist=[*given, *beside]) if private else ()
    keys.public[:0] = [one.public_data for one in given]
    refused = [pair for pair in keys.pairs if not is_accepted(found.public_key_algorithms, pair)]
    keys.passed_over += [
        f"a key {pair.get_algorithm()} is not among PubkeyAcceptedAlgorithms" for pair in refused
    ]
    keys.pairs = [pair for pair in keys.pairs if pair not in refused]
    if (
        found.are_identities_named
        and not keys.pairs
        and not (has_agent and (keys.public or not found.identities_only))
    ):
        said = "; ".join(keys.passed_over) or "IdentityFile none"
        hint = "mend one of them, or add identity_files or agent: true to the gateway"
        raise CredentialsUnusable(
            f"ssh_config {found.path} gives no key that can be used for {found.host}: {said}", hint=hint
        )
    return keys  # it may be empty: some servers request no key


def _named_certificates(
    config: GatewayConfig, found: SshConfig, keys: UserKeys
) -> Iterator[asyncssh.SSHCertificate]:
    """The certificates that are named. Those of ssh_config may be unusable, those of the gateway may not."""
    for path in config.certificate_files:
        yield from _certificates(path)
    for path in () if config.certificate_files else found.certificates:
        try:
            yield from _certificates(path)
        except CredentialsUnusable as exc:
            keys.passed_over.append(str(exc))


def _beside_if_any(
    path: Path, private: Sequence[asyncssh.SSHKey], keys: UserKeys
) -> list[asyncssh.SSHCertificate]:
    beside = Path(f"{path}-cert.pub")
    doing(f"looking for {beside}")
    if not beside.exists():
        return []
    try:
        found = _certificates(beside)
    except CredentialsUnusable as exc:
        keys.passed_over.append(str(exc))
        return []
    if private and not _of(found, private):
        keys.passed_over.append(f"{beside} is not of the key beside it")
        return []
    return found


def _private(path: Path, phrase: str | None) -> tuple[list[asyncssh.SSHKey], str]:
    """The private keys of a file; or none, and why."""
    try:
        data, status = read_bytes(path, limit=MAX_CREDENTIAL_BYTES)
    except Unusable as exc:
        return [], str(exc)
    content = recognise(data)
    if content is Content.PUBLIC:
        return [], "is a public key: only an agent can have its other half (IdentityAgent, or agent: true)"
    if content is Content.OTHER:
        return [], "is not a private key"
    if is_too_open(path, status):
        return [], "is a secret that others may read, so ssh(1) does not use it either"
    try:
        return list(asyncssh.read_private_key_list(str(path), phrase)), ""
    except (OSError, ValueError) as exc:
        if content is Content.ENCRYPTED:
            return (
                [],
                "is encrypted, and passphrase_file does not open it"
                if phrase
                else "is encrypted, without passphrase_file",
            )
        return [], f"cannot be used: {_text(exc)}"


def _public(path: Path) -> list[bytes]:
    """The public half of a key that only an agent can use.

    It is in the file itself, or in the file with `.pub` added to the name (ssh(1), -i).
    """
    for candidate in (path, Path(f"{path}.pub")):
        with suppress(Unusable, OSError, ValueError):
            data, _ = read_bytes(candidate, limit=MAX_CREDENTIAL_BYTES)
            if blob := public_blob(data):
                return [blob]
            return [asyncssh.import_public_key(data).public_data]
    return []
