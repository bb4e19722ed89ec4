"""Places in a configuration, and how messages write them."""

from __future__ import annotations

import pytest

from proxy.config.findings import Loc, dotted, prefixes


@pytest.mark.parametrize(
    ("loc", "text"),
    [
        ((), ""),
        (("clusters", "prod", "api_servers", 0), "clusters.prod.api_servers[0]"),
        (("clusters", 123), "clusters[123]"),
        (("clusters", ""), "clusters.''"),
        (("clusters", "tab\there"), r"clusters.'tab\there'"),
    ],
)
def test_a_place_is_written_on_one_line(loc: Loc, text: str) -> None:
    assert dotted(loc) == text


def test_the_prefixes_of_a_place_are_all_places_that_contain_it() -> None:
    assert prefixes(("a", 0, "b")) == {(), ("a",), ("a", 0), ("a", 0, "b")}
