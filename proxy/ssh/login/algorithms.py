"""The algorithms that we offer: our own list, or what asyncssh has of the list of an ssh_config."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import asyncssh
from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_default_kex_algs, get_kex_algs
from asyncssh.mac import get_default_mac_algs, get_mac_algs
from asyncssh.public_key import get_certificate_algs, get_default_public_key_algs, get_public_key_algs

from proxy.errors import CredentialsUnusable
from proxy.openssh.algorithms import Asked, Names, usable
from proxy.openssh.ssh_config import SshConfig
from proxy.ssh.login.trust import ALGORITHMS

ENCRYPTION: Final = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes128-ctr",
)
"""AES-GCM comes first: on a CPU with AES instructions it costs a fifth of the others."""

_CERTIFICATE: Final = "-cert-v01@openssh.com"


def settings(found: SshConfig | None) -> dict[str, list[str]]:
    """Arguments of `asyncssh.connect`. Raises CredentialsUnusable if a list becomes empty."""
    chosen = {"encryption_algs": list(ENCRYPTION)}
    if found is None:
        return chosen
    for argument, option, asked, ours, there_are in (
        ("encryption_algs", "Ciphers", found.ciphers, ENCRYPTION, _text(get_encryption_algs())),
        (
            "kex_algs",
            "KexAlgorithms",
            found.kex_algorithms,
            _text(get_default_kex_algs()),
            _text(get_kex_algs()),
        ),
        ("mac_algs", "MACs", found.macs, _text(get_default_mac_algs()), _text(get_mac_algs())),
    ):
        if asked is not None:
            chosen[argument] = list(_names(found, option, asked, ours, there_are))
    if found.public_key_algorithms is not None:
        ours, there_are = (
            _text(get_default_public_key_algs()),
            _text([*get_public_key_algs(), *get_certificate_algs()]),
        )
        names = _names(found, "PubkeyAcceptedAlgorithms", found.public_key_algorithms, ours, there_are)
        chosen["signature_algs"] = list(dict.fromkeys(map(_of_signature, names)))
    return chosen


def _of_signature(algorithm: str) -> str:
    """The signature algorithm of a key, or of the key in a certificate.

    The name of a security key keeps its domain (`sk-ssh-ed25519@openssh.com`).
    """
    plain = algorithm.removesuffix(_CERTIFICATE)
    return plain if plain == algorithm or not plain.startswith("sk-") else f"{plain}@openssh.com"


def for_host_keys(found: SshConfig | None) -> Names:
    """The HostKeyAlgorithms that an ssh_config asks for, if any (`trust.Trusted.algorithms`).

    Raises CredentialsUnusable.
    """
    if found is None or found.host_key_algorithms is None:
        return ()
    there_are = _text([*get_public_key_algs(), *get_certificate_algs()])
    return _names(found, "HostKeyAlgorithms", found.host_key_algorithms, ALGORITHMS, there_are)


def is_accepted(asked: Asked | None, pair: asyncssh.SSHKeyPair) -> bool:
    """Whether PubkeyAcceptedAlgorithms allows us to offer this key or certificate."""
    if asked is None:
        return True
    end = _CERTIFICATE if pair.has_cert else ""
    return any(f"{algorithm.decode()}{end}" in asked.names for algorithm in pair.sig_algorithms)


def left_out(found: SshConfig) -> list[str]:
    """The algorithms that an ssh_config asks for and ssh(1) has, but asyncssh does not have."""
    there_are = {
        "Ciphers": (found.ciphers, get_encryption_algs()),
        "KexAlgorithms": (found.kex_algorithms, get_kex_algs()),
        "MACs": (found.macs, get_mac_algs()),
        "HostKeyAlgorithms": (found.host_key_algorithms, [*get_public_key_algs(), *get_certificate_algs()]),
        "PubkeyAcceptedAlgorithms": (
            found.public_key_algorithms,
            [*get_public_key_algs(), *get_certificate_algs()],
        ),
    }
    said = []
    for option, (asked, known) in there_are.items():
        unknown = [name for name in asked.names if name not in _text(known)] if asked else []
        if unknown:
            said.append(f"{option}: kubemux has no {', '.join(unknown)}")
    return said


def _names(
    found: SshConfig, option: str, asked: Asked, ours: Sequence[str], there_are: Iterable[str]
) -> Names:
    names = usable(asked.merged(ours), there_are)
    if not names:
        raise CredentialsUnusable(
            f"ssh_config {found.path}: {option} leaves nothing that kubemux can do: {', '.join(asked.names)}",
            hint=f"add one of {', '.join(ours[:6])}",
        )
    return names


def _text(names: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(name.decode() for name in names)
