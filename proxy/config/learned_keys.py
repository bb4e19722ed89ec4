"""New host keys that a server announces before it uses them (UpdateHostKeys of ssh_config(5)): which of them
kubemux may learn, and the file that holds them. Pure.

kubemux never writes known_hosts: that is the operator's file. Learned keys have their own file,
`learned_host_keys`, with lines like this:

    NAME KEYTYPE BASE64 vouched-for-by SHA256:...

A server proves a known key when it announces new ones: that known key vouches for them. A learned line is
valid only while known_hosts has the key that vouched for it, under the same name. So an operator who removes
a key from known_hosts also removes all keys that it vouched for.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from proxy.openssh.known_hosts import Entry, is_simple, key_of, matches

MAX_KEYS: Final = 32
"""The most keys in one announcement. sshd has one key of each of four kinds, twice as many in a rotation."""

VOUCHED: Final = b"vouched-for-by"
KINDS: Final = frozenset(
    {
        b"ssh-ed25519",
        b"ecdsa-sha2-nistp256",
        b"ecdsa-sha2-nistp384",
        b"ecdsa-sha2-nistp521",
        b"ssh-rsa",  # the type of the key; it signs with SHA-2
    }
)


class Learned(NamedTuple):
    """One line of the file."""

    name: bytes
    """The server's name, written as in known_hosts."""
    blob: bytes
    voucher: str
    """The fingerprint of the key in known_hosts that vouched for this one."""
    line: int = 0


class Update(NamedTuple):
    """How an announcement changes the learned keys."""

    new: tuple[bytes, ...] = ()
    """Keys that are not known yet. They are learned once the server has proved that they are its own."""
    gone: tuple[bytes, ...] = ()
    """Learned keys that the server no longer announces."""
    voucher: str = ""
    """The fingerprint of the known key that vouches for the new ones."""
    refused: str = ""
    """Why nothing may be learned from the announcement; empty if it is accepted."""


def fingerprint(blob: bytes) -> str:
    """`SHA256:...`, as ssh-keygen prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def kind(blob: bytes) -> bytes:
    """The key type, with which the encoding of a key or certificate begins (RFC 4253 6.6)."""
    return blob[4 : 4 + int.from_bytes(blob[:4])]


def parse(text: bytes) -> tuple[list[Learned], list[int]]:
    """The learned keys in `text`, and the numbers of the lines that are neither empty nor of kubemux."""
    found, others = [], []
    for number, line in enumerate(text.split(b"\n"), 1):
        try:
            if line.strip():
                found.append(_line(line, number))
        except ValueError:
            others.append(number)
    return found, others


def _line(line: bytes, number: int) -> Learned:
    """One learned key. Raises ValueError if kubemux has not written the line."""
    name, key_type, key, word, voucher = line.split()
    if word != VOUCHED or not is_simple(name) or b"," in name:
        raise ValueError("not of kubemux")
    return Learned(name, key_of([key_type, key]), voucher.decode("ascii"), number)


def render(lines: Iterable[Learned]) -> bytes:
    """The contents of the file for these keys."""
    return b"".join(
        b"%s %s %s %s %s\n"
        % (line.name, kind(line.blob), base64.b64encode(line.blob), VOUCHED, line.voucher.encode())
        for line in lines
    )


def vouched_for(known: Sequence[Entry], learned: Iterable[Learned]) -> list[Learned]:
    """The learned lines whose voucher is still in `known`, under the same name."""
    return [
        line
        for line in learned
        if any(
            fingerprint(one.blob) == line.voucher and _is_simple(one) and matches(one.hosts, line.name)
            for one in known
        )
    ]


def update(
    known: Sequence[Entry], learned: Sequence[Learned], name: bytes, shown: bytes, announced: Sequence[bytes]
) -> Update:
    """What may be learned from a server that identified itself with the key `shown`.

    The conditions are OpenSSH's (clientloop.c, and UpdateHostKeys in ssh_config(5)). The server identified
    itself with a plain key, which known_hosts has under its name. None of its lines has `@cert-authority`,
    `@revoked`, a pattern or more than two names. None of the announced keys is known under another name.
    """
    counting = vouched_for(known, learned)
    about = [entry for entry in known if matches(entry.hosts, name)]
    vouchers = {line.blob: line.voucher for line in counting if line.name == name}
    vouchers |= {entry.blob: fingerprint(entry.blob) for entry in about}
    elsewhere = {entry.blob for entry in known if entry not in about}
    elsewhere |= {line.blob for line in counting if line.name != name}
    if kind(shown) not in KINDS:
        return Update(refused="it identified itself with a certificate")
    if not all(map(_is_simple, about)):
        return Update(refused="known_hosts has a marker (@), a pattern or more than two names for it")
    if shown not in vouchers:
        return Update(refused="its key is not in known_hosts under this name")
    if not elsewhere.isdisjoint(announced):
        return Update(refused="one of its keys is in known_hosts under another name")
    if not 0 < len(announced) <= MAX_KEYS or len(set(announced)) < len(announced):
        return Update(refused="it announced no key, too many, or one twice")
    return Update(
        new=tuple(blob for blob in announced if blob not in vouchers and kind(blob) in KINDS),
        gone=tuple(line.blob for line in learned if line.name == name and line.blob not in announced),
        voucher=vouchers[shown],
    )


def updated(learned: Sequence[Learned], name: bytes, change: Update) -> list[Learned]:
    """The learned keys after `change` was applied."""
    kept = [line for line in learned if line.name != name or line.blob not in (*change.gone, *change.new)]
    return [*kept, *(Learned(name, blob, change.voucher) for blob in change.new)]


def _is_simple(entry: Entry) -> bool:
    """Whether the line has one name, or a name and an address, and no marker or pattern.

    A person has written any other line, so OpenSSH does not change what it says.
    """
    return not entry.marker and is_simple(entry.hosts) and entry.hosts.count(b",") < 2
