"""Turns plain values into typed ones by pydantic, and pydantic's errors into messages with a remedy.

The daemon itself never imports this module, because pydantic takes 9 MB. The commands do, and so does the
child process that reads a file for the daemon.
"""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final, TypeVar, cast, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from proxy.config.allow import ANY, Rule
from proxy.config.file_paths import UnsetVariable
from proxy.config.findings import Finding, Loc, dotted
from proxy.config.hints import NAME, example
from proxy.config.keys import Key, Kind, Section, find, keys, plain_type, section_at
from proxy.config.matches import Match
from proxy.config.model import VERSION, Config
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.text import shown, suggest

T = TypeVar("T")

KEY: Final = "[key]"
"""The last step of pydantic's `loc` for a mistake in the key of a mapping, and not in the value."""

UNKNOWN: Final = "unexpected_keyword_argument"
_RANGE: Final = frozenset({"greater_than_equal", "less_than_equal"})

_WORDS: Final = {
    "string_type": ("expected text", "put it in quotes"),
    "bool_type": ("expected true or false", "write true or false, without quotes"),
    "int_type": ("expected a whole number", "write digits, without quotes"),
    "dataclass_type": ("expected a mapping", "indent its keys below it, one per line"),
    "dict_type": ("expected a mapping", "indent its keys below it, one per line"),
    "tuple_type": ("expected a list", "put it in brackets: {name}: [...]"),
}
"""Message and remedy for pydantic's error types that need no facts of the key. The message gets the value."""

_STAND_INS: Final[dict[object, object]] = {
    Endpoint: Endpoint("127.0.0.1", 0),
    # It has a star for each {1} of a `target`: what the user meant may have had as many.
    Match: Match.parse("*.*.*.*.*.*.*.*.*:1"),
    Rule: Rule(ANY),
    IPv4Network: IPv4Network("127.0.0.0/8"),
    Path: Path("/"),
    bool: True,
    str: "HOST",  # it may appear in a remedy: ssh-keyscan HOST
}


class Mistakes(ValueError):
    """Some values are not accepted. `str()` shows none of them: one may be a secret at the wrong key."""

    def __init__(self, found: list[ErrorDetails]) -> None:
        more = f" (and {len(found) - 1} more)" if found[1:] else ""
        super().__init__(f"{dotted(found[0]['loc'])}: {found[0]['msg']}{more}")
        self.found = found


def read(kind: type[T], raw: object) -> T:
    """`raw` as a `kind`. Raises Mistakes, which holds all mistakes at once."""
    adapter: TypeAdapter[T] = _adapter(cast("Any", kind))
    try:
        return adapter.validate_python(raw)
    except ValidationError as error:
        found = error.errors(include_url=False)
    # pydantic also calls a list too short if it has items, but all of them are wrong.
    raise Mistakes([one for one in found if one["type"] != "too_short" or not one["input"]])


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def mistakes(section: type[Section], raw: object) -> list[ErrorDetails]:
    """All mistakes in `raw`, read as a `section`."""
    try:
        read(section, raw)
    except Mistakes as error:
        return error.found
    return []


def place(error: ErrorDetails) -> Loc:
    """Where the mistake is. A mistake in the name of an entry is at that entry."""
    return tuple(step for step in error["loc"] if step != KEY)


def is_time_out_of_range(error: ErrorDetails, section: type[Section]) -> bool:
    """Whether the value is a duration that is well written, but too short or too long for its key."""
    key = find(section, error["loc"])
    return error["type"] in _RANGE and key is not None and key.is_duration


def explain(error: ErrorDetails, loc: Loc, section: type[Section]) -> Finding:
    """The message and the remedy for a mistake, as a finding at `loc`."""
    kind, got, context = error["type"], shown(error["input"]), error.get("ctx", {})
    name = next((step for step in reversed(error["loc"]) if isinstance(step, str)), "")
    if name == KEY:
        return Finding(loc, str(context.get("error", "expected text")), f"for example {NAME}")
    if kind == UNKNOWN:
        parent = section_at(section, error["loc"][:-1])
        known = [*(keys(parent) if parent else ()), *(["defaults"] if parent is Config else [])]
        return Finding(loc, "unknown key", suggest(name, known))
    key = find(section, error["loc"])
    if key and key.least == key.most is not None and kind != "missing":
        return Finding(loc, f"expected {VERSION}, got {got}", f"this kubemux reads version {VERSION}")
    if kind in _WORDS:
        message, hint = _WORDS[kind]
        if not (key and key.file):  # a user may have put the secret itself where its file is expected
            message += f", got {got}"
        return Finding(loc, message, hint.format(name=name))
    if key is None:
        raise LookupError(f"no key at {error['loc']}")
    instance = example(name, key)
    if key.file is Kind.HOST_KEY:
        instance += ", and run kubemux ssh-server keygen"
    if kind == "missing":
        return Finding(loc, "is missing", f"add {instance}")
    if kind == "too_short":
        return Finding(loc, "the list is empty", f"for example {instance}")
    if kind == "literal_error":
        return Finding(loc, f"expected {context['expected']}, got {got}", "choose one of these")
    if kind in _RANGE:
        return _out_of_range(error, loc, key)
    hint = f"for example {instance}"
    if isinstance(context["error"], UnsetVariable):
        hint = f"set it where kubemux is started, or write the path itself: {hint}"
    return Finding(loc, str(context["error"]), hint)


def _out_of_range(error: ErrorDetails, loc: Loc, key: Key) -> Finding:
    got = error["input"] if isinstance(error["input"], str) else key.written(error["input"])
    short, long = ("short", "long") if key.is_duration else ("small", "large")
    message = f"{got} is too {short if error['type'] == 'greater_than_equal' else long}"
    usual = key.written(key.default) if not key.is_required else None
    return Finding(
        loc,
        message + (f" for {key.purpose}" if key.purpose else ""),
        key.range + (f"; the default is {usual}" if usual is not None else ""),
    )


def stand_in(error: ErrorDetails, section: type[Section]) -> object:
    """A harmless value to replace a wrong one; None if there is none.

    There is none for a key that may be left out, if no rule complains when it is.
    """
    last = error["loc"][-1]
    if error["type"] == UNKNOWN or last == KEY:
        return None
    key = find(section, error["loc"])
    if key is None:
        return {}  # a whole gateway or cluster
    if key.is_list_of_sections:
        return {} if isinstance(last, int) else []
    kind = plain_type(key.kind)
    if get_origin(kind) is tuple:
        item = _STAND_INS[plain_type(get_args(kind)[0])]
        return item if isinstance(last, int) else [item]
    if key.least is not None:
        return key.written(key.least)
    return _STAND_INS.get(kind) if key.is_required or kind is not str else None
