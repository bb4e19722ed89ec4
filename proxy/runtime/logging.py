"""Log set-up: one line per entry, JSON or for people, to standard error.

There are three sources: structlog, the standard library's `logging` (asyncssh and asyncio, from WARNING on),
and Python's warnings. Each entry goes through the same steps: an exception becomes text, secrets are removed,
the entry is rendered, and written at once without a buffer; for the journal it begins with its priority.

The daemon logs one entry for each connection (`connection closed`: cluster, client, to_cluster and
from_cluster in bytes, seconds, reason) and for each change of a gateway, link or cluster.

Redaction is the last line of defence, not the first: nothing should hand a secret to a logger.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _encode_text
from operator import call
from typing import Any, BinaryIO, Final, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from proxy.runtime import journal
from proxy.runtime.text import escaped, for_terminal

REDACTED: Final = "[redacted]"
_SECRET_KEY = re.compile(
    r"(?:token|passw(?:or)?d|passphrase|secret|authorization|cookie|credential|(?:private|api)[_-]?key)s?\Z",
    re.IGNORECASE,
)
_SECRET_TEXT: Final = (
    (
        re.compile(
            r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        REDACTED,
    ),
    # RFC 6750 2.1, b64token. A shorter word after `bearer` is English ("bearer authentication").
    (re.compile(r"\b(bearer)\s+[\w.~+/-]{15,}=*", re.IGNORECASE), rf"\1 {REDACTED}"),
    (re.compile(r"(authorization\W{1,4}(?:basic|bearer)?\s*)[^\s'\",}]+", re.IGNORECASE), rf"\1{REDACTED}"),
    # RFC 7519: a JWT. The tokens of service accounts are JWTs.
    (
        re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"),
        REDACTED,
    ),
    (re.compile(r"(://[^\s/:@]*:)[^\s/@]+@"), rf"\1{REDACTED}@"),
    (re.compile(r"\b((?:token|password|passphrase|secret)=)[^\s&]+", re.IGNORECASE), rf"\1{REDACTED}"),
)
_SUSPECT: Final = (
    "private key",
    "bearer",
    "authorization",
    "eyj",
    "://",
    "=",
)
"""Each pattern above can only match a text with one of these. Texts without them are not searched.

Six searches in each text took 34 of the 44 microseconds of an entry.
"""


class _Sink:
    """Writes log entries. A write that fails (full disk, closed pipe) is counted and never raises."""

    def __init__(self, stream: TextIO | None) -> None:
        self.dropped = 0
        self._stream = stream  # keeps the file open as long as we write to it
        self._journal = journal.reads(stream)
        # Without Python's buffers: on a full disk, the flush at exit would fail again, with exit code 120.
        buffer = None if stream is None else stream.buffer
        self._out = cast("BinaryIO | None", getattr(buffer, "raw", buffer))

    def write(self, entry: str, level: str) -> None:
        if self._journal:
            entry = journal.marked(entry, level)
        data = (entry + "\n").encode("utf-8", "backslashreplace")
        try:
            if self._out is None or self._out.write(data) != len(data):
                self.dropped += 1
        except (OSError, ValueError):  # ValueError: the stream is closed
            self.dropped += 1


class _Logger:
    """The logger that structlog calls with each rendered entry."""

    def __init__(self, name: str = "kubemux") -> None:
        self.name = name

    def debug(self, entry: str) -> None:
        _sink.write(entry, "debug")

    def info(self, entry: str) -> None:
        _sink.write(entry, "info")

    def warning(self, entry: str) -> None:
        _sink.write(entry, "warning")

    def error(self, entry: str) -> None:
        _sink.write(entry, "error")

    def critical(self, entry: str) -> None:
        _sink.write(entry, "critical")


class _Bridge(logging.Handler):
    """Passes entries of the standard library's loggers to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = min(record.levelno // 10 * 10, logging.CRITICAL)
            structlog.get_logger(record.name).log(level, record.getMessage(), exc_info=record.exc_info)
        except Exception:  # noqa: BLE001 - as logging demands: report it, never raise it
            self.handleError(record)


_sink = _Sink(None)


