"""Patterns of names and addresses that clients may ask for, and the targets that are made from them."""

from __future__ import annotations

import pickle
import re
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.config.allow import ANY, KINDS, Rule
from proxy.config.matches import Host, Match, Target
from proxy.runtime.endpoint import Endpoint
from tests.support import pages

LABELS = st.from_regex(r"[a-z_]([a-z0-9_-]{0,5}[a-z0-9_])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)


def captures(match: str, asked: str, port: int = 22) -> tuple[str, ...] | None:
    return Match.parse(match).captures(Host.parse(asked), port)


@pytest.mark.parametrize(
    ("match", "asked", "found"),
    [
        ("node-a:22", "node-a", ()),
        ("node-a:22", "NODE-A.", ()),
        ("Node-A:22", "node-a", ()),
        ("node-a.:22", "node-a", ()),
        ("node-a:22", "node-ab", None),
        ("node-*:22", "node-a", ("a",)),
        ("*a:22", "a", None),
        ("node-*:22", "node-a.b", None),
        ("*.nb:22", "Alice.NB", ("alice",)),
        ("*.nb:22", "nb", None),
        ("*.nb:22", "a.b.nb", None),
        ("**.nb:22", "a.b.nb", ("a.b",)),
        ("**.nb:22", "nb", None),
        ("*.**.nb:22", "a.b.c.nb", ("a", "b.c")),
        ("**.*.nb:22", "a.b.c.nb", ("a.b", "c")),
        ("x.**:22", "x.y.z", ("y.z",)),
        ("*-*.team:22", "a-b-c.team", ("a", "b-c")),
        ("*-x-*:22", "a-x-x-b", ("a", "x-b")),
        ("a*a:22", "aa", None),
        ("a*a:22", "aaa", ("a",)),
        ("10.0.0.0/16:22", "10.0.255.1", ()),
        ("10.0.0.0/16:22", "10.1.0.1", None),
        ("10.0.0.0/16:22", "::ffff:10.0.0.1", ()),
        ("10.0.0.7:22", "10.0.0.7", ()),
        ("[fd00::/8]:22", "fdff::1", ()),
        ("[fd00::/8]:22", "fe00::1", None),
        ("[fd00::1]:22", "FD00:0::1", ()),
        ("[::/0]:22", "10.0.0.1", None),
        ("0.0.0.0/0:22", "node-a", None),
        ("**:22", "10.0.0.1", None),
        ("*.*.*.*:22", "10.0.0.1", None),
    ],
)
def test_the_names_that_a_pattern_matches(match: str, asked: str, found: tuple[str, ...] | None) -> None:
    assert captures(match, asked) == found


@pytest.mark.parametrize(
    ("ports", "matched"),
    [
        ("22", {22}),
        ("2000-2999", {2000, 2999}),
        ("22-22", {22}),
        ("*", {1, 22, 1999, 2000, 2999, 3000, 65535}),
    ],
)
def test_which_ports_a_pattern_matches(ports: str, matched: set[int]) -> None:
    tried = (1, 22, 1999, 2000, 2999, 3000, 65535)
    assert {port for port in tried if captures(f"db:{ports}", "db", port) is not None} == matched


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "a..b", "-a", "a-", "a b", "a\0b", "a\n", "\u212a8s", "ü", "[::1]", "fe80::1%eth0", "a:1"),
        *("a" * 64, ".".join(["abc"] * 64), "10.1", "10.0.0.256", "0x7f000001", "0x7f.1", "167772161", "a.1"),
        *("010.0.0.1", "10.0.0.1."),
        *("0.0.0.0", "::", "::ffff:0.0.0.0"),  # noqa: S104 - connect(2) takes them for loopback
    ],
)
def test_invalid_hosts_and_other_spellings_of_addresses_are_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"neither a host name nor an|no name ends in a number|address of no host"
    ):
        Host.parse(text)


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("latin-1")))
def test_any_text_is_a_host_or_a_value_error(text: str) -> None:
    try:
        host = Host.parse(text)
    except ValueError:
        return
    assert Host.parse(str(host)) == host
    assert str(host).isascii()
    assert str(host).isprintable()


