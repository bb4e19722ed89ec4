"""The facts about a key of the configuration. They stand on its field of the model, and nowhere else.

    connections: int = key("SSH connections to this gateway.", default=2, least=1, most=16)

The reader's messages, the comparison at a reload, the check of files, the JSON Schema and the documentation
take them from there. The daemon imports the model without pydantic: bounds are metadata with the names that
pydantic looks for in the fields of a standard-library dataclass, in the process that reads a file.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import Enum, auto
from functools import cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Self,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from proxy.config.findings import Loc
from proxy.config.values import Written


class Kind(Enum):
    """What a file must be."""

    PRIVATE_KEY = auto()
    SECRET = auto()
    CERTIFICATES = auto()
    KNOWN_HOSTS = auto()
    TEXT = auto()

    @property
    def is_secret(self) -> bool:
        """Whether nobody else may read it."""
        return self in {Kind.PRIVATE_KEY, Kind.SECRET}


@dataclass(frozen=True, slots=True)
class Key:
    """What there is to know about one key."""

    meaning: str
    examples: tuple[object, ...]
    """As a file has them."""
    least: float | None
    most: float | None
    """Seconds for a duration, bytes for a size."""
    purpose: str
    """What would not have enough, where that is not plain from the name."""
    unset: str
    """What holds where the key is left out, if its default does not say it."""
    at_home: object
    """The example for a person who runs kubemux as themselves."""
    elsewhere: bool
    """Whether another value leads to another server, so that connections cannot stay."""
    file: Kind | None
    """What the file must be that the key names."""
    kind: object
    """The annotation of the field."""
    default: object

    @property
    def is_required(self) -> bool:
        """Whether it must be in the file."""
        return self.default is MISSING

    def written(self, value: object) -> object:
        """`value` as a file has it."""
        if isinstance(value, tuple) and get_origin(plain_type(self.kind)) is tuple:
            return [self.written(item) for item in value]
        form = next((fact for fact in _metadata(self.kind) if isinstance(fact, Written)), None)
        return form.format(value) if form and value is not None else value

    @property
    def is_duration(self) -> bool:
        """Whether it is a time."""
        return plain_type(self.kind) is float

    @property
    def range(self) -> str:
        """What a value must be between: `from 1 to 16`, `at least 16MiB`; empty if there are no bounds."""
        if self.least is None:
            return ""
        least = self.written(self.least)
        return f"at least {least}" if self.most is None else f"from {least} to {self.written(self.most)}"


_KEY: Final = "kubemux"


def key(
    meaning: str,
    *examples: object,
    default: Any = MISSING,
    default_factory: Callable[[], Any] | None = None,
    least: float | None = None,
    most: float | None = None,
    purpose: str = "",
    min_length: int | None = None,
    unset: str = "",
    at_home: object = None,
    elsewhere: bool = False,
    file: Kind | None = None,
) -> Any:
    """Declare a field of a section. It must be in the file unless it has a default.

    The default is the example where no other is given.
    """
    facts = Key(meaning, examples, least, most, purpose, unset, at_home, elsewhere, file, None, default)
    bounds = {"ge": least, "le": most, "min_length": min_length}  # as pydantic calls them
    metadata = {_KEY: facts, **{name: value for name, value in bounds.items() if value is not None}}
    if default_factory is not None:
        return field(default_factory=default_factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(key,))
class Section:
    """One mapping of the file: a frozen dataclass, in which an unknown key is a mistake."""

    __pydantic_config__: ClassVar[Mapping[str, object]] = {"extra": "forbid"}

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    def model_copy(self, *, update: Mapping[str, object]) -> Self:
        """The same with other values, which are not checked."""
        return replace(cast("Any", self), **update)  # type: ignore[no-any-return]  # it is what it was given


def keys(section: type[Section]) -> dict[str, Key]:
    """The keys of a section, in their order."""
    return _keys(cast("Any", section))  # hashable, whatever mypy thinks of dataclasses


@cache
def _keys(section: Any) -> dict[str, Key]:
    hints = get_type_hints(section, include_extras=True)
    return {one.name: _complete(one, hints[one.name]) for one in fields(section)}


def _complete(one: Any, kind: object) -> Key:
    default = one.default if one.default_factory is MISSING else one.default_factory()
    facts: Key = replace(one.metadata[_KEY], kind=kind, default=default)
    if facts.examples or isinstance(default, Section | dict):
        return facts
    return replace(facts, examples=(facts.written(default),))


def find(section: type[Section], loc: Loc) -> Key | None:
    """The facts about the key at `loc` below `section`, which may be a place inside its list."""
    names = [step for step in loc if isinstance(step, str)]
    *above, name = names or [""]
    parent = section_at(section, tuple(above))
    return keys(parent).get(name) if parent else None


def section_at(section: type[Section], loc: Loc) -> type[Section] | None:
    """The section at `loc` below `section`, if that is one; the name of a gateway or cluster is a step."""
    kind: object = section
    for step in loc:
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif isinstance(kind, type) and issubclass(kind, Section) and step in keys(kind):
            kind = keys(kind)[str(step)].kind
        else:
            return None
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def plain_type(kind: object) -> object:
    """The type that an annotation is about: of `Annotated[X, ...] | None` it is X."""
    return plain_type(get_args(_bare(kind))[0]) if get_origin(_bare(kind)) is Annotated else _bare(kind)


def _bare(kind: object) -> object:
    """Without `| None`."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(arg for arg in get_args(kind) if arg is not types.NoneType)
    return kind


def _metadata(kind: object) -> tuple[object, ...]:
    """What an annotation says beside the type; of a list, what it says of its items."""
    kind = _bare(kind)
    if get_origin(kind) is tuple:
        return _metadata(get_args(kind)[0])
    return get_args(kind)[1:] if get_origin(kind) is Annotated else ()
