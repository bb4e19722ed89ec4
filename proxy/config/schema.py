"""Makes the JSON Schema of a configuration file, for editors, from the model and the facts of its keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from proxy.config.findings import Loc
from proxy.config.keys import Key, Section, keys, plain_type, section_at
from proxy.config.model import DEFAULTS, Config

Schema = dict[str, object]


class _AsWritten(GenerateJsonSchema):
    """The schema of what a user writes in the file. An unset value is written by leaving its key out."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """The schema without null, because `key:` without a value is a mistake."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """The schema without the default. `_fill` adds the default in the form that a user writes."""
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 - pydantic's signature
        """No title: the name of the key is enough."""
        return False


def json_schema() -> Schema:
    """The JSON Schema (2020-12) of a configuration file."""
    schema: Schema = TypeAdapter(Config).json_schema(schema_generator=_AsWritten)
    definitions: dict[str, Schema] = schema["$defs"]  # type: ignore[assignment]  # pydantic's is a dict
    _fill(schema, Config)
    for section in _sections(Config):
        _fill(definitions[section.__name__], section)
    properties: dict[str, Schema] = schema["properties"]  # type: ignore[assignment]  # as above
    for plural, section in DEFAULTS.values():
        del definitions[section.__name__]["required"]  # `_needed` adds it: the key may be in `defaults:`
        properties[plural]["additionalProperties"] = False
    properties["defaults"] = {
        "type": "object",
        "description": _SHARED,
        "default": {},
        "examples": [{"gateway": {"user": "tunnel"}, "cluster": {"probe": {"interval": "10s"}}}],
        "properties": {
            name: {
                "$ref": f"#/$defs/{section.__name__}",
                "description": f"What all {plural} have in common.",
                "default": {},
                "examples": [_example(section)],
            }
            for name, (plural, section) in DEFAULTS.items()
        },
        "additionalProperties": False,
    }
    for name, one in properties.items():
        if name != "version":  # `clusters:` without a value is accepted: it means the same as no section
            inner = {key: one.pop(key) for key in list(one) if key not in _ANNOTATIONS}
            one["anyOf"] = [inner, {"type": "null"}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "kubemux configuration",
        "description": "The configuration of kubemux, version 1.",
        "allOf": [rule for name in DEFAULTS for rule in _needed(name)],
    }


_SHARED: Final = (
    "What entries share. An entry's own keys win; keepalive, tls and probe are merged key by key."
)
_ANNOTATIONS: Final = frozenset({"description", "default", "examples"})


def _sections(section: type[Section]) -> Iterator[type[Section]]:
    """All sections below `section`, at any depth."""
    for name in keys(section):
        below: tuple[Loc, ...] = ((name,), (name, "NAME"), (name, 0))
        inner = next(filter(None, (section_at(section, loc) for loc in below)), None)
        if inner:
            yield inner
            yield from _sections(inner)


def _fill(schema: Schema, section: type[Section]) -> None:
    """Add the description, default and examples of each key."""
    properties: dict[str, Schema] = schema["properties"]  # type: ignore[assignment]  # pydantic's is a dict
    for name, key in keys(section).items():
        one = properties[name]
        for bound in ("ge", "le"):  # pydantic leaves these at a duration or size, which is text in the file
            one.pop(bound, None)
        one["description"] = described(key)
        if (default := default_of(key)) is not None:
            one["default"] = default
        inner = section_at(section, (name,))
        entry, item = section_at(section, (name, "NAME")), section_at(section, (name, 0))
        one["examples"] = (
            list(key.examples)
            or ([_example(inner)] if inner else [])
            or ([{"eu-edge" if name == "gateways" else "prod-eu": _example(entry)}] if entry else [])
            or ([[_example(item)]] if item else [])
        )


def _example(section: type[Section]) -> Schema:
    """An example of the section: its required keys, or its first key if none is required."""
    known = {name: key for name, key in keys(section).items() if key.examples}
    needed = [name for name, key in known.items() if key.is_required]
    return {name: known[name].examples[0] for name in needed or list(known)[:1]}


def default_of(key: Key) -> object:
    """The default as a user would write it in the file; None if there is none."""
    if key.is_required or key.default in (None, ()):
        return None
    return {} if isinstance(key.default, Section | dict) else key.written(key.default)


def described(key: Key, *, unset: bool = True) -> str:
    """The meaning and the range of values. With `unset`, also what applies if the key is left out."""
    text = key.meaning
    if get_origin(plain_type(key.kind)) is Literal:
        *others, last = map(str, get_args(plain_type(key.kind)))
        text += f" One of {', '.join(others)} and {last}." if others else f" Only {last}, today."
    if key.range and key.least != key.most:
        text += f" {key.range[0].upper()}{key.range[1:]}."
    return f"{text} Left out: {key.unset}." if unset and key.unset else text


def _needed(name: str) -> Iterator[Schema]:
    """The rules that each entry has its required keys, unless `defaults:` has them."""
    plural, section = DEFAULTS[name]
    for key, fact in keys(section).items():
        if fact.is_required:
            shared = {"properties": {name: {"type": "object", "required": [key]}}, "required": [name]}
            entry = {"additionalProperties": {"required": [key]}}
            yield {
                "if": {"properties": {"defaults": {"type": "object", **shared}}, "required": ["defaults"]},
                "else": {"properties": {plural: entry}},
            }
