"""A file that the last release accepted is still accepted, and means the same.

`released/` has the examples of that release's `config` folder and README, and the configurations that it read
from them, as JSON.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from proxy.config import loader
from proxy.config.scrutiny import Scrutiny
from proxy.runtime.endpoint import Endpoint

FILES = sorted((Path(__file__).parent / "released").glob("*.yaml"))


def in_json(value: object) -> object:
    match value:
        case Path() | Endpoint():
            return str(value)
        case tuple():
            return [in_json(item) for item in value]
        case dict():
            return {key: in_json(item) for key, item in value.items()}
        case _ if is_dataclass(value):
            return {item.name: in_json(getattr(value, item.name)) for item in fields(value)}
    return value


def has(value: object, expected: object) -> bool:
    """Whether `value` has everything that is `expected`; it may have newer keys."""
    if isinstance(expected, dict):
        return isinstance(value, dict) and all(
            key in value and has(value[key], item) for key, item in expected.items()
        )
    return type(value) is type(expected) and value == expected


def test_the_examples_of_the_last_release_are_there() -> None:
    assert {path.stem for path in FILES} == {"example", "minimal", "readme_five_minutes", "readme_service"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_of_the_last_release_mean_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    expected = json.loads(path.with_suffix(".json").read_text())
    value = in_json(loader.load(path, Scrutiny.NONE))
    assert has(value, expected), value