@given(NAMES, st.data())
def test_a_pattern_made_of_a_name_matches_it_and_its_captures_make_it_again(
    name: str, data: st.DataObject
) -> None:
    labels = name.split(".")
    starred = [
        data.draw(st.sampled_from([label, "*", *([f"{label[0]}*"] if label[1:] else [])])) for label in labels
    ]
    match = Match.parse(f"{'.'.join(starred)}:22")
    found = match.captures(Host.parse(name.upper()), 22)
    assert found is not None
    assert len(found) == match.stars
    parts = iter(found)
    assert "".join(next(parts) if char == "*" else char for char in match.host) == name


@given(NAMES, st.integers(0, 3), st.integers(0, 3))
def test_two_stars_match_whole_labels(name: str, before: int, after: int) -> None:
    labels = name.split(".")
    assume(max(before, after) <= len(labels))
    head, tail = labels[:before], labels[len(labels) - after :]
    found = Match.parse(".".join([*head, "**", *tail]) + ":*").captures(Host.parse(name), 1)
    middle = labels[before : len(labels) - after]
    assert found == ((".".join(middle),) if len(labels) > before + after else None)


@given(st.text("ab*-.:/[]0129", max_size=20) | st.text(max_size=20))
def test_any_text_is_a_pattern_that_can_be_written_again_or_a_value_error(text: str) -> None:
    try:
        match = Match.parse(text)
    except ValueError:
        return
    again = Match.parse(str(match))
    assert again == match == pickle.loads(pickle.dumps(match))  # noqa: S301 - as the daemon gets it
    assert str(again) == str(match)


@given(NAMES, st.data())
def test_two_patterns_that_match_one_name_meet(name: str, data: st.DataObject) -> None:
    def pattern() -> Match:
        labels = name.split(".")
        whole = data.draw(st.integers(0, len(labels)))
        rest = [data.draw(st.sampled_from([one, "*", f"{one[0]}*"[: len(one)]])) for one in labels[whole:]]
        return Match.parse(".".join(["**"] * bool(whole) + rest) + ":20-30")

    one, other = pattern(), pattern()
    assert one.captures(Host.parse(name), 22) is not None
    assert other.captures(Host.parse(name), 22) is not None
    assert one.meets(other)
    assert other.meets(one)


@pytest.mark.parametrize(
    ("one", "other", "do_meet"),
    [
        ("a:22", "a:22", True),
        ("a:22", "b:22", False),
        ("a:22", "a:23", False),
        ("a:20-30", "a:30-40", True),
        ("*:20-30", "a:31", False),
        ("*.nb:22", "a.nb:22", True),
        ("*.nb:22", "a.b.nb:22", False),
        ("**.nb:22", "*.b.nb:22", True),
        ("*.eu.nb:22", "**.us.nb:22", False),
        ("a*.nb:22", "b*.nb:22", True),  # not compared, so it is not certain
        ("10.0.0.0/8:22", "10.1.0.0/16:22", True),
        ("10.0.0.0/8:22", "11.0.0.0/8:22", False),
        ("0.0.0.0/0:22", "[::/0]:22", False),
        ("[fd00::/8]:22", "[fd00::7]:22", True),
        ("10.0.0.0/8:22", "**:22", False),
    ],
)
def test_which_patterns_meet(one: str, other: str, do_meet: bool) -> None:
    assert Match.parse(one).meets(Match.parse(other)) == do_meet
    assert Match.parse(other).meets(Match.parse(one)) == do_meet


