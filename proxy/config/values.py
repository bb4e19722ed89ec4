"""Reads and writes the single values of the configuration: addresses, durations, sizes, paths.

`10.0.0.10:6443`, `[::1]:6443`; `500ms`, `10s`, `1h30m`, `2d`; `64KiB`, `256M`, `1Gi`;
`${CREDENTIALS_DIRECTORY}/key`.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self, TypeVar, cast

from proxy.runtime.endpoint import Endpoint, check_host
from proxy.runtime.text import shown

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", re.ASCII)
_PART = re.compile(r"([\d.]+)(ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPELT = re.compile(r"([\d.]+) *([a-z]+) *", re.ASCII | re.IGNORECASE)
_LONG = {
    "msec": "ms",
    "millisecond": "ms",
    "sec": "s",
    "second": "s",
    "min": "m",
    "minute": "m",
    "hr": "h",
    "hour": "h",
    "day": "d",
}
_EXACT = 5e-7
"""Seconds: durations are read to the microsecond."""
_SIZE = re.compile(r"(\d+)(?:([KMG])(?:iB?)?|B)", re.ASCII)
_DIGITS = 18
"""The most digits of a size. Metrics are floats, and a number that no float can hold would break a scrape."""
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

SERVICE_CREDENTIALS = Path("/run/credentials/kubemux.service")
"""`/run/credentials/UNITNAME` of systemd.exec(5), CREDENTIALS. It exists while the service runs, for the
service and for root.
"""

DIRECT = "direct"
"""The gateway name that means: without SSH. The daemon itself connects."""

NO_HOME = "/nonexistent"
"""What Debian's passwd has as the home directory of a user without one."""


class Parsed(Protocol):
    """A value that is written as text."""

    @classmethod
    def parse(cls, text: str) -> Self: ...


P = TypeVar("P", bound=Parsed)


class UnsetVariable(ValueError):
    """A value names an environment variable that is not set."""


@dataclass(frozen=True, slots=True)
class Written:
    """Says how a type of value is written in the file, as metadata of `Annotated`.

    `parse` turns what the file has (`"10s"`) into the value (10.0), or raises ValueError.
    """

    parse: Callable[[Any], object]
    pattern: str
    """For the JSON Schema (ECMA 262). Text that matches it may still be refused by `parse`."""
    format: Callable[[Any], str] = str
    """Turns the value into text that `parse` reads as the same value."""

    def __get_pydantic_core_schema__(
        self, source: object, handler: Callable[[object], CoreSchema]
    ) -> CoreSchema:
        from pydantic_core import core_schema  # here, because the daemon imports this module without pydantic

        if source is str:  # pydantic first refuses what is not text
            return core_schema.no_info_after_validator_function(self.parse, handler(source))
        if source in (int, float):  # pydantic checks the bounds of the parsed number
            return core_schema.no_info_before_validator_function(self.parse, handler(source))
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, _core: object, _handler: object) -> dict[str, object]:
        """The schema of the text in the file, not of the parsed value."""
        return {"type": "string", "pattern": self.pattern}


@dataclass(frozen=True, slots=True)
class Exact:
    """Makes pydantic convert nothing: `port: "22"` and `agent: yes` are text, and so they are refused."""

    def __get_pydantic_core_schema__(
        self, source: object, handler: Callable[[object], CoreSchema]
    ) -> CoreSchema:
        schema = handler(source)
        cast("dict[str, object]", schema)["strict"] = True
        return schema


def from_text(kind: type[P], form: str) -> Callable[[object], P]:
    """The parser of a value that a file has as text like `form`; one that is there already stays."""

    def parse(value: object) -> P:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str):
            raise ValueError(f"expected {form} in quotes, got {shown(value)}")  # noqa: TRY004 - a mistake in a file is a ValueError
        return kind.parse(value)

    return parse


