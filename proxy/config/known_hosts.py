"""Lines of known_hosts (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT): which are some, and whether one is about a gateway.

`HOST[,HOST...] KEYTYPE BASE64`, perhaps after `@cert-authority` or `@revoked`. A HOST is a name or address, `[HOST]:PORT` for
another port than 22, with `*` and `?` as wildcards and `!` to except; or it is hashed, `|1|SALT|HMAC-SHA1(SALT, HOST)`.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from collections.abc import Iterator

from proxy.config.files import MAX_CREDENTIAL_BYTES, Unusable, read_bytes
from proxy.config.model import Config, GatewayConfig

_PORT = 22
_MARKERS = {b"@cert-authority", b"@revoked"}


def is_line(line: bytes) -> bool:
    """Whether known_hosts may hold `line`. The key names its type again, at the start of its blob."""
    fields = line.split()
    if not fields or fields[0].startswith(b"#"):
        return True
    if fields[0] in _MARKERS:
        del fields[0]
    if len(fields) < 3 or fields[0].startswith(b"@"):
        return False
    hosts, kind, key = fields[:3]
    try:
        blob = binascii.a2b_base64(key, strict_mode=True)
        if hosts.startswith(b"|"):
            version, salt, digest = _hashed(hosts)
            return version == b"1" and len(salt) == len(digest) == 20
    except ValueError:
        return False
    return blob.startswith(len(kind).to_bytes(4) + kind)


def unlisted(config: Config) -> Iterator[tuple[str, str]]:
    """Gateways that no line of their known_hosts is about, each with a remedy: dialling them will end in `host_key_unknown`.

    Worth no more than a warning: a line may name only the server's address. What ssh_config may rename is left out, and so are
    files that cannot be read.
    """
    for name, gateway in config.gateways.items():
        if gateway.ssh_config is None and not any(_lists(line, gateway) for line in _lines(gateway)):
            port = gateway.port or _PORT
            files = ", ".join(map(str, gateway.known_hosts))
            yield (
                f"gateways.{name}.known_hosts: no line for {gateway.host} port {port} in {files}",
                f"ssh-keyscan -p {port} {gateway.host} prints some; compare the fingerprint before you add one",
            )


def _lines(gateway: GatewayConfig) -> Iterator[bytes]:
    for path in gateway.known_hosts:
        try:
            data, _ = read_bytes(path, limit=MAX_CREDENTIAL_BYTES)
        except Unusable:
            continue
        yield from data.splitlines()


def _lists(line: bytes, gateway: GatewayConfig) -> bool:
    """A line without a port counts for every port, as asyncssh has it."""
    fields = line.split()
    if not fields or fields[0].startswith(b"#") or not is_line(line) or fields[0] == b"@revoked":
        return False
    hosts = fields[1] if fields[0] in _MARKERS else fields[0]
    host = gateway.host.lower()
    return any(matches(hosts, name.encode()) for name in (f"[{host}]:{gateway.port or _PORT}", host))


def matches(hosts: bytes, name: bytes) -> bool:
    """Whether the first field of a line is about `name`, which is in lower case."""
    if hosts.startswith(b"|"):
        _, salt, digest = _hashed(hosts)
        return hmac.digest(salt, name, hashlib.sha1) == digest
    patterns = hosts.lower().split(b",")
    excepted = any(_glob(pattern[1:], name) for pattern in patterns if pattern.startswith(b"!"))
    return not excepted and any(_glob(pattern, name) for pattern in patterns)


def _glob(pattern: bytes, name: bytes) -> bool:
    expression = re.escape(pattern).replace(rb"\*", b".*").replace(rb"\?", b".")
    return re.fullmatch(expression, name) is not None


def _hashed(hosts: bytes) -> tuple[bytes, bytes, bytes]:
    """Version, salt and digest. Raises ValueError (binascii.Error is one)."""
    _, version, salt, digest = hosts.split(b"|")
    return version, binascii.a2b_base64(salt), binascii.a2b_base64(digest)
