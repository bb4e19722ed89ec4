"""Parsing of an API server's answers about pods."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.daemon.discovery import pods
from proxy.daemon.discovery.pods import Expired, Pod, Pods, Unusable
from tests.daemon.discovery.scripted import bookmark, event, pod


@pytest.mark.parametrize(
    ("item", "known"),
    [
        (pod("nb-0", "10.1.0.7"), Pod("10.1.0.7", "")),
        (pod("nb-0", "fd00:0::7"), Pod("fd00::7", "")),
        (pod("nb-0", "::ffff:10.1.0.7"), Pod("10.1.0.7", "")),
        (pod("nb-0", "10.1.0.7", "Succeeded"), Pod("", "is Succeeded")),
        (pod("nb-0", None, "Pending"), Pod("", "is Pending")),
        (pod("nb-0", "10.1.0.7", "\x1b[2J"), Pod("", "does not run")),
        (pod("nb-0", None), Pod("", "has no address yet")),
        (pod("nb-0", "10.1.0.7", deletionTimestamp="2026-01-01T00:00:00Z"), Pod("", "is being deleted")),
        (pod("nb-0", "gateway.internal"), Pod("", "has an address that is none")),
        *(
            (pod("nb-0", address), Pod("", f"has the address {plain}, which no pod can have"))
            for address, plain in (
                ("127.0.0.1", "127.0.0.1"),
                ("::1", "::1"),
                ("::ffff:127.0.0.1", "127.0.0.1"),
                ("169.254.169.254", "169.254.169.254"),
                ("fe80::1%eth0", "fe80::1%eth0"),
                ("0.0.0.0", "0.0.0.0"),  # noqa: S104 - nobody listens there
                ("224.0.0.1", "224.0.0.1"),
            )
        ),
    ],
)
def test_an_event_says_where_a_pod_is(item: dict[str, object], known: Pod) -> None:
    found: Pods = {}
    assert pods.apply(event("ADDED", item), found) == "5"
    assert found == {"nb-0.team-a": known}


def test_a_page_of_pods_is_parsed() -> None:
    items = [pod("nb-0", "10.1.0.7"), pod("nb-1", "10.1.0.8")]
    body = json.dumps({"metadata": {"resourceVersion": "9", "continue": "c"}, "items": items}).encode()
    page = pods.page(body)
    assert (sorted(page.pods), page.version, page.more) == (["nb-0.team-a", "nb-1.team-a"], "9", "c")


def test_events_change_the_named_pods() -> None:
    found = {"nb-0.team-a": Pod("10.1.0.7", ""), "nb-1.team-a": Pod("10.1.0.8", "")}
    pods.apply(event("MODIFIED", pod("nb-0", "10.1.0.9")), found)
    pods.apply(event("DELETED", pod("nb-1", "10.1.0.8")), found)
    pods.apply(event("DELETED", pod("nb-2", "10.1.0.8")), found)
    assert pods.apply(bookmark("77"), found) == "77"
    assert found == {"nb-0.team-a": Pod("10.1.0.9", "")}


def test_an_expired_version_differs_from_other_errors() -> None:
    with pytest.raises(Expired):
        pods.apply(event("ERROR", {"kind": "Status", "code": 410, "message": "too old"}), {})
    with pytest.raises(Unusable, match="ended the watch: 'etcd is away'"):
        pods.apply(event("ERROR", {"kind": "Status", "code": 500, "message": "etcd is away"}), {})


def test_the_number_of_pods_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pods, "MAX_PODS", 2)
    found: Pods = {}
    for number in range(2):
        pods.apply(event("ADDED", pod(f"nb-{number}", "10.1.0.7")), found)
    with pytest.raises(Unusable, match="more than 2 pods have these labels"):
        pods.apply(event("ADDED", pod("nb-2", "10.1.0.7")), found)


PARTS = st.recursive(
    st.none() | st.integers() | st.text() | st.sampled_from(["ADDED", "ERROR", "Running", "127.0.0.1"]),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "object", "metadata", "name", "namespace", "status", "items", "code"]),
            below,
        )
    ),
)


@given(PARTS.map(json.dumps).map(str.encode) | st.binary())
def test_any_other_bytes_are_unusable(data: bytes) -> None:
    found: Pods = {}
    with pytest.raises((Unusable, Expired)):
        pods.apply(data, found)
    assert not found
    with pytest.raises(Unusable):
        pods.page(data)


def test_json_that_is_too_deep_is_unusable() -> None:
    with pytest.raises(Unusable, match="it is not JSON"):
        pods.page(b"[" * 1_000_000)
