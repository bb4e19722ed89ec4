"""Turns configuration objects into the plain values of a YAML file."""

from __future__ import annotations

from dataclasses import fields
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import cast

from proxy.config.allow import Rule
from proxy.config.keys import Section
from proxy.config.listen import format_mode
from proxy.config.matches import Match, Target
from proxy.config.quantities import format_duration
from proxy.runtime.endpoint import Endpoint, UnixPath


def plain(section: Section) -> dict[str, object]:
    """The section's values as YAML types, without those that are unset."""
    values = {item.name: getattr(section, item.name) for item in fields(cast("type", section))}
    return {name: _value(name, value) for name, value in values.items() if value is not None}


def _value(name: str, value: object) -> object:
    match value:
        case Section():
            return plain(value)
        case dict():
            return {key: _value("", item) for key, item in value.items()}
        case Endpoint() | UnixPath() | Path() | Match() | Target() | Rule() | IPv4Network() | IPv6Network():
            return str(value)
        case tuple():
            return [_value("", item) for item in value]
        case float():
            return format_duration(value)
        case int() if name == "memory":
            return f"{value}B"
        case int() if name == "mode":
            return format_mode(value)
    return value
