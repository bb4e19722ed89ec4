"""Names that a certificate may hold."""

from __future__ import annotations

import pytest

from proxy.config.values import parse_server_name


@pytest.mark.parametrize(
    "name", ["kubernetes", "10.0.0.1", "::1", "[fd00::1]", "fe80::1%eth0", "*.k8s.local", "web.1", "a_b."]
)
def test_valid_server_names_are_accepted(name: str) -> None:
    assert parse_server_name(name) == name


@pytest.mark.parametrize(
    "name", ["kubernetes:6443", "https://kubernetes", "10.0.0.1:6443", "[::1]:6443", "::g"]
)
def test_an_address_with_a_port_is_no_server_name(name: str) -> None:
    with pytest.raises(ValueError, match="expected a name or an address, without a port, got '"):
        parse_server_name(name)


@pytest.mark.parametrize("name", ["10.0.0.0.1", "10.0.0.256"])
def test_a_server_name_like_an_address_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is not an IPv4 address"):
        parse_server_name(name)
