"""The tables of `kubemux status`, at common widths of terminals."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from proxy.admin.condition import cut_off, findings
from proxy.admin.status import readiness
from proxy.cli.tables import render
from proxy.errors import UnknownName
from proxy.snapshots import ClusterState, DaemonSnapshot, DiscoveryState, GatewayState
from tests.admin.scripted import (
    ARN,
    AWAY,
    DAEMON,
    DAY,
    EU_EDGE,
    NODES,
    NOW,
    OPS,
    PODS,
    PROD_EU,
    PROD_US,
    PROXY,
    SITE,
    STAGE_US,
    UNBOUND,
    US_WEST,
)


def shown(
    snapshot: DaemonSnapshot = DAEMON,
    *,
    width: int = 140,
    colour: bool = False,
    height: int | None = None,
    names: tuple[str, ...] = (),
) -> list[str]:
    console = Console(
        file=StringIO(), width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    console.print(render(snapshot, now=NOW, width=width, height=height, names=names))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def row(lines: list[str], start: str) -> list[str]:
    return next(line for line in lines if line.startswith(start)).split()


def test_a_wide_terminal_shows_all_columns() -> None:
    lines = shown(width=140)
    assert lines[0] == "1/3 clusters up, 1/2 gateways connected, 12 connections"
    assert lines[1] == "kubemux 0.1.0, pid 123, up 2h 3m, 121K of 256MiB buffered"
    assert row(lines, "eu-edge") == ["eu-edge", "●", "up", "2/2", "21ms", "14", "0", "-", "-"]
    assert row(lines, "us-west") == ["us-west", "○", "down", "0/2", "-", "0", "14", "42s", "-"]
    where = ["127.0.0.1:16443", "eu-edge", "10.0.0.10:6443"]
    assert row(lines, "prod-eu") == ["prod-eu", "●", "up", *where, "31ms", "12", "12M", "8.5G", "84d"]


def test_a_gateway_shows_links_that_retire_and_when_its_certificate_ends() -> None:
    [link, *_] = EU_EDGE.links
    edge = replace(EU_EDGE, retiring=(replace(link, channels=5),), certificate_expiry=NOW + 3 * DAY)
    lines = shown(replace(DAEMON, gateways=(edge,)))
    assert row(lines, "eu-edge") == ["eu-edge", "●", "up", "2/2+1", "21ms", "19", "0", "-", "3d"]


def test_sites_have_a_table_of_their_own() -> None:
    behind = replace(PROD_EU, name="behind", gateway="edge")
    lines = shown(replace(DAEMON, sites=(SITE, replace(AWAY, name="edge")), clusters=(PROD_EU, behind)))
    where = ["192.0.2.7:50022", "1B", "2B"]
    edge, factory = row(lines, "edge"), row(lines, "factory-7")
    assert factory == ["factory-7", "●", "up", "1/2", "50ms", "3", "1", "1h", "0m", *where]
    assert edge == ["edge", "○", "down", "0/2", "-", "0", "1", "42s", "-", "1B", "2B"]
    assert lines.index(next(line for line in lines if line.startswith("edge"))) < lines.index(
        next(line for line in lines if line.startswith("factory-7"))
    )
    assert row(lines, "behind")[1:3] == ["◐", "up?"]
    problem = "site edge: keepalive_timeout: site factory-7 at 192.0.2.7:50022 stopped answering"
    assert problem in lines
    assert "GATEWAY" not in row(shown(replace(DAEMON, sites=(SITE,)), names=("factory-7",)), "SITE")


def test_users_who_are_logged_in_are_shown() -> None:
    nobody = replace(OPS, name="sre", identity="ssh-user:sre", logins=())
    daemon = replace(DAEMON, users=(OPS, nobody))
    lines = shown(daemon)
    assert row(lines, "ssh-user:ops") == ["ssh-user:ops", "2/100", "2", "2h", "0m", "192.0.2.9:50022"]
    assert not any("ssh-user:sre" in line for line in lines)
    both = shown(daemon, names=("ssh-user:sre", "ssh-user:ops"))
    assert row(both, "USER") == ["USER", "FROM", "FOR", "CHANNELS", "KEY", "OPEN"]
    assert [" ".join(line.split()) for line in both if line.startswith("ssh-user:")] == [
        "ssh-user:ops 192.0.2.8:40000 2h 0m 0 SHA256:def -",
        "ssh-user:ops 192.0.2.9:50022 1m 0s 2 alice (serial 7) node-a:22 prod-eu:443",
        "ssh-user:sre - - - - -",
    ]
    assert not any(line.startswith(("CLUSTER", "GATEWAY")) for line in both)
    assert shown(daemon, names=("ops", "sre")) == shown(daemon, names=("ssh-user:sre", "ssh-user:ops"))


def test_80_columns_show_who_has_what_open_with_shorter_fingerprints() -> None:
    key = "SHA256:mKQQUkHcCpsMtaxPvAGLNYLAkCZ//plTPag2wgE9lPs"
    many = replace(OPS.logins[-1], key=key, certificate="", open=tuple(f"node-{n}:22" for n in range(9)))
    daemon = replace(DAEMON, users=(replace(OPS, logins=(many,)),))
    lines = shown(daemon, width=80, names=("ssh-user:ops",))
    assert row(lines, "USER") == ["USER", "FROM", "FOR", "CHANNELS", "KEY", "OPEN"]
    assert row(lines, "ssh-user:ops")[-2:] == ["SHA25…ag2wgE9lPs", "node…node-8:22"]
    assert all(len(line.rstrip()) <= 80 for line in lines)
    wide = shown(daemon, width=300, names=("ssh-user:ops",))
    assert row(wide, "ssh-user:ops")[-10:] == [key, *many.open]


def test_80_columns_keep_every_row_on_its_line_and_every_address_whole() -> None:
    lines = shown(width=80)
    assert max(map(cell_len, lines)) <= 80
    assert row(lines, "prod-eu") == [
        "prod-eu",
        "●",
        "up",
        "127.0.0.1:16443",
        "31ms",
        "12",
        "12M",
        "8.5G",
        "84d",
    ]
    assert row(lines, "arn:aws")[0].endswith("us-east")
    assert "…" in row(lines, "arn:aws")[0]
    assert row(lines, "arn:aws")[1:4] == ["○", "down", "127.0.0.1:16444"]
    assert "RECVD" in row(lines, "CLUSTER")
    assert "GATEWAY" not in row(lines, "CLUSTER")


@pytest.mark.parametrize(
    ("up", "wanted", "said"),
    [
        (2, 2, "; its 2 links go on, only their replacement failed"),
        (1, 1, "; its link goes on, only its replacement failed"),
        (1, 2, "; 1 of 2 links still serves"),
        (2, 3, "; 2 of 3 links still serve"),
        (0, 2, ""),
    ],
)
def test_a_failure_does_not_look_like_an_outage_while_links_serve(up: int, wanted: int, said: str) -> None:
    state = GatewayState.DEGRADED if up else GatewayState.DOWN
    refused = replace(
        EU_EDGE,
        links=EU_EDGE.links[:1] * up,
        wanted=wanted,
        state=state,
        reason="auth_failed",
        message="no key",
    )
    assert (
        shown(replace(DAEMON, gateways=(refused,), clusters=(replace(PROD_EU, gateway="direct"),)))[-1]
        == f"gateway eu-edge: auth_failed: no key{said}"
    )


def test_a_cause_is_shown_once_with_all_its_consequences() -> None:
    text = "\n".join(shown(width=200))
    assert (
        "gateway us-west: auth_failed: sshd at bastion.us:22 refused every key\n  hint: is the public key in"
        in text
    )
    assert f"clusters {ARN}, stage-us: link_down: no link of us-west is up" in text
    assert "kubemux status shows" not in text, "the cause is shown"
    assert text.count("link_down") == 1


def test_all_well_has_no_problems_below_the_table() -> None:
    lines = shown(replace(DAEMON, gateways=(EU_EDGE,), clusters=(PROD_EU,)))
    assert lines[-1].startswith("prod-eu")


@pytest.mark.parametrize("state", [GatewayState.DOWN, GatewayState.CONNECTING])
def test_a_cluster_without_a_link_is_shown_as_doubtful_before_its_probes_fail(state: GatewayState) -> None:
    lost = replace(EU_EDGE, state=state, links=(), reason="link_lost", message="hung up", hint="look")
    snapshot = replace(
        DAEMON, gateways=(lost,), clusters=(PROD_EU, replace(PROD_EU, name="stage-us", gateway="direct"))
    )
    lines = shown(snapshot)
    assert lines[0].startswith("1/2 clusters up, 0/1 gateways connected")
    assert row(lines, "prod-eu")[1:3] == ["◐", "up?"]
    assert row(lines, "stage-us")[1:3] == ["●", "up"], "a direct cluster needs no gateway"
    assert "cluster prod-eu: link_down: no link of eu-edge is up any more" in lines
    assert "[-]cluster prod-eu: link_down\n" in readiness(snapshot)
    assert "\x1b[33m◐ up?" in "\n".join(shown(snapshot, colour=True))


def test_idle_gateways_and_clusters_are_not_listed_as_problems() -> None:
    idle = replace(US_WEST, state=GatewayState.IDLE, retry_in=None, reason="", message="", hint="")
    asleep = replace(PROD_US, name="asleep", state=ClusterState.IDLE, reason="", message="", hint="")
    lines = shown(replace(DAEMON, gateways=(idle,), clusters=(asleep,)))
    assert row(lines, "us-west")[1:3] == row(lines, "asleep")[1:3] == ["○", "idle"]
    assert lines[-1].startswith("asleep"), "nothing below the table"
    after_a_failure = replace(idle, reason="auth_failed", message="refused", hint="look")
    assert "gateway us-west: auth_failed: refused" in shown(replace(DAEMON, gateways=(after_a_failure,)))


def test_entries_and_routes_have_tables_of_their_own() -> None:
    nodes = replace(NODES, match=("*.eu:22", "10.0.0.0/16:22", "x:*"))
    well = replace(DAEMON, gateways=(EU_EDGE,), clusters=(PROD_EU,), entries=(PROXY,), routes=(nodes, NODES))
    lines = shown(well)
    assert row(lines, "ENTRY") == ["ENTRY", "STATE", "LISTEN", "CONNS", "TOTAL"]
    assert row(lines, "proxy") == ["proxy", "●", "up", "127.0.0.1:3128", "3", "45"]
    assert row(lines, "nodes") == ["nodes", "eu-edge", "2", "30", "4.0K", "6.8G", "*.eu:22", "+2"]
    assert lines[-1].split()[-1] == "*.eu.internal:22", "nothing is wrong"
    assert shown(replace(well, routes=(replace(NODES, drained=True),)))[-2:] == [
        "route nodes: drained: it takes no connections",
        "  hint: kubemux reload opens it again",
    ]


def test_a_route_to_pods_says_how_many_are_known_and_whether_they_are_watched() -> None:
    well = replace(DAEMON, gateways=(EU_EDGE,), clusters=(PROD_EU,), routes=(PODS,))
    assert row(shown(well), "notebooks")[-4:] == ["7", "pods", "of", "prod-eu"]
    assert not list(findings(well, cut_off(well)))
    assert PODS.discovery is not None
    refused = replace(
        PODS.discovery, state=DiscoveryState.BROKEN, reason="unauthorized", message="HTTP 403", hint="a role"
    )
    assert shown(replace(well, routes=(replace(PODS, discovery=refused),)))[-2:] == [
        "route notebooks: unauthorized: its pods are not watched, 7 are known from before: HTTP 403",
        "  hint: a role",
    ]
    cut = replace(well, routes=(replace(PODS, discovery=replace(refused, reason="link_down")),))
    assert not list(findings(cut, cut_off(cut))), "its gateway's finding says it"


def test_an_entry_that_is_not_bound_is_a_problem_and_comes_first() -> None:
    snapshot = replace(DAEMON, gateways=(EU_EDGE,), clusters=(PROD_EU,), entries=(PROXY, UNBOUND))
    lines = shown(snapshot)
    assert [line.split()[0] for line in lines if "127.0.0.1:312" in line][:2] == ["egress", "proxy"]
    assert row(lines, "egress")[1:3] == ["○", "down"]
    assert lines[-2:] == [
        f"entry egress: listen_failed: {UNBOUND.message}",
        f"  hint: {UNBOUND.hint}",
    ]
    assert not list(findings(replace(snapshot, draining=True), cut_off(snapshot)))
    two = shown(replace(snapshot, entries=(UNBOUND, replace(UNBOUND, name="second"))))
    assert f"entries egress, second: listen_failed: {UNBOUND.message}" in two


def test_a_cluster_that_is_reached_by_name_alone_is_not_broken() -> None:
    by_name = replace(PROD_EU, listen="")
    snapshot = replace(DAEMON, gateways=(EU_EDGE,), clusters=(by_name,), entries=(PROXY,))
    lines = shown(snapshot)
    assert lines[0].startswith("1/1 clusters up")
    assert row(lines, "prod-eu")[1:4] == ["●", "up", "-"]
    assert not list(findings(snapshot, cut_off(snapshot)))
    assert "\x1b[31m" not in "\n".join(shown(snapshot, colour=True))
    drained = replace(
        by_name, listening=False, reason="drained", message="drained: it takes no connections", hint="reload"
    )
    assert row(shown(replace(snapshot, clusters=(drained,))), "prod-eu")[1:3] == ["○", "down"]
    assert "cluster prod-eu: drained: drained: it takes no connections" in shown(
        replace(snapshot, clusters=(drained,))
    )


def many(count: int) -> DaemonSnapshot:
    """A snapshot of `count` clusters: one is down, one has no listener, one is in doubt, and every tenth
    gateway is down.
    """
    clusters = [replace(PROD_EU, name=f"c{number:03}") for number in range(count)]
    clusters[count // 2] = replace(
        clusters[count // 2], state=ClusterState.DOWN, reason="timeout", message="no answer", hint="load?"
    )
    clusters[-1] = replace(clusters[-1], listening=False, reason="listen_failed", message="in use")
    clusters[-2] = replace(clusters[-2], reason="closed", message="hung up")
    gateways = [replace(EU_EDGE, name="eu-edge")] + [
        replace(US_WEST if number % 10 == 9 else EU_EDGE, name=f"g{number:03}")
        for number in range(count // 2)
    ]
    entries = [replace(PROXY, name=f"e{number:03}", listening=number != 1) for number in range(count // 4)]
    routes = [replace(NODES, name=f"r{number:03}") for number in range(count // 2)]
    return replace(
        DAEMON,
        gateways=tuple(gateways),
        clusters=tuple(clusters),
        entries=tuple(entries),
        routes=tuple(routes),
    )


def test_broken_clusters_and_gateways_come_first_and_others_in_file_order() -> None:
    names = [line.split()[0] for line in shown(many(20)) if re.match(r"[cg]\d", line)]
    assert names == [
        "g009",
        *(f"g{number:03}" for number in range(9)),
        "c010",
        "c019",
        "c018",
        *(f"c{n:03}" for n in range(18) if n != 10),
    ]


@pytest.mark.parametrize("height", [40, 24, 16])
def test_a_low_terminal_still_shows_broken_clusters_and_gateways(height: int) -> None:
    lines = shown(many(300), height=height, width=100)
    assert len(lines) <= height
    assert [line.split()[0] for line in lines if re.match(r"c\d", line)][:1] == ["c150"]
    assert any(line.startswith("g009") for line in lines)
    assert any(re.fullmatch(r"\d+ more clusters?, \d+ of them up", line) for line in lines)
    assert any(re.fullmatch(r"\d+ more gateways?, \d+ of them up", line) for line in lines)
    assert any(re.fullmatch(r"\d+ more entries, \d+ of them up", line) for line in lines)
    assert any(re.fullmatch(r"\d+ more routes", line) for line in lines)
    assert any(line.startswith("gateways g009, g019") and "auth_failed" in line for line in lines)


def test_a_terminal_that_is_high_enough_shows_all() -> None:
    assert shown(many(10), height=60) == shown(many(10))


@given(
    st.integers(min_value=3, max_value=60),
    st.integers(min_value=80, max_value=200),
    st.integers(min_value=3, max_value=40),
)
@settings(deadline=None)  # several hundred cells each
def test_no_screen_is_higher_than_the_terminal(height: int, width: int, count: int) -> None:
    lines = shown(many(count), height=height, width=width)
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize(
    ("names", "seen"),
    [
        (("us-west",), ["us-west", ARN, "stage-us"]),
        (("stage-us",), ["us-west", "stage-us"]),
        (("prod-eu", "stage-us"), ["us-west", "eu-edge", "stage-us", "prod-eu"]),
        (("eu-edge",), ["eu-edge", "prod-eu", "nodes"]),
        (("nodes",), ["eu-edge", "nodes"]),
        (("proxy",), ["proxy"]),
    ],
)
def test_names_choose_the_shown_items(names: tuple[str, ...], seen: list[str]) -> None:
    lines = shown(replace(DAEMON, entries=(PROXY,), routes=(NODES,)), names=names, width=240)
    assert lines[0] == "1/3 clusters up, 1/2 gateways connected, 12 connections", "of the whole daemon"
    rows = [
        line.split()[0]
        for line in lines
        if re.search(r"\d/\d  |127\.0\.0\.1:|\.internal:", line) and " of " not in line
    ]
    assert rows == seen


def test_an_unknown_name_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(
        UnknownName, match="no gateway, cluster, entry, route, site or user is called 'prod-uu'"
    ) as caught:
        shown(names=("prod-uu",))
    assert caught.value.hint.startswith("did you mean 'prod-eu'? there are: ")


def test_a_recovering_cluster_shows_the_remaining_probes() -> None:
    back = replace(PROD_EU, state=ClusterState.DOWN)
    lines = shown(replace(DAEMON, gateways=(EU_EDGE,), clusters=(back,)))
    assert lines[-1].startswith(
        "cluster prod-eu: down: its last probe was answered, `probe.threshold` of them"
    )


def test_a_first_failed_probe_is_shown_while_the_cluster_is_up() -> None:
    failing = replace(PROD_EU, reason="timeout", message="no answer within 5s", hint="overloaded?")
    lines = shown(replace(DAEMON, gateways=(EU_EDGE,), clusters=(failing,)))
    assert row(lines, "prod-eu")[1:3] == ["◐", "up?"]
    assert lines[-2:] == [
        "cluster prod-eu: timeout: no answer within 5s; `probe.threshold` such probes in a row make it down",
        "  hint: overloaded?",
    ]
    refused = replace(PROD_EU, reason="unauthorized", message="401")
    assert shown(replace(DAEMON, gateways=(EU_EDGE,), clusters=(refused,)))[-1].startswith("prod-eu"), (
        "that is an answer"
    )


def test_clusters_that_are_unbound_or_not_yet_probed_are_shown_as_such() -> None:
    unbound = replace(PROD_EU, name="unbound", listening=False)
    new = replace(PROD_EU, name="new", state=ClusterState.UNKNOWN, reason="", probe_seconds=None)
    lines = shown(replace(DAEMON, draining=True, clusters=(unbound, new)))
    assert lines[0].startswith("draining: 0/2 clusters up")
    assert row(lines, "unbound")[1:3] == ["○", "down"]
    assert row(lines, "new")[1:3] == ["◌", "unknown"]
    assert "cluster new: unknown" in lines
    assert not any(line.startswith("cluster unbound") for line in lines), "that it drains is said above"
    assert "cluster unbound: not listening" in shown(replace(DAEMON, clusters=(unbound, new)))


def test_a_cluster_without_a_link_shows_no_probe_time() -> None:
    lines = shown(replace(DAEMON, clusters=(replace(PROD_EU, reason="link_down", probe_seconds=1.0),)))
    assert "1000ms" not in row(lines, "prod-eu")


def test_without_clusters_the_tables_say_so() -> None:
    assert "no clusters are configured" in shown(replace(DAEMON, gateways=(), clusters=()))


@pytest.mark.parametrize(("left", "text"), [(83.4, "83d"), (0.4, "0d"), (-1, "expired")])
def test_a_certificate_is_shown_with_the_days_until_it_expires(left: float, text: str) -> None:
    lines = shown(replace(DAEMON, clusters=(replace(PROD_EU, certificate_expiry=NOW + left * DAY),)))
    assert row(lines, "prod-eu")[-1] == text


def test_colours_follow_the_states() -> None:
    text = "\n".join(shown(colour=True))
    assert "\x1b[32m● up" in text
    assert "\x1b[31m○ down" in text
    assert "\x1b[31m  3d" in next(line for line in text.splitlines() if "127.0.0.1:16445" in line)


def test_text_from_the_peer_is_neither_markup_nor_escape() -> None:
    hostile = replace(PROD_US, name="[red]x[/red]", message="\x1b[2J[bold]gone\ncluster x: ok")
    text = "\n".join(shown(replace(DAEMON, clusters=(hostile,))))
    assert "\x1b" not in text
    assert "[red]x[/red]" in text
    assert "[bold]gone cluster x" in text


def test_a_narrow_terminal_has_fewer_columns_and_whole_words() -> None:
    counts = []
    for width in range(36, 80):
        lines = shown(width=width)
        assert max(map(cell_len, lines)) <= width
        columns = next(line for line in lines if line.startswith("CLUSTER")).split()
        assert (
            columns
            == ["CLUSTER", "STATE", "LISTEN", "PROBE", "CONNS", "SENT", "RECVD", "CERT"][: len(columns)]
        )
        assert row(lines, "prod-eu")[:4] == ["prod-eu", "●", "up", "127.0.0.1:16443"]
        counts.append(len(columns))
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (3, 8)


@pytest.mark.parametrize("width", [1, 10, 30])
def test_no_line_is_wider_than_a_very_narrow_terminal(width: int) -> None:
    assert max(map(cell_len, shown(width=width))) <= width


names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=253)


@given(st.lists(names, min_size=1, max_size=3), st.integers(min_value=40, max_value=240))
@settings(deadline=None)
def test_no_line_is_wider_than_the_terminal(clusters: list[str], width: int) -> None:
    snapshot = replace(DAEMON, clusters=tuple(replace(STAGE_US, name=name) for name in clusters))
    lines = shown(snapshot, width=width)
    assert max(map(cell_len, lines)) <= width
    assert sum("127.0.0.1:16445" in line for line in lines) == len(clusters)
