"""Values against annotations: what fits, and every mistake with its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal

import pytest

from proxy.config.typed import KEY, Checked, Loc, Mistakes, NotEmpty, Parsed, Section, Within, read


def _double(value: object) -> int:
    if isinstance(value, str):
        return int(value) * 2
    raise ValueError("not text")


def _short(text: str) -> str:
    if len(text) > 3:
        raise ValueError("too long")
    return text


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Inner(Section):
    number: Annotated[int, Within(1, 9)] = 5
    switch: bool = False


class Outer(Section):
    name: Annotated[str, Checked(_short)]
    doubled: Annotated[int, Parsed(_double)] = 0
    mode: Literal["a", "b"] = "a"
    version: Literal[1] = 1
    words: Annotated[tuple[str, ...], NotEmpty()] = ("x",)
    inner: Inner = Inner()
    perhaps: int | None = None
    table: dict[Annotated[str, Checked(_short)], Inner] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """Not a section: what it does not know may stand beside."""

    colour: Colour
    ratio: float
    seen: tuple[Inner, ...] = ()


def mistakes(raw: Mapping[str, object], kind: type[object] = Outer) -> dict[Loc, tuple[str, str]]:
    with pytest.raises(Mistakes) as caught:
        read(kind, raw)
    return {one.loc: (one.kind, one.detail) for one in caught.value.found}


def test_what_fits_becomes_a_frozen_value() -> None:
    raw = {
        "name": "abc",
        "doubled": "21",
        "mode": "b",
        "words": ["p", "q"],
        "inner": {"number": 9, "switch": True},
        "perhaps": None,
        "table": {"one": {}, "two": {"number": 1}},
    }
    value = Outer.model_validate(raw)
    assert value == Outer(
        name="abc",
        doubled=42,
        mode="b",
        words=("p", "q"),
        inner=Inner(number=9, switch=True),
        table={"one": Inner(), "two": Inner(number=1)},
    )
    assert value.model_copy(update={"doubled": 1}).doubled == 1
    with pytest.raises(AttributeError):
        value.name = "x"  # type: ignore[misc]  # the case


def test_what_is_a_value_already_is_taken() -> None:
    assert Outer.model_validate({"name": "a", "inner": Inner(number=7)}).inner.number == 7


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, {("name",): ("missing", "")}),
        ({"name": "a", "nam": 1}, {("nam",): ("unknown", "")}),
        ({"name": 7}, {("name",): ("text", "")}),
        ({"name": "long"}, {("name",): ("value", "too long")}),
        ({"name": "a", "doubled": 3}, {("doubled",): ("value", "not text")}),
        ({"name": "a", "mode": "c"}, {("mode",): ("choice", "'a' or 'b'")}),
        ({"name": "a", "version": True}, {("version",): ("choice", "1")}),
        ({"name": "a", "words": "ab"}, {("words",): ("list", "")}),
        ({"name": "a", "words": []}, {("words",): ("empty", "")}),
        ({"name": "a", "words": ["x", 1, None]}, {("words", 1): ("text", ""), ("words", 2): ("text", "")}),
        ({"name": "a", "inner": [1]}, {("inner",): ("mapping", "")}),
        ({"name": "a", "inner": {"number": 0}}, {("inner", "number"): ("small", "1")}),
        ({"name": "a", "inner": {"number": 10}}, {("inner", "number"): ("large", "9")}),
        ({"name": "a", "inner": {"number": True}}, {("inner", "number"): ("whole", "")}),
        ({"name": "a", "inner": {"number": 1.0}}, {("inner", "number"): ("whole", "")}),
        ({"name": "a", "inner": {"switch": 0}}, {("inner", "switch"): ("switch", "")}),
        ({"name": "a", "perhaps": "1"}, {("perhaps",): ("whole", "")}),
        ({"name": "a", "table": []}, {("table",): ("mapping", "")}),
        (
            {"name": "a", "table": {"much": {"number": 0}}},
            {("table", "much", KEY): ("value", "too long"), ("table", "much", "number"): ("small", "1")},
        ),
    ],
)
def test_a_mistake_has_its_place_and_kind(
    raw: Mapping[str, object], expected: dict[Loc, tuple[str, str]]
) -> None:
    assert mistakes(raw) == expected


def test_every_mistake_is_found_at_once() -> None:
    raw = {"doubled": 1, "mode": 0, "words": 1, "inner": {"number": 0, "x": 1}, "y": 1}
    assert list(mistakes(raw)) == [
        ("name",),
        ("doubled",),
        ("mode",),
        ("words",),
        ("inner", "number"),
        ("inner", "x"),
        ("y",),
    ]


def test_other_dataclasses_ignore_what_they_do_not_know() -> None:
    seen = read(Seen, {"colour": "red", "ratio": 1, "seen": [{"number": 2}], "new": 1})
    assert seen == Seen(Colour.RED, 1.0, (Inner(number=2),))
    assert mistakes({"colour": "green", "ratio": "1"}, Seen) == {
        ("colour",): ("choice", "'red' or 'blue'"),
        ("ratio",): ("number", ""),
    }
