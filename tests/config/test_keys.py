"""The facts about keys, which the model holds in one place."""

from __future__ import annotations

import pytest

from proxy.config.findings import Loc
from proxy.config.keys import Kind, Section, find, keys, section_at
from proxy.config.model import ClusterConfig, Config, GatewayConfig, KeepaliveConfig, ProbeConfig, RouteConfig
from proxy.config.reading import read


def sections(section: type[Section] = Config) -> set[type[Section]]:
    """All sections of the model, each with its place."""
    found = {section}
    for name in keys(section):
        for loc in ((name,), (name, "any"), (name, 0)):
            if inner := section_at(section, loc):
                found |= sections(inner)
    return found


EVERY = [
    (section, name) for section in sorted(sections(), key=lambda s: s.__name__) for name in keys(section)
]


@pytest.mark.parametrize(("section", "name"), EVERY, ids=lambda value: getattr(value, "__name__", value))
def test_every_key_has_a_meaning_and_an_example_that_is_good(section: type[Section], name: str) -> None:
    key = keys(section)[name]
    assert key.meaning.endswith(".")
    assert (
        key.examples
        or section_at(section, (name,))
        or section_at(section, (name, "any"))
        or section_at(section, (name, 0))
    )
    assert key.unset or key.is_required or key.default not in (None, ()), (
        "the value that is used if the key is left out"
    )
    needed = {other: one.examples[0] for other, one in keys(section).items() if one.is_required}
    for example in (*key.examples, *([key.at_home] if key.at_home is not None else [])):
        assert getattr(read(section, {**needed, name: example}), name) is not None


@pytest.mark.parametrize(("section", "name"), EVERY, ids=lambda value: getattr(value, "__name__", value))
def test_a_default_can_be_written_and_read(section: type[Section], name: str) -> None:
    key = keys(section)[name]
    if not key.is_required and key.default is not None and not isinstance(key.default, Section | dict):
        needed = {other: one.examples[0] for other, one in keys(section).items() if one.is_required}
        assert getattr(read(section, {**needed, name: key.written(key.default)}), name) == key.default


@pytest.mark.parametrize(
    ("loc", "meaning"),
    [
        (("gateways", "port", "host"), keys(GatewayConfig)["host"].meaning),
        (("gateways", "a", "identity_files", 1), keys(GatewayConfig)["identity_files"].meaning),
        (("clusters", "c", "probe", "interval"), keys(ProbeConfig)["interval"].meaning),
        (("limits",), keys(Config)["limits"].meaning),
        (("routes", 0), keys(Config)["routes"].meaning),
        (("routes", 0, "match", 1), keys(RouteConfig)["match"].meaning),
        ((), None),
        ((0,), None),
        (("gateways", "a"), None),
        (("gateways", "a", "nothing"), None),
        (("log", "level", "deeper"), None),
    ],
)
def test_a_key_is_found_by_its_place(loc: Loc, meaning: str | None) -> None:
    found = find(Config, loc)
    assert (found.meaning if found else None) == meaning


def test_a_section_is_found_by_its_place() -> None:
    assert section_at(Config, ()) is Config
    assert section_at(Config, ("gateways", "a", "keepalive")) is KeepaliveConfig
    assert section_at(Config, ("gateways",)) is None
    assert section_at(Config, ("routes", 7)) is RouteConfig
    assert section_at(Config, ("routes",)) is None
    assert section_at(Config, ("routes", "name")) is None
    assert section_at(Config, ("version",)) is None


@pytest.mark.parametrize(
    ("section", "name", "text"),
    [
        (GatewayConfig, "connections", "from 1 to 16"),
        (GatewayConfig, "max_link_age", "from 10ms to 24h"),
        (ClusterConfig, "max_connections", "at least 1"),
        (ClusterConfig, "listen", ""),
    ],
)
def test_a_range_is_written_as_its_values(section: type[Section], name: str, text: str) -> None:
    assert keys(section)[name].range == text


def test_secret_files_are_private() -> None:
    named = {name for section, name in EVERY if (file := keys(section)[name].file) and file.is_secret}
    assert named == {
        "identity_files", "passphrase_file", "token_file", "client_key", "key_file", "users_file", "host_keys"
    }  # fmt: skip
    assert not Kind.CERTIFICATES.is_secret