def test_no_name_makes_a_pattern_take_long() -> None:
    match = Match.parse(f"{'*a' * 30}*b.{'*a' * 30}*b:22")
    host = Host(None, ("a" * 63, "a" * 63))
    began = time.process_time()
    for _ in range(100):
        assert match.captures(host, 22) is None
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("node-a", "'node-a' has no port: write node-a:22, or node-a:* for any port"),
        ("[fd00::1]", "has no port: write"),
        (":22", "expected HOST:PORT, got ':22'"),
        ("", "expected HOST:PORT, got ''"),
        ("fd00::1:22", "or [IPV6]:PORT with brackets"),
        ("[10.0.0.0/8:22", "or [IPV6]:PORT with brackets"),
        ("[node]:22", "or [IPV6]:PORT with brackets"),
        ("[10.0.0.1]:22", "or [IPV6]:PORT with brackets"),
        ("https://node:22", "without https://"),
        ("x:0", "0 is not a range within 1-65535"),
        ("x:65536", "65536 is not a range within 1-65535"),
        ("x:5-4", "5-4 is not a range within 1-65535"),
        ("x:ssh", "expected a port, a range like 2000-2999, or *"),
        ("x:22,23", "expected a port, a range like 2000-2999, or *"),
        ("10.0.0.1/16:22", "write 10.0.0.0/16"),
        ("10.0.0.0/33:22", "is no network; write one like"),
        ("node/16:22", "is no network; write one like"),
        ("[::ffff:10.0.0.0/112]:22", "write them as IPv4"),
        ("[fe80::1%eth0]:22", "an address with an interface"),
        ("10.0.*.*:22", "write a network like 10.0.0.0/16"),
        ("**.**:22", "once in a pattern"),
        ("a**:22", "stands for whole labels"),
        ("a b:22", "neither a host name nor an address"),
        ("%65:22", "neither a host name nor an address"),
    ],
)
def test_an_invalid_pattern_gets_the_reason(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        Match.parse(text)


@pytest.mark.parametrize(
    ("target", "asked", "found", "leads"),
    [
        ("127.0.0.1:{port}", "node-a", (), "127.0.0.1:10250"),
        ("{1}.notebooks.svc:2209", "alice.nb", ("alice",), "alice.notebooks.svc:2209"),
        ("{2}.{1}:{port}", "a.b", ("a", "b"), "b.a:10250"),
        ("{host}:22", "NODE-A.", (), "node-a:22"),
        ("{host}:22", "fd00::1", (), "[fd00::1]:22"),
        ("[fd00::1]:{port}", "a", (), "[fd00::1]:10250"),
        ("p-{port}.x:22", "a", (), "p-10250.x:22"),
    ],
)
def test_a_target_is_filled_with_the_requested_host_and_port(
    target: str, asked: str, found: tuple[str, ...], leads: str
) -> None:
    made = Target.parse(target)
    assert made.fill(Host.parse(asked), 10250, found) == Endpoint.parse(leads)
    assert Target.parse(str(made)) == made


@pytest.mark.parametrize(
    ("target", "asked", "found"),
    [
        ("{1}:22", "x-b", ("-b",)),
        ("x-{host}:22", "fd00::1", ()),
        ("{1}{1}:22", "a", ("a" * 63,)),
        ("x.{1}:22", "7.nb", ("7",)),
    ],
)
def test_an_invalid_target_address_is_a_value_error(target: str, asked: str, found: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"neither|no name ends|not an IPv6"):
        Target.parse(target).fill(Host.parse(asked), 22, found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{name}:22", "{name} stands for nothing"),
        ("{0}:22", "{0} stands for nothing"),
        ("{}:22", "{} stands for nothing"),
        ("{1}", "expected HOST:PORT, with {host}"),
        ("a:{1}", "expected HOST:PORT, with {host}"),
        ("a:1{port}", "expected HOST:PORT, with {host}"),
        ("[{host}]:22", "expected HOST:PORT, with {host}"),
        ("{host:22", "expected HOST:PORT, with {host}"),
        ("10.1:22", "expected HOST:PORT, with {host}"),
    ],
)
def test_an_invalid_target_gets_the_reason(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        Target.parse(text)


@pytest.mark.parametrize(
    "row", list(pages.rows("docs/routes.md", "pattern")), ids=lambda row: row[0].strip("`")
)
def test_patterns_match_the_examples_of_the_page(row: list[str]) -> None:
    pattern, *cells = row
    match = Match.parse(pattern.strip("`"))
    for cell, fits in zip(cells, (True, False), strict=True):
        for asked in re.findall(r"`([^`]+)`", cell):
            assert (match.captures(Host.parse(asked), match.first) is not None) is fits, asked


def test_the_page_has_every_kind_of_rule() -> None:
    told = [
        Rule.parse(text)
        for row in pages.rows("docs/who-may.md", "rule")
        for text in re.findall(r"`([^`]+)`", row[0])
    ]
    assert {rule.kind for rule in told} == {*KINDS, ANY}
