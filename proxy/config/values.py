"""The kinds of single values that the configuration has: switches, numbers, addresses, names, durations,
sizes, paths. `written.py` says how a kind of value is written; `quantities.py` and `file_paths.py` read some.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated

from proxy.config.file_paths import expand_path
from proxy.config.quantities import format_duration, format_size, parse_duration, parse_size
from proxy.config.written import Exact, Written, from_text
from proxy.runtime.endpoint import Endpoint, check_host
from proxy.runtime.text import shown

DIRECT = "direct"
"""The gateway name that means: without SSH. The daemon itself connects."""


def _printable(value: str) -> str:
    if not 1 <= len(value) <= 253 or not value.isprintable():
        raise ValueError(f"expected 1 to 253 printable characters, got {shown(value)}")
    return value


def _word(value: str) -> str:
    if not value.isprintable() or len(value.split()) != 1 or value != value.strip():
        raise ValueError(f"expected a name without spaces, got {shown(value)}")
    return value


def parse_server_name(value: str) -> str:
    """A name that a certificate may hold, or an address. Raises ValueError."""
    name = _word(value)
    address = name.removeprefix("[").removesuffix("]").partition("%")[0]
    if "/" in name or (":" in name and not _is_ipv6(address)):
        raise ValueError(f"expected a name or an address, without a port, got {shown(value)}")
    check_host(name)
    return name


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _url_path(value: str) -> str:
    if not re.fullmatch(r"/[\x21-\x7e]*", value):
        raise ValueError(f"expected a path like /healthz (no spaces, ASCII), got {shown(value)}")
    return value


def parse_base_path(value: str) -> str:
    """A path to which other paths are appended, so without a slash at its end. Raises ValueError."""
    if not re.fullmatch(r"(/[\x21\x22\x24-\x2e\x30-\x3e\x40-\x7e]+)+/?", value):
        raise ValueError(
            f"expected a path like /k8s/clusters/c-1 (no spaces, no query, ASCII), got {shown(value)}"
        )
    return value.rstrip("/")


Switch = Annotated[bool, Exact()]
Whole = Annotated[int, Exact()]

Address = Annotated[Endpoint, Written(from_text(Endpoint, "HOST:PORT"), r"^.+:[0-9]{1,5}$")]
"""HOST:PORT, of a listener or of an API server."""

Name = Annotated[str, Written(_printable, r"^.{1,253}$")]
"""Any printable text: kubeconfig contexts are named like ARNs and `kubernetes-admin@kubernetes`."""

Word = Annotated[str, Written(_word, r"^\S+$")]
"""One word: a host, an alias or a user."""

ServerName = Annotated[str, Written(parse_server_name, r"^[^\s/]+$")]
"""A name that a certificate may hold, or an address."""

UrlPath = Annotated[str, Written(_url_path, r"^/[!-~]*$")]
"""The path of an HTTP request, with its query if any."""

BasePath = Annotated[str, Written(parse_base_path, r"^(/[!-~]+)+/?$")]
"""A path to which other paths are appended: not `/`, and without a slash at its end."""

Duration = Annotated[float, Written(parse_duration, r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$", format_duration)]
"""Seconds."""

Size = Annotated[int, Written(parse_size, r"^[0-9]+(([KMG](iB?)?)|B)$", format_size)]
"""Bytes."""

FilePath = Annotated[Path, Written(expand_path, r"^[/~$]")]
"""An absolute path."""
