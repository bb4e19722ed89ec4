"""How thoroughly the files that a configuration names are checked."""

from __future__ import annotations

from enum import IntEnum, auto


class Scrutiny(IntEnum):
    """How thoroughly files are checked. Each level includes those before it."""

    NONE = auto()
    """No file is opened."""
    CA = auto()
    """Only `tls.ca_file`: the export of a kubeconfig needs no other file. This one is not secret."""
    FILES = auto()
    """Each file exists, can be read, has the right format, and is private if it must be. If not, the daemon
    does not start.
    """
    KEYS = auto()
    """Each file of `identity_files` is a private key, and an encrypted one has a passphrase file. Each line
    of `authorized_keys` can be used.

    If not, the daemon starts, but cannot use that gateway or key.
    """
