"""Plain values of a file become typed, frozen ones, or a list of everything wrong with them.

Types are annotations: dataclasses, `Annotated`, `X | None`, `Literal`, enums, `tuple[X, ...]`, `dict[Name,
X]`. What those cannot say is a rule behind them: `Annotated[float, Parsed(parse_duration)]`, `Annotated[int,
Within(1, 16)]`.

Ours, and not a library's, because of memory: pydantic was 9.5 MB of a daemon that reads one file at its
start.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from enum import Enum
from functools import cache
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    Self,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
)
from typing import get_type_hints as _type_hints

Loc = tuple[str | int, ...]
"""The way to a value: mapping keys and list indices from the root."""

T = TypeVar("T")

KEY: Final = "[key]"
"""The end of a place that is the key of an entry, not its value."""


class Mistake(NamedTuple):
    """Something wrong at `loc`: what it is, the value there, and what the kind of
    mistake needs to be said.
    """

    loc: Loc
    kind: Literal[
        "missing",
        "unknown",
        "value",
        "variable",
        "choice",
        "text",
        "switch",
        "whole",
        "number",
        "list",
        "empty",
        "small",
        "large",
        "mapping",
    ]
    got: object
    detail: str = ""

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.loc))}: {self.detail or self.kind}"


class Mistakes(ValueError):
    """Values that do not fit their types."""

    def __init__(self, found: list[Mistake]) -> None:
        super().__init__("; ".join(map(str, found)))
        self.found = found


class UnsetVariable(ValueError):
    """A value names an environment variable that is not set."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What `parse` makes of the value is the value. It raises ValueError."""

    parse: Callable[[object], object]


@dataclass(frozen=True, slots=True)
class Checked:
    """Text that `check` takes. It raises ValueError."""

    check: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Within:
    """A number from `least` to `most`."""

    least: int
    most: int | None = None


@dataclass(frozen=True, slots=True)
class NotEmpty:
    """A list with something in it."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
class Section:
    """One mapping of the file: a frozen dataclass, in which an unknown key is a mistake."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    @classmethod
    def model_validate(cls, raw: object) -> Self:
        """Make one from plain values. Raises Mistakes."""
        return read(cls, raw)

    def model_copy(self, *, update: Mapping[str, object]) -> Self:
        """The same with other values, which are not checked."""
        return replace(cast("Any", self), **update)  # type: ignore[no-any-return]  # it is what it was given


def read(kind: type[T], raw: object) -> T:
    """`raw` as a `kind`. Raises Mistakes, which has all of them."""
    reader = _Reader()
    value = reader.read(kind, raw, ())
    if reader.found:
        raise Mistakes(reader.found)
    return cast("T", value)


def hints(kind: type) -> dict[str, object]:
    """The annotations of a dataclass's fields, in their order."""
    return _hints(kind)


@cache
def _hints(kind: Any) -> dict[str, object]:
    resolved = _type_hints(kind, include_extras=True)
    return {one.name: resolved[one.name] for one in fields(kind)}


class _Reader:
    """Reads everything it can, so that every mistake is found; what is returned beside one means nothing."""

    def __init__(self) -> None:
        self.found: list[Mistake] = []

    def _wrong(self, loc: Loc, kind: Any, got: object, detail: str = "") -> None:
        self.found.append(Mistake(loc, kind, got, detail))

    def read(self, kind: Any, value: object, loc: Loc) -> object:
        origin, args = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return self._ruled(args[0], args[1:], value, loc)
        if origin in (Union, types.UnionType):
            (inner,) = (arg for arg in args if arg is not types.NoneType)
            return None if value is None else self.read(inner, value, loc)
        if origin is Literal:
            if not any(type(value) is type(arg) and value == arg for arg in args):
                self._wrong(loc, "choice", value, _one_of(args))
            return value
        if origin is tuple:
            return self._tuple(args[0], value, loc)
        if origin is dict:
            return self._dict(args[0], args[1], value, loc)
        if is_dataclass(kind):
            return (
                value
                if isinstance(value, cast("type", kind))
                else self._section(cast("type", kind), value, loc)
            )
        return self._scalar(kind, value, loc)

    def _ruled(self, base: Any, rules: tuple[object, ...], value: object, loc: Loc) -> object:
        before = len(self.found)
        for rule in rules:
            if isinstance(rule, Parsed):
                return self._tried(rule.parse, value, loc)
        value = self.read(base, value, loc)
        if len(self.found) > before:
            return value
        for rule in rules:
            match rule:
                case Checked(check):
                    value = self._tried(cast("Callable[[object], object]", check), value, loc)
                case Within(least, _) if cast("int", value) < least:
                    self._wrong(loc, "small", value, str(least))
                case Within(_, int() as most) if cast("int", value) > most:
                    self._wrong(loc, "large", value, str(most))
                case NotEmpty() if not value:
                    self._wrong(loc, "empty", value)
        return value

    def _tried(self, function: Callable[[object], object], value: object, loc: Loc) -> object:
        try:
            return function(value)
        except ValueError as exc:
            self._wrong(loc, "variable" if isinstance(exc, UnsetVariable) else "value", value, str(exc))
            return value

    def _scalar(self, kind: Any, value: object, loc: Loc) -> object:
        if issubclass(kind, Enum):
            if value in list(kind) or value in [one.value for one in kind]:
                return kind(value)
            self._wrong(loc, "choice", value, _one_of([one.value for one in kind]))
        elif kind is bool:
            if not isinstance(value, bool):
                self._wrong(loc, "switch", value)
        elif kind is int:
            if isinstance(value, int) and not isinstance(value, bool):
                return int(value)  # a parser's subclasses remember how it was written
            self._wrong(loc, "whole", value)
        elif kind is float:
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
            self._wrong(loc, "number", value)
        elif not isinstance(value, kind):
            self._wrong(loc, "text", value)
        return value

    def _tuple(self, item: Any, value: object, loc: Loc) -> object:
        if not isinstance(value, list | tuple):
            self._wrong(loc, "list", value)
            return value
        return tuple(self.read(item, one, (*loc, number)) for number, one in enumerate(value))

    def _dict(self, key: Any, item: Any, value: object, loc: Loc) -> object:
        if not isinstance(value, Mapping):
            self._wrong(loc, "mapping", value)
            return value
        return {
            cast("str", self.read(key, name, (*loc, cast("str", name), KEY))): self.read(
                item, one, (*loc, cast("str", name))
            )
            for name, one in value.items()
        }

    def _section(self, kind: type, value: object, loc: Loc) -> object:
        if not isinstance(value, Mapping):
            self._wrong(loc, "mapping", value)
            return value
        known, before = hints(kind), len(self.found)
        for name in _required(kind):
            if name not in value:
                self._wrong((*loc, name), "missing", value)
        given = {name: self.read(known[name], value[name], (*loc, name)) for name in known if name in value}
        if issubclass(kind, Section):
            for name in value:
                if name not in known:
                    self._wrong((*loc, cast("str", name)), "unknown", value[name])
        return value if len(self.found) > before else kind(**given)


def _required(kind: type) -> Iterator[str]:
    declared: tuple[Field[Any], ...] = fields(cast("Any", kind))
    return (one.name for one in declared if one.default is MISSING and one.default_factory is MISSING)


def _one_of(values: Any) -> str:
    *rest, last = map(repr, values)
    return f"{', '.join(rest)} or {last}" if rest else last


def dotted(loc: Loc) -> str:
    """`clusters.prod.api_servers[0]`."""
    text = ""
    for key in loc:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += ("." if text else "") + (key if key and key.isprintable() else repr(key))
    return text