def parse_duration(value: object) -> float:
    """Seconds from `500ms`, `10s`, `1h30m`, `2d`.

    A bare number is refused: its unit would be a guess. Raises ValueError.
    """
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        meant = _respelt(value) if isinstance(value, str) else ""
        advice = f": write {meant}" if meant else ""
        raise ValueError(f"expected a duration like 500ms, 10s or 5m, got {shown(value)}{advice}")
    seconds = round(sum(float(count) * _SECONDS[unit] for count, unit in _PART.findall(value)), 6)
    if seconds == math.inf:
        raise ValueError(f"{shown(value)} is too long")
    return seconds


def _respelt(text: str) -> str:
    """`text` with units that are accepted: `5m` for `5 min`. Empty if it is no duration even so."""
    plain = _SPELT.sub(lambda part: part[1] + _units(part[2].lower()), text)
    return plain if len(plain) <= _DIGITS and _DURATION.fullmatch(plain) else ""


def _units(word: str) -> str:
    return word if word in _SECONDS else _LONG.get(word.removesuffix("s"), word)


def format_duration(seconds: float) -> str:
    """The text of a duration, in the largest unit that needs no fraction: `48h`, `90s`, `500ms`."""
    for unit in ("h", "m", "s", "ms"):
        count = round(seconds / _SECONDS[unit])
        if abs(seconds - count * _SECONDS[unit]) < _EXACT and (count or unit == "s"):
            return f"{count}{unit}"
    return f"{seconds:.6f}".rstrip("0") + "s"


def parse_size(value: object) -> int:
    """Bytes from `64KiB`, `256MiB`, `512B`. A bare number is refused. Raises ValueError.

    `256M` and `256Mi` are the same, as `MemoryMax=256M` is to systemd and `256Mi` to Kubernetes. `256MB` is
    refused: it may be 256 million, which is 5 % less.
    """
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError(f"expected a size like 64KiB or 256MiB, got {shown(value)}")
    if len(match[1]) > _DIGITS:
        raise ValueError(f"{shown(value)} is too large")
    return int(match[1]) * _BYTES[match[2] or ""]


def format_size(size: int) -> str:
    """The text of a size, in the largest unit that needs no fraction: `1MiB`, `1536KiB`."""
    for unit in "GMK":
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}iB"
    return f"{size}B"


def credentials_directory() -> Path:
    """The value of `${CREDENTIALS_DIRECTORY}`.

    systemd sets the variable only for the service. In an operator's shell it is unset: there, the service's
    folder counts.
    """
    return Path(os.environ.get("CREDENTIALS_DIRECTORY") or SERVICE_CREDENTIALS)


def is_for_system_service() -> bool:
    """Whether a hint should be about the system service: this process is it, or the user is root."""
    return os.geteuid() == 0 or ("INVOCATION_ID" in os.environ and "XDG_RUNTIME_DIR" not in os.environ)


def has_home() -> bool:
    """Whether this user has a home directory, so that `~` can be expanded."""
    try:
        home = Path("~").expanduser()
    except RuntimeError:  # neither HOME nor an entry in passwd
        return False
    return home.is_absolute() and home != Path(NO_HOME)


def expand_path(value: object) -> Path:
    """A path with `${VARIABLE}` and a leading `~` expanded.

    Raises ValueError if a variable is unset or the path is relative. The messages do not show the value: a
    user may have put the secret itself where its file is expected.
    """
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("expected a path")

    def lookup(match: re.Match[str]) -> str:
        if match[1] == "CREDENTIALS_DIRECTORY":
            return str(credentials_directory())
        found = os.environ.get(match[1])
        if found is None:
            raise UnsetVariable(f"environment variable {match[1]} is not set")
        return found

    path = Path(_VARIABLE.sub(lookup, value))
    if path.parts[:1] == ("~",) and not has_home():
        raise ValueError(f"~ stands for a home directory, and uid {os.geteuid()} has none")
    try:
        path = path.expanduser()
    except RuntimeError as exc:
        raise ValueError(
            f"there is no user {shown(path.parts[0][1:])}, whose home directory this would be"
        ) from exc
    if not path.is_absolute():
        raise ValueError("expected an absolute path")
    return path


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
