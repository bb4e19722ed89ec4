"""For which purpose a server and kubemux have no algorithm in common (RFC 4253 7.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs
from asyncssh.public_key import get_certificate_algs, get_public_key_algs

from proxy.errors import HandshakeFailed, LinkError
from proxy.runtime.text import printable

_START: Final = 17
"""Where the lists begin in a KEXINIT: after the message type and a cookie."""
_MARKERS: Final = ("ext-info-", "kex-strict-")
_MOST: Final = 300
_WITHOUT_MAC: Final = ("gcm@openssh.com", "poly1305@openssh.com")


class _Kind(NamedTuple):
    what: str
    option: str
    """The name of the option in ssh_config(5) and sshd_config(5)."""
    there_are: Sequence[bytes]
    """All algorithms of this kind that asyncssh supports."""


_KINDS: Final = (
    _Kind("key exchange", "KexAlgorithms", get_kex_algs()),
    _Kind("host key algorithm", "HostKeyAlgorithms", [*get_public_key_algs(), *get_certificate_algs()]),
    _Kind("cipher", "Ciphers", get_encryption_algs()),
    _Kind("cipher", "Ciphers", get_encryption_algs()),
    _Kind("MAC", "MACs", get_mac_algs()),
    _Kind("MAC", "MACs", get_mac_algs()),
)
"""In the order of the lists in a KEXINIT."""


def disagreement(server: str, ours: bytes, theirs: bytes) -> LinkError | None:
    """Why the two sides cannot agree on keys; None if they can.

    `ours` and `theirs` are the two KEXINIT messages.
    """
    mine, its = _lists(ours), _lists(theirs)
    for kind, offered, there in zip(_KINDS, mine, its, strict=False):
        common = [name for name in offered if name in there]
        if not common:
            return _none(server, kind, offered, there)
        if kind.what == "cipher" and common[0].endswith(_WITHOUT_MAC):
            return None  # this cipher needs no MAC
    return None


def _none(server: str, kind: _Kind, ours: Sequence[str], theirs: Sequence[str]) -> LinkError:
    possible = [name for name in theirs if name.encode() in kind.there_are]
    hint = f"add one of kubemux's to {kind.option} in its sshd_config, or update its sshd"
    if possible:
        names = printable(",".join(possible))
        hint += (
            "; or, though that is weak or slow, name an ssh_config in the gateway that says "
            f"{kind.option} +{names}"
        )
    return HandshakeFailed(
        f"{server} and kubemux have no {kind.what} in common: it has {_listed(theirs)}, kubemux has "
        f"{_listed(ours)}",
        hint=hint,
    )


def _listed(names: Sequence[str]) -> str:
    text = printable(", ".join(names), most=_MOST + 1)
    return f"{text[:_MOST]}..." if len(text) > _MOST else text or "none"


def _lists(kexinit: bytes) -> list[list[str]]:
    """The lists of names in a KEXINIT, up to the first that is cut off."""
    found, at = [], _START
    while at + 4 <= len(kexinit):
        end = at + 4 + int.from_bytes(kexinit[at : at + 4])
        names = kexinit[at + 4 : end].decode("ascii", "replace").split(",")
        found.append([name for name in names if name and not name.startswith(_MARKERS)])
        at = end
    return found[: len(_KINDS)]
