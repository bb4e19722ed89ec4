"""Values that fit the model, and each mistake with its place, message and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest

from proxy.config.findings import Loc
from proxy.config.model import ClusterConfig, Config, GatewayConfig, KeepaliveConfig, LimitsConfig
from proxy.config.reading import Mistakes, explain, mistakes, place, read, stand_in
from proxy.runtime.endpoint import Endpoint

CLUSTER = {"gateway": "edge", "listen": "127.0.0.1:1", "api_servers": ["a:1"]}
GATEWAY = {"host": "bastion"}


def said(raw: object, section: type[Config | GatewayConfig | ClusterConfig] = Config) -> dict[Loc, str]:
    return {place(one): explain(one, place(one), section).message for one in mistakes(section, raw)}


def test_a_valid_document_becomes_a_frozen_value() -> None:
    raw = {**CLUSTER, "idle_timeout": "1h30m", "probe": {"interval": "2s"}, "base_path": "/k8s/"}
    value = read(ClusterConfig, raw)
    assert value.listen == Endpoint("127.0.0.1", 1)
    assert value.api_servers == (Endpoint("a", 1),)
    assert (value.idle_timeout, value.probe.interval, value.base_path) == (5400.0, 2.0, "/k8s")
    with pytest.raises(AttributeError):
        value.gateway = "x"  # type: ignore[misc]  # the case


def test_a_parsed_value_is_accepted() -> None:
    raw = {**GATEWAY, "known_hosts": (Path("/k"),), "keepalive": KeepaliveConfig(interval=1.0)}
    assert read(GatewayConfig, raw) == GatewayConfig(
        host="bastion", known_hosts=(Path("/k"),), keepalive=KeepaliveConfig(interval=1.0)
    )


@pytest.mark.parametrize(
    ("raw", "loc", "message"),
    [
        ({}, ("host",), "is missing"),
        ({**GATEWAY, "hots": 1}, ("hots",), "unknown key"),
        ({"host": 7}, ("host",), "expected text, got 7"),
        ({"host": "a b"}, ("host",), "expected a name without spaces, got 'a b'"),
        ({**GATEWAY, "port": "22"}, ("port",), "expected a whole number, got '22'"),
        ({**GATEWAY, "port": True}, ("port",), "expected a whole number, got true"),
        ({**GATEWAY, "port": 22.0}, ("port",), "expected a whole number, got 22.0"),
        ({**GATEWAY, "port": 0}, ("port",), "0 is too small"),
        ({**GATEWAY, "connections": 17}, ("connections",), "17 is too large"),
        ({**GATEWAY, "agent": "yes"}, ("agent",), "expected true or false, got 'yes'"),
        ({**GATEWAY, "agent": 1}, ("agent",), "expected true or false, got 1"),
        ({**GATEWAY, "jump": "hq"}, ("jump",), "expected a list, got 'hq'"),
        ({**GATEWAY, "jump": ["hq", 5]}, ("jump", 1), "expected text, got 5"),
        ({**GATEWAY, "keepalive": [1]}, ("keepalive",), "expected a mapping, got [1]"),
        ({**GATEWAY, "keepalive": {"interval": "0s"}}, ("keepalive", "interval"), "0s is too short"),
        ({**GATEWAY, "max_link_age": "90d"}, ("max_link_age",), "90d is too long"),
        ({**GATEWAY, "user": None, "ssh_config": "etc"}, ("ssh_config",), "expected an absolute path"),
    ],
)
def test_a_mistake_has_a_place_and_a_message(raw: object, loc: Loc, message: str) -> None:
    assert said(raw, GatewayConfig) == {loc: message}


@pytest.mark.parametrize("version", [2, True, "1", 1.0, [1]])
def test_another_version_is_refused(version: object) -> None:
    [found] = [explain(one, (), Config) for one in mistakes(Config, {"version": version})]
    assert found.message.startswith("expected 1, got ")
    assert found.hint == "this kubemux reads version 1"


def test_every_mistake_is_found_at_once() -> None:
    raw = {
        "log": {"level": "loud"},
        "limits": {"memory": 5, "hold_timeout": "x"},
        "gateways": {"a": {"port": 0, "x": 1}, "\x07": GATEWAY},
        "clusters": {"b": {**CLUSTER, "api_servers": []}},
        "x": 1,
    }
    assert said(raw).keys() == {
        ("version",),
        ("log", "level"),
        ("limits", "memory"),
        ("limits", "hold_timeout"),
        ("gateways", "a", "host"),
        ("gateways", "a", "port"),
        ("gateways", "a", "x"),
        ("gateways", "\x07"),
        ("clusters", "b", "api_servers"),
        ("x",),
    }


def test_a_list_without_one_good_item_is_not_called_empty() -> None:
    assert said({**CLUSTER, "api_servers": [5, "x"]}, ClusterConfig).keys() == {
        ("api_servers", 0),
        ("api_servers", 1),
    }


@pytest.mark.parametrize(
    ("hold", "drain", "wrong"), [("0s", "0s", 0), ("24h", "1s", 0), ("1ms", "24h1ms", 1), ("25h", "2d", 2)]
)
def test_the_bounds_themselves_are_allowed(hold: str, drain: str, wrong: int) -> None:
    assert len(mistakes(LimitsConfig, {"hold_timeout": hold, "drain_timeout": drain})) == wrong


@pytest.mark.parametrize("key", ["passphrase_file", "identity_files", "known_hosts"])
def test_a_secret_in_the_place_of_its_file_is_not_shown(key: str) -> None:
    """Neither a message nor a traceback of the error shows it."""
    for secret in ("correct horse", ["correct horse"], {"correct horse": 1}):
        raw = {**GATEWAY, key: secret}
        with pytest.raises(Mistakes) as caught:
            read(GatewayConfig, raw)
        assert "horse" not in str(caught.value)
        assert "horse" not in "".join(said(raw, GatewayConfig).values())


def test_the_stand_in_for_a_mistake_adds_no_mistake() -> None:
    raw = {
        "version": 3,
        "limits": {"memory": "1B", "max_connections": 0},
        "gateways": {
            "a": {"host": 5, "identity_files": ["x"], "known_hosts": 5, "agent": 5, "port": 0},
            "b": 5,
        },
        "clusters": {"c": {"gateway": 1, "listen": 1, "api_servers": [1]}},
    }
    for error in mistakes(Config, raw):
        *way, last = place(error)
        parent: object = raw
        for step in way:
            parent = parent[step]  # type: ignore[index]  # the places are there
        parent[last] = stand_in(error, Config)  # type: ignore[index]  # as above
    assert said(raw) == {("gateways", "b", "host"): "is missing"}, "the gateway that replaces a mistake"


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Seen:
    """A daemon's answer; fields of a newer daemon are ignored."""

    colour: Colour
    ratio: float
    seen: tuple[KeepaliveConfig, ...] = ()


def test_other_dataclasses_ignore_unknown_keys() -> None:
    seen = read(Seen, {"colour": "red", "ratio": 1, "seen": [{"interval": "2s"}], "new": 1})
    assert seen == Seen(Colour.RED, 1.0, (KeepaliveConfig(interval=2.0),))
    with pytest.raises(ValueError, match="colour"):
        read(Seen, {"colour": "green", "ratio": 1})
