"""How a value is written in the file: turns the text into the value, for pydantic and for the JSON Schema."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast

from proxy.runtime.text import shown

if TYPE_CHECKING:
    from pydantic_core import CoreSchema


class Parsed(Protocol):
    """A value that is written as text."""

    @classmethod
    def parse(cls, text: str) -> Self: ...


P = TypeVar("P", bound=Parsed)


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
    """The parser of a value that is written as text of this `form`. A value of `kind` stays as it is."""

    def parse(value: object) -> P:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str):
            raise ValueError(f"expected {form} in quotes, got {shown(value)}")  # noqa: TRY004 - a mistake in a file is a ValueError
        return kind.parse(value)

    return parse
