"""authorized_keys, its options, and certificates, on any bytes: each line is used or explained, and what is
used is a key that is accepted.
"""

from __future__ import annotations

from contextlib import suppress

from proxy.config.key_table import Grant, Lines, Who, table
from proxy.openssh import blobs
from proxy.openssh.authorized_keys import parse
from proxy.openssh.certificates import Certificate
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.server.login import Refused, decide
from tests.fuzz.choices import Choices
from tests.support.daemon import ROOT

_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + b"A" * 43 + b" comment"
_OPS = Who("user", "ops")


def run(data: bytes) -> None:
    """Run one input. Raises if a rule is broken."""
    choices = Choices(data)
    which = choices.below(3)
    rest = bytes(choices.rest())
    if which == 0:
        _file(rest)
    elif which == 1:
        _file(rest.replace(b"\n", b"") + b" " + _KEY)
    else:
        with suppress(ValueError):
            assert blobs.check(Certificate.parse(rest).key) in blobs.KINDS


def _file(data: bytes) -> None:
    good, bad = parse(data)
    lines = [line.strip() for line in data.split(b"\n")]
    said = sorted([key.number for key in good] + [line.number for line in bad])
    assert said == [number for number, line in enumerate(lines, 1) if line and not line.startswith(b"#")]
    assert all(line.message and line.hint for line in bad)
    for key in good:
        assert blobs.check(key.blob) == key.kind
        known = table([Lines(((key.blob, Grant(_OPS, key.options, ROOT, key.number)),))])[0]
        with suppress(Refused):
            login = decide(known, key.blob, asked="x", address=Endpoint("192.0.2.1", 1), now=0.0)
            assert login.may_forward is key.options.may_forward
            assert login.may_forward or not login.may_open(Endpoint("a", 22))
