"""The example line in a remedy can be copied into the file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import hints, yaml
from proxy.config.keys import keys
from proxy.config.model import AdminConfig, ClusterConfig, GatewayConfig, SshServerConfig
from proxy.config.reading import explain, mistakes, place


@pytest.fixture(params=["service", "person", "nobody"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(hints, "is_for_system_service", lambda: request.param == "service")
    monkeypatch.setattr(hints, "has_home", lambda: request.param == "person")
    return str(request.param)


@pytest.mark.parametrize("written", [{}, {"host_keys": []}])
def test_the_example_of_a_host_key_is_a_permanent_file(reader: str, written: dict[str, object]) -> None:
    """The example is the same for every reader: it is no credential."""
    del reader
    section = {"listen": "127.0.0.1:2222", **written}
    [found] = [explain(one, place(one), SshServerConfig) for one in mistakes(SshServerConfig, section)]
    line = "host_keys: [/etc/kubemux/ssh_host_ed25519_key], and run kubemux ssh-server keygen"
    assert found.hint.endswith(line)


def test_the_example_fits_who_runs_kubemux(reader: str) -> None:
    gateway, admin = keys(GatewayConfig), keys(AdminConfig)
    assert [
        hints.example("identity_files", gateway["identity_files"]),
        hints.example("passphrase_file", gateway["passphrase_file"]),
        hints.example("socket", admin["socket"]),
    ] == {
        "service": [
            'identity_files: ["${CREDENTIALS_DIRECTORY}/eu-edge"]',
            'passphrase_file: "${CREDENTIALS_DIRECTORY}/eu-edge.passphrase"',
            "socket: /run/kubemux/admin.sock",
        ],
        "person": [
            "identity_files: [~/.ssh/id_ed25519]",
            "passphrase_file: /etc/kubemux/keys/eu-edge.passphrase",
            "socket: ~/.config/kubemux/admin.sock",
        ],
        "nobody": [
            "identity_files: [/etc/kubemux/keys/eu-edge]",
            "passphrase_file: /etc/kubemux/keys/eu-edge.passphrase",
            "socket: /run/kubemux/admin.sock",
        ],
    }[reader]


def test_several_examples_are_alternatives() -> None:
    assert hints.example("gateway", keys(ClusterConfig)["gateway"]) == "gateway: eu-edge, or gateway: direct"


printable = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), max_size=20)


# A number with more digits is a mistake in a file (proxy/config/yaml.py).
numbers = st.integers(-(10**18) + 1, 10**18 - 1)


@given(st.recursive(printable | numbers | st.booleans(), st.lists, max_leaves=5))
def test_yaml_reads_an_example_as_its_value(value: object) -> None:
    document = yaml.parse(f"key: [{hints.flow(value)}]".encode(), "f.yaml")
    assert document.root == {"key": [value]}
