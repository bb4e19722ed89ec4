"""Host keys that a server rotates in (UpdateHostKeys of ssh_config(5)): which may be learned, and the file
that keeps them. Pure.

known_hosts belongs to the operator. Learned keys have a file of their own, `learned_host_keys`:

NAME KEYTYPE BASE64 vouched-for-by SHA256:...

A learned line counts as long as known_hosts has, under that name, the key that vouched for it. So whoever
removes a key from known_hosts removes the keys that it vouched for too.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from proxy.openssh.known_hosts import is_entry, is_simple, matches, names

MAX_KEYS: Final = 32
"""The most in one announcement. sshd has one key of each of four kinds, and twice as many in a rotation."""

VOUCHED: Final = b"vouched-for-by"
KINDS: Final = frozenset(
    {
        b"ssh-ed25519",
        b"ecdsa-sha2-nistp256",
        b"ecdsa-sha2-nistp384",
        b"ecdsa-sha2-nistp521",
        b"ssh-rsa",
    }  # RSA signs with SHA-2
)


class Line(NamedTuple):
    """One line of known_hosts."""

    hosts: bytes
    blob: bytes
    marker: bytes = b""
    voucher: str = ""
    """The fingerprint of the key that vouched for it, if the line was learned."""

    def is_for(self, name: bytes) -> bool:
        """Whether it is about that host, as OpenSSH writes its name: `host`, or `[host]:port` for another
        port than 22.
        """
        return matches(self.hosts, name)

    @property
    def is_simple(self) -> bool:
        """Whether it is a name, or a name and an address. OpenSSH changes no line that a person has written
        otherwise.
        """
        return not self.marker and is_simple(self.hosts) and self.hosts.count(b",") < 2


class Update(NamedTuple):
    """What follows from an announcement."""

    new: tuple[bytes, ...] = ()
    """Keys that are not known yet. They are learned after the server has proved that it has them."""
    gone: tuple[bytes, ...] = ()
    """Learned keys that the server no longer announces."""
    refused: str = ""
    """Why nothing may be learned from it; empty if something may."""


def name_of(host: str, port: int, alias: str = "") -> bytes:
    """As a line of known_hosts."""
    return names(host, port, alias)[0]


def fingerprint(blob: bytes) -> str:
    """`SHA256:...`, as ssh-keygen prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def kind(blob: bytes) -> bytes:
    """The type that a key or certificate begins with (RFC 4253 6.6)."""
    return blob[4 : 4 + int.from_bytes(blob[:4])]


def parse(text: bytes) -> list[Line]:
    """The lines with keys. Comments, and lines that cannot be read, are left out."""
    found = []
    for line in text.splitlines():
        if not is_entry(line):
            continue
        fields = line.split()
        marker = fields.pop(0) if fields[0].startswith(b"@") else b""
        voucher = (
            fields[4].decode("ascii", "replace") if fields[3:4] == [VOUCHED] and len(fields) == 5 else ""
        )
        found.append(Line(fields[0], base64.b64decode(fields[2]), marker, voucher))
    return found


def render(lines: Iterable[Line]) -> bytes:
    """The file of learned keys."""
    return b"".join(
        b"%s %s %s %s %s\n"
        % (line.hosts, kind(line.blob), base64.b64encode(line.blob), VOUCHED, line.voucher.encode())
        for line in lines
    )


def valid(known: Sequence[Line], learned: Iterable[Line]) -> list[Line]:
    """The learned lines whose voucher is still in `known`, under the same name."""

    def is_vouched_for(line: Line) -> bool:
        return any(
            fingerprint(one.blob) == line.voucher and one.is_simple and one.is_for(line.hosts)
            for one in known
        )

    return [line for line in learned if line.is_simple and is_vouched_for(line)]


def update(
    known: Sequence[Line], learned: Sequence[Line], name: bytes, shown: bytes, announced: Sequence[bytes]
) -> Update:
    """What may be learned from a server that identified itself with `shown` and has announced these keys.

    OpenSSH's conditions (clientloop.c, and UpdateHostKeys in ssh_config(5)): the host was identified by a
    plain key that the user's known_hosts has under its name; no authority, ban, pattern or longer list of
    names is among its lines; none of the keys stands under another name.
    """
    lines = [*known, *valid(known, learned)]
    ours = [line for line in lines if line.is_for(name)]
    if kind(shown) not in KINDS:
        return Update(refused="it identified itself with a certificate")
    if not all(line.is_simple for line in ours):
        return Update(refused="known_hosts has an authority, a ban, a pattern or more than two names for it")
    if shown not in {line.blob for line in ours}:
        return Update(refused="its key is not in known_hosts under this name")
    if any(line.blob in announced for line in lines if not line.is_for(name)):
        return Update(refused="one of its keys is in known_hosts under another name")
    if len(announced) > MAX_KEYS or len(set(announced)) < len(announced):
        return Update(refused="it announced too many keys, or one twice")
    have = {line.blob for line in ours}
    return Update(
        new=tuple(blob for blob in announced if blob not in have and kind(blob) in KINDS),
        gone=tuple(line.blob for line in learned if line.hosts == name and line.blob not in announced),
    )


def learn(
    known: Sequence[Line], learned: Sequence[Line], name: bytes, shown: bytes, change: Update
) -> list[Line]:
    """The learned lines after `change`; `shown`, or the key that vouched for it, vouches for what is new."""
    vouchers = {line.blob: line.voucher for line in valid(known, learned) if line.hosts == name}
    is_known = any(one.blob == shown and one.is_for(name) for one in known)
    voucher = fingerprint(shown) if is_known else vouchers.get(shown, "")
    kept = [line for line in learned if line.hosts != name or line.blob not in (*change.gone, *change.new)]
    return [
        *kept,
        *(Line(name, blob, b"", voucher) for blob in change.new if voucher),
    ]  # no voucher: the files have changed meanwhile
