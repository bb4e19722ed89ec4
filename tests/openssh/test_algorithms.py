"""Lists of algorithms: whose order is used, and that the names are always those that ssh prints."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.openssh.algorithms import Asked, split, usable

DEFAULTS = ("chacha", "ctr128", "ctr192", "gcm128", "gcm256")
OURS = ("gcm128", "gcm256", "chacha", "own")


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        ("chacha,ctr128,ctr192,gcm128,gcm256,cbc", "gcm128,gcm256,chacha,ctr128,ctr192,cbc"),  # +cbc
        ("chacha,ctr128,ctr192", "chacha,ctr128,ctr192"),  # -gcm*
        ("ctr128,ctr192,gcm128,gcm256", "gcm128,gcm256,ctr128,ctr192"),  # -chacha
        ("ctr192,chacha,ctr128,gcm128,gcm256", "ctr192,gcm128,gcm256,chacha,ctr128"),  # ^ctr192
        ("cbc,chacha,ctr128,ctr192,gcm128,gcm256", "cbc,gcm128,gcm256,chacha,ctr128,ctr192"),  # ^cbc
        ("gcm256,chacha", "gcm256,chacha"),
        ("cbc,gcm256", "cbc,gcm256"),
        ("cbc", "cbc"),
    ],
)
def test_our_order_is_used_unless_ssh_config_sets_one(names: str, meant: str) -> None:
    assert Asked(split(names), DEFAULTS).merged(OURS) == split(meant)


names = st.lists(st.sampled_from([*DEFAULTS, "cbc", "rc4", "own"]), min_size=1, unique=True).map(tuple)


@given(names, names)
def test_the_names_are_those_that_ssh_has(asked: tuple[str, ...], ours: tuple[str, ...]) -> None:
    assert sorted(Asked(asked, DEFAULTS).merged(ours)) == sorted(asked)


@given(st.sampled_from(["+", "-", "^"]), names)
def test_plus_minus_and_caret_combine_lists_as_openssh_does(sign: str, listed: tuple[str, ...]) -> None:
    """The oracle is kex_assemble_names of OpenSSH's kex.c."""
    if sign == "-":
        result = tuple(
            name for name in DEFAULTS if not any(fnmatch.fnmatch(name, pattern) for pattern in listed)
        )
    elif sign == "+":
        result = tuple(dict.fromkeys((*DEFAULTS, *listed)))
    else:
        result = tuple(dict.fromkeys((*listed, *DEFAULTS)))
    found = Asked(result, DEFAULTS).merged(OURS)
    # `^` with ssh's own order at the front prints the same as `+`, so our order is used.
    if sign == "^" and result[: len(DEFAULTS)] != DEFAULTS:
        assert found[0] == listed[0]
    elif "gcm128" in result:
        assert found[0] == "gcm128"


def test_unsupported_algorithms_are_left_out() -> None:
    assert usable(("a", "b", "c"), ["c", "a"]) == ("a", "c")
    assert split("a,b,,a") == ("a", "b")