def configure(format: Literal["json", "console"], level: str, stream: TextIO | None = None) -> None:  # noqa: A002 - the file's key
    """Send entries of `level` (debug, info, warning, error) and above to `stream`, standard error by default.

    It may be called again to change any of the three. Entries of other libraries are sent from WARNING on,
    whatever `level` is.
    """
    global _sink
    stream = stream or sys.stderr
    _sink = _Sink(stream)
    renderer: tuple[Processor, ...]
    if format == "json":
        renderer = (_json,)
    else:
        colors = stream is not None and stream.isatty() and not os.environ.get("NO_COLOR")
        plain = structlog.dev.plain_traceback
        renderer = (
            redact,
            _printable,
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain),
        )
    structlog.configure(
        processors=[
            _stamped,
            structlog.processors.format_exc_info,
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Logger,
        # A cached logger would keep the old level. A lookup costs little, at one entry per connection.
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge(logging.WARNING))
    root.setLevel(logging.WARNING)
    warnings.showwarning = _warned


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001 - the signature of warnings.showwarning
    line: str | None = None,  # noqa: ARG001
) -> None:
    where = f"{filename}:{lineno}"
    structlog.get_logger("python").warning(
        "python warning", category=category.__name__, message=str(message), where=where
    )


def dropped_entries() -> int:
    """How many entries could not be written since the last `configure`."""
    return _sink.dropped


def redact(logger: WrappedLogger, method: str, entry: EventDict) -> EventDict:  # noqa: ARG001 - structlog's signature
    """A structlog processor: plain JSON values only, secrets replaced by `[redacted]`, at any depth."""
    return cast("EventDict", _clean(entry))


def _clean(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if not isinstance(value, str):
        if isinstance(value, Mapping):
            return {
                str(key): REDACTED if _is_secret(str(key)) else _clean(item) for key, item in value.items()
            }
        if type(value) in (list, tuple, set, frozenset):  # not a named tuple, which has its own text form
            return [_clean(item) for item in cast("list[object]", value)]
    text = str(value)
    if _may_have_secrets(text):
        for pattern, replacement in _SECRET_TEXT:
            text = pattern.sub(replacement, text)
    return text


@lru_cache(maxsize=256)
def _is_secret(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def _stamped(logger: WrappedLogger, method: str, entry: EventDict) -> EventDict:
    """Put the time, the level and the logger first, in this order."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return {
        "timestamp": f"{_date(seconds)}.{rest // 1000:06}Z",
        "level": method,
        "logger": logger.name,
        "event": entry.pop("event"),
        **entry,
    }


@lru_cache(maxsize=1)
def _date(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def _encode_float(value: float) -> str:
    return repr(value) if math.isfinite(value) else _encode(value)


_Encoder = Callable[[Any], str]
_ENCODERS: Final[dict[type, _Encoder]] = {
    int: int.__repr__,
    float: _encode_float,
    bool: _encode,
    type(None): _encode,
}


@lru_cache(maxsize=256)
def _layout(keys: tuple[str, ...], kinds: tuple[type, ...]) -> tuple[str, list[_Encoder]] | None:
    """The JSON line of an entry with these keys, with `%s` in place of each value, and the values' encoders.

    None if a key is the name of a secret, or a type has no encoder in `_ENCODERS`. Most entries have one of a
    few layouts. JSONEncoder would take twice as long.
    """
    if any(map(_is_secret, keys)):
        return None
    try:
        encoders = [_encode_text if issubclass(kind, str) else _ENCODERS[kind] for kind in kinds]
    except KeyError:
        return None
    fields = ",".join(_encode_text(key).replace("%", "%%") + ":%s" for key in keys)
    return f"{{{fields}}}", encoders


def _json(logger: WrappedLogger, method: str, entry: EventDict) -> str:  # noqa: ARG001 - structlog's signature
    """The entry as one line of JSON, without secrets.

    Usually one search through the whole line finds no secret, so its parts need not be searched.
    """
    if layout := _layout(tuple(entry), tuple(map(type, entry.values()))):
        template, encoders = layout
        line = template % tuple(map(call, encoders, entry.values()))
        if not _may_have_secrets(line):
            return line
    return _encode(_clean(entry))


def _may_have_secrets(text: str) -> bool:
    return any(map(text.lower().__contains__, _SUSPECT))


def _printable(logger: WrappedLogger, method: str, entry: EventDict) -> EventDict:  # noqa: ARG001 - structlog's signature
    """Escape all texts. A text from a server must not move the terminal's cursor or look like a line of ours.

    A traceback keeps its lines.
    """
    for key, value in entry.items():
        if isinstance(value, str):
            entry[key] = for_terminal(value) if key == "exception" else escaped(value)
    return entry
