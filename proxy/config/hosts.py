"""Checks host names that clients ask for and that a gateway pattern (`host: "{host}"`) dials. Pure.

Such a name becomes an argument of `ssh -G`, and may become `%h` in a ProxyCommand, which a shell runs, or in
a file name. So only an address is accepted, or labels of letters, digits, `-` and `_`: no shell character, no
path and no option.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

ANY_HOST: Final = "{host}"
"""The placeholder for the requested host."""

_LABEL: Final = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_ADDRESS: Final = re.compile(r"[0-9A-Fa-f:.]+", re.ASCII)
_LONGEST: Final = 253


def is_host(name: str) -> bool:
    """Whether `name` may be dialled for a client."""
    return len(name) <= _LONGEST and (_NAME.fullmatch(name) is not None or _is_address(name))


def _is_address(name: str) -> bool:
    try:
        return _ADDRESS.fullmatch(name) is not None and bool(ipaddress.ip_address(name).packed)
    except ValueError:
        return False
