"""All facts about a key of the configuration are declared once: on its field in `proxy/config/model.py`.

    connections: int = key("SSH connections to this gateway.", default=2, least=1, most=16)

Error messages, the comparison at a reload, the check of files, the JSON Schema and the documentation all use
these facts. The daemon imports the model without pydantic. Bounds are stored as metadata of the field, under
the names that pydantic reads from a standard-library dataclass, in the process that reads a file.
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
from proxy.config.written import Written


class Kind(Enum):
    """What kind of file a key names."""

    PRIVATE_KEY = auto()
    SECRET = auto()
    CERTIFICATES = auto()
    KNOWN_HOSTS = auto()
    USERS = auto()
    """A file of htpasswd(1), also a secret."""
    HOST_KEY = auto()
    """A private key of our own SSH server."""
    AUTHORIZED_KEYS = auto()
    """Public keys with options (sshd(8))."""
    AUTHORITIES = auto()
    """Public keys of CAs."""
    REVOKED = auto()
    """Public keys that are never accepted."""
    TEXT = auto()

    @property
    def is_secret(self) -> bool:
        """Whether other users must not be able to read it."""
        return self in {Kind.PRIVATE_KEY, Kind.SECRET, Kind.USERS, Kind.HOST_KEY}


@dataclass(frozen=True, slots=True)
class Key:
    """All facts about one key."""

    meaning: str
    examples: tuple[object, ...]
    """Values as a user writes them in the file: `"10s"`, not `10.0`."""
    least: float | None
    most: float | None
    """Seconds for a duration, bytes for a size."""
    purpose: str
    """What the value is for. A message about a value out of range says it, if the key's name does not."""
    unset: str
    """What applies if the file does not have the key, for a key whose default does not show that."""
    at_home: object
    """The example for a person who runs kubemux under their own account."""
    elsewhere: bool
    """Whether another value means another server, so that a reload must end the connections."""
    in_place: bool
    """For a key of a gateway: whether links that are up can use another value, so that a reload keeps them.
    """
    file: Kind | None
    """The kind of file that the key names; None if its value is not a file."""
    kind: object
    """The annotation of the field."""
    default: object

    @property
    def is_required(self) -> bool:
        """Whether the file must have this key."""
        return self.default is MISSING

    def written(self, value: object) -> object:
        """`value` as a user writes it in the file: `"10s"` for 10.0."""
        if isinstance(value, tuple) and get_origin(plain_type(self.kind)) is tuple:
            return [self.written(item) for item in value]
        form = next((fact for fact in _metadata(self.kind) if isinstance(fact, Written)), None)
        return form.format(value) if form and value is not None else value

    @property
    def is_duration(self) -> bool:
        """Whether its value is a duration."""
        return plain_type(self.kind) is float

    @property
    def is_list_of_sections(self) -> bool:
        """Whether it is a list of mappings, such as `routes`."""
        kind = plain_type(self.kind)
        item = get_args(kind)[0] if get_origin(kind) is tuple else None
        return isinstance(item, type) and issubclass(item, Section)

    @property
    def range(self) -> str:
        """The accepted values: `from 1 to 16`, `at least 16MiB`; empty if there are no bounds."""
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
    in_place: bool = False,
    file: Kind | None = None,
) -> Any:
    """Declare a field of a section. A key without a default is required.

    If there are no `examples`, the default is the example.
    """
    facts = Key(
        meaning, examples, least, most, purpose, unset, at_home, elsewhere, in_place, file, None, default
    )
    bounds = {"ge": least, "le": most, "min_length": min_length}  # as pydantic calls them
    metadata = {_KEY: facts, **{name: value for name, value in bounds.items() if value is not None}}
    if default_factory is not None:
        return field(default_factory=default_factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(key,))
class Section:
    """One mapping of the file, as a frozen dataclass. A key that it does not declare is a mistake."""

    __pydantic_config__: ClassVar[Mapping[str, object]] = {"extra": "forbid"}

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    def model_copy(self, *, update: Mapping[str, object]) -> Self:
        """A copy with the values of `update`, which are not checked."""
        return replace(cast("Any", self), **update)  # type: ignore[no-any-return]  # `replace` returns a Self


def keys(section: type[Section]) -> dict[str, Key]:
    """The keys of a section, in the order of the model."""
    return _keys(cast("Any", section))  # mypy takes a dataclass type for unhashable; it is hashable


@cache
def _keys(section: Any) -> dict[str, Key]:
    hints = get_type_hints(section, include_extras=True)
    return {one.name: _complete(one, hints[one.name]) for one in fields(section)}


def _complete(one: Any, kind: object) -> Key:
    default = one.default if one.default_factory is MISSING else one.default_factory()
    facts: Key = replace(one.metadata[_KEY], kind=kind, default=default)
    if facts.examples or isinstance(default, Section | dict) or facts.is_list_of_sections:
        return facts
    return replace(facts, examples=(facts.written(default),))


def find(section: type[Section], loc: Loc) -> Key | None:
    """The facts about the key at `loc` below `section`; for an item of a list, those of the list's key."""
    while loc and isinstance(loc[-1], int):
        loc = loc[:-1]
    parent = section_at(section, loc[:-1])
    return keys(parent).get(str(loc[-1])) if parent and loc else None


def section_at(section: type[Section], loc: Loc) -> type[Section] | None:
    """The section at `loc` below `section`; None if something else is there.

    In `loc`, the name of a gateway or cluster is a separate step, and so is the number of a route.
    """
    kind: object = section
    for step in loc:
        if get_origin(kind) is dict and isinstance(step, str):
            kind = get_args(kind)[1]
        elif get_origin(kind) is tuple and isinstance(step, int):
            kind = get_args(kind)[0]
        elif isinstance(kind, type) and issubclass(kind, Section) and step in keys(kind):
            kind = _bare(keys(kind)[str(step)].kind)
        else:
            return None
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def plain_type(kind: object) -> object:
    """The type inside an annotation: X for `Annotated[X, ...] | None`."""
    return plain_type(get_args(_bare(kind))[0]) if get_origin(_bare(kind)) is Annotated else _bare(kind)


def _bare(kind: object) -> object:
    """The annotation without `| None`."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(arg for arg in get_args(kind) if arg is not types.NoneType)
    return kind


def _metadata(kind: object) -> tuple[object, ...]:
    """The metadata of an `Annotated` type; for a tuple, the metadata of its items."""
    kind = _bare(kind)
    if get_origin(kind) is tuple:
        return _metadata(get_args(kind)[0])
    return get_args(kind)[1:] if get_origin(kind) is Annotated else ()
