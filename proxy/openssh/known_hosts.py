"""Finds the lines of a known_hosts file about one server, as ssh(1) does (sshd(8), SSH_KNOWN_HOSTS FILE
FORMAT; hostfile.c). Pure.

A line is `HOST[,HOST...] KEYTYPE BASE64`, perhaps after `@cert-authority` or `@revoked`. A HOST is a name or
an address, or `[HOST]:PORT` for a port other than 22. It may have the wildcards `*` and `?`; after a `!` it
is an exception. Or it is hashed: `|1|SALT|HMAC-SHA1(SALT, HOST)`.
"""

from __future__ import annotations

import binascii
import hashlib
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

AUTHORITY: Final = b"@cert-authority"
REVOKED: Final = b"@revoked"
_MARKERS: Final = {AUTHORITY, REVOKED}
_PORT: Final = 22

_BLOCK: Final = 64
"""The block size of SHA-1 (RFC 2104 2), in bytes."""
_DIGEST: Final = 20
_HASHED: Final = len("|1||") + 2 * 28
"""The length of a hashed field: version, salt and digest in base64."""
_INNER, _OUTER = (bytes(octet ^ pad for octet in range(256)) for pad in (0x36, 0x5C))


class Entry(NamedTuple):
    """One line with a key."""

    line: int
    marker: bytes
    hosts: bytes
    blob: bytes


class Found(NamedTuple):
    """The lines of a file that are about one server."""

    entries: list[Entry]
    unreadable: list[int]
    """The numbers of lines that may be about it but cannot be read. ssh(1) skips them."""


def canonical(host: str) -> str:
    """A name in lower case, or an address as the system writes it. ssh.c does so before it compares lines."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return socket.getnameinfo(found[0][4], socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
    except (OSError, UnicodeError):
        return host.lower()


def names(host: str, port: int, alias: str = "") -> tuple[bytes, ...]:
    """The names by which lines for a server are found. The second is used only if no line has the first.

    A HostKeyAlias is used alone, without the port. The address that a name resolves to is never used: later
    it may belong to another machine, and a line with the address would then accept that machine as the
    server.
    """
    if alias:
        return (alias.lower().encode(),)
    plain = canonical(host)
    return (plain.encode(),) if port == _PORT else (f"[{plain}]:{port}".encode(), plain.encode())


def find(data: bytes, name: bytes) -> Found:
    """The lines of the file `data` that are about `name`, one of `names`.

    It parses only the lines that may match, because a file may have 20,000 lines.
    """
    found = Found([], [])
    is_hash_of = _hashing(name)
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            if line.startswith(b"|"):
                if not is_hash_of(line[:_HASHED]):
                    continue
            elif name not in line.lower() and is_simple(line) and b"|1|" not in line:
                continue
            if entry := _entry(number, line, name):
                found.entries.append(entry)
        except (ValueError, IndexError):
            found.unreadable.append(number)
    return found


def holding(data: bytes, blob: bytes) -> Iterator[Entry]:
    """The lines of the file `data` with the key `blob`, of any server."""
    encoded = binascii.b2a_base64(blob, newline=False)
    at = data.find(encoded)
    while at >= 0:
        number, start = data.count(b"\n", 0, at) + 1, data.rfind(b"\n", 0, at) + 1
        end = (data.find(b"\n", at) + 1 or len(data) + 1) - 1
        with suppress(ValueError, IndexError):  # the key may be in a comment
            if (entry := _entry(number, data[start:end])) and entry.blob == blob:
                matches(entry.hosts, b"")  # raises if the hash cannot be read: then ssh skips the line
                yield entry
        at = data.find(encoded, end)


def _entry(number: int, line: bytes, name: bytes | None = None) -> Entry | None:
    """The entry in `line`, if it is about `name` (None: any server). Raises ValueError, IndexError."""
    fields = line.split(None, 4)
    if not fields or fields[0].startswith(b"#"):
        return None
    marker = fields.pop(0) if fields[0].startswith(b"@") else b""
    if marker and marker not in _MARKERS:
        raise ValueError("unknown marker")
    if name is not None and not matches(fields[0], name):
        return None
    return Entry(number, marker, fields[0], key_of(fields[1:3]))


def is_line(line: bytes) -> bool:
    """Whether `line` is valid in known_hosts: an entry, a comment or an empty line."""
    fields = line.split(None, 4)
    return not fields or fields[0].startswith(b"#") or is_entry(line)


def is_entry(line: bytes) -> bool:
    """Whether `line` has a key that can be read."""
    try:
        entry = _entry(0, line)
        if entry and entry.hosts.startswith(b"|"):
            matches(entry.hosts, b"")
    except (ValueError, IndexError):
        return False
    return entry is not None


def matches(hosts: bytes, name: bytes) -> bool:
    """Whether the first field of a line is about `name`, which is in lower case.

    Raises ValueError if the field cannot be read.
    """
    if hosts.startswith(b"|"):
        return _hashing(name)(hosts)
    hosts = hosts.lower()
    patterns = hosts.split(b",")
    excepted = any(_glob(pattern[1:], name) for pattern in patterns if pattern.startswith(b"!"))
    return not excepted and any(_glob(pattern, name) for pattern in patterns)


def is_simple(hosts: bytes) -> bool:
    """Whether `hosts` has no wildcard and no exception."""
    return not (b"*" in hosts or b"?" in hosts or b"!" in hosts)


def _glob(pattern: bytes, name: bytes) -> bool:
    expression = re.escape(pattern).replace(rb"\*", b".*").replace(rb"\?", b".")
    return re.fullmatch(expression, name, re.DOTALL) is not None


def key_of(fields: Sequence[bytes]) -> bytes:
    """The key of `KEYTYPE BASE64`. Raises ValueError, also if the type in the key is not KEYTYPE."""
    kind, key = fields
    blob = binascii.a2b_base64(key, strict_mode=True)
    if not blob.startswith(len(kind).to_bytes(4) + kind):
        raise ValueError("the key is of another type")
    return blob


def _hashing(name: bytes) -> Callable[[bytes], bool]:
    """A function that returns whether a hashed field is the hash of `name`.

    That function raises ValueError (binascii.Error is one) if the field is not a hash. It computes the HMAC
    itself (RFC 2104 2): a file of 20,000 lines has as many salts, and `hmac.digest` takes twice as long.
    """
    padding = _BLOCK - _DIGEST
    inner, outer = b"\x36" * padding + name, b"\x5c" * padding
    sha1, decode = hashlib.sha1, binascii.a2b_base64

    def is_hash(hosts: bytes) -> bool:
        if len(hosts) != _HASHED or hosts[:3] != b"|1|":
            raise ValueError("unknown kind of hash")
        salt = decode(hosts[3:31])
        return sha1(
            salt.translate(_OUTER) + outer + sha1(salt.translate(_INNER) + inner).digest()
        ).digest() == decode(hosts[32:])

    return is_hash
