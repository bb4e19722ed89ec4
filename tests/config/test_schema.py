"""The JSON Schema is made from the model. It accepts every good file, and finds many mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from proxy.config import yaml
from proxy.config.schema import json_schema
from proxy.errors import ConfigError

CONFIG = Path(__file__).parents[2] / "config"
DATA = Path(__file__).parent / "released"
GOOD = [CONFIG / "example.yaml", CONFIG / "minimal.yaml", *sorted(DATA.glob("*.yaml"))]
BAD = sorted((CONFIG / "bad").glob("*.yaml"))

FILES = {
    "bad_ca",
    "bad_entry_files",
    "missing_key_file",
    "open_key_file",
    "unparsable_known_hosts",
    "undefined_variable",
}
PLACES = {
    "dangling_gateway",
    "duplicate_port",
    "duplicate_socket",
    "jump_cycle",
    "bad_pattern",
    "own_api_server",
    "own_target",
    "bad_entry",
    "open_entry",
    "open_listener",
    "reserved_name",
    "shadowed_match",
    "unknown_entry",
}
FILES |= {"bad_entry_files", "bad_ssh_server"}
PLACES |= {"missing_known_hosts", "learned_without_known_hosts", "learned_is_known_hosts", "no_identity"}
PLACES |= {"bad_sites", "no_ssh_server"}
MEANINGS = {"too_little_memory", "mistyped_address", "mistyped_gateway"}
UNKNOWABLE = FILES | PLACES | MEANINGS
"""Bad files whose mistake a schema cannot find: it depends on a file, on another place, or on a
text's value.
"""


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def in_json(path: Path) -> object:
    return json.loads(json.dumps(yaml.read(path).root))


def within(node: object, key: str) -> list[object]:
    """All values of `key`, anywhere below `node`."""
    if isinstance(node, list):
        return [one for item in node for one in within(item, key)]
    if not isinstance(node, dict):
        return []
    below = [one for value in node.values() for one in within(value, key)]
    return [node[key], *below] if key in node else below


def test_the_file_is_generated_from_the_model() -> None:
    """If it fails, run `kubemux schema > config/schema.json`."""
    assert json.loads((CONFIG / "schema.json").read_text()) == json.loads(json.dumps(json_schema()))


def test_the_example_names_the_schema() -> None:
    first = (CONFIG / "example.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=schema.json"


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_valid_configurations_are_valid_by_the_schema(
    path: Path, validator: jsonschema.Draft202012Validator
) -> None:
    assert [error.message for error in validator.iter_errors(in_json(path))] == []


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_invalid_configurations_are_invalid_by_the_schema(
    path: Path, validator: jsonschema.Draft202012Validator
) -> None:
    try:
        document = in_json(path)
    except ConfigError:
        return  # not YAML, so an editor shows the mistake itself
    assert validator.is_valid(document) is (path.stem in UNKNOWABLE)


def test_every_property_is_explained() -> None:
    schema = json_schema()
    needed = {name for names in within(schema, "required") if isinstance(names, list) for name in names}
    sections = [schema, *(one for one in schema["$defs"].values())]  # type: ignore[attr-defined]  # a mapping
    found = [(name, one) for section in sections for name, one in section["properties"].items()]
    assert {"listen", "interval", "defaults", "gateways"} <= {name for name, _ in found}
    for name, one in found:
        assert one["description"], name
        assert one["examples"], name
        assert "default" in one or "Left out: " in one["description"] or name in needed, name


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("version: 1\ngateways:\nclusters:\n", True),
        ("version: 1\nclusters: {a: {gateway: direct, listen: 'a:1', api_servers: ['b:1']}}\n", True),
        ("version: 1\nclusters: {a: {gateway: direct, listen: 'a:1'}}\n", False),
        (
            "version: 1\ndefaults: {cluster: {gateway: direct, api_servers: ['b:1']}}\n"
            "clusters: {a: {listen: 'a:1'}}\n",
            True,
        ),
        ("version: 1\ndefaults: {gateway: {host: x}}\ngateways: {a: {}, b: {user: x}}\n", True),
        ("version: 1\ndefaults: {gateway: {user: x}}\ngateways: {a: {}}\n", False),
        ("version: 1\ndefaults: {gateway: {connections: 17}}\n", False),
        ("version: 1\nlimits: {hold_timeout: 5}\n", False),
        ("version: 1\nlimits: {hold_timeout: 1h30m, memory: 1Gi}\n", True),
    ],
)
def test_the_schema_knows_defaults_and_units(
    text: str, good: bool, validator: jsonschema.Draft202012Validator
) -> None:
    assert validator.is_valid(json.loads(json.dumps(yaml.parse(text.encode(), "f").root))) is good
