"""Parsing of addresses, and the messages for invalid ones."""

from __future__ import annotations

import pytest

from proxy.runtime.endpoint import Endpoint


@pytest.mark.parametrize("text", ["10.0.0.10:6443", "[::1]:6443", "api.example.com:443"])
def test_an_address_is_read_as_it_is_written(text: str) -> None:
    assert str(Endpoint.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("https://10.0.0.1:6443", "https"),
        ("https://10.0.0.1", "https"),
        ("https://10.0.0.1:6443/k8s", "https"),
        ("http://[::1]:8080", "http"),
        ("HTTPS://api:6443", "HTTPS"),
    ],
)
def test_a_url_is_refused_with_the_scheme_to_leave_out(text: str, scheme: str) -> None:
    with pytest.raises(ValueError, match=f"expected HOST:PORT or .*, without {scheme}://, got '"):
        Endpoint.parse(text)


@pytest.mark.parametrize("host", ["10.0.0.0.1", "10.0.0.256", "10.0.0.1.", "1..2"])
def test_numbers_and_dots_that_are_no_address_are_no_name_either(host: str) -> None:
    with pytest.raises(ValueError, match="is not an IPv4 address"):
        Endpoint.parse(f"{host}:6443")


@pytest.mark.parametrize("host", ["127.1", "web.1", "1.example.com", "10-0-0-1", "3com"])
def test_names_that_a_resolver_may_know_are_accepted(host: str) -> None:
    assert Endpoint.parse(f"{host}:6443").host == host
