"""Properties of both parsers, for a head in any pieces and for any other bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.entries.heads import answers
from proxy.errors.reasons import Reason
from proxy.errors.words import Subject
from tests.entries.heads import test_http_connect, test_socks5
from tests.fuzz import heads
from tests.support import pages

RECORDED = [head for head, _ in test_http_connect.RECORDED.values()]
RECORDED += [b"".join(messages) for messages, _ in test_socks5.RECORDED.values()]


@given(st.sampled_from(RECORDED), st.binary(max_size=40), st.lists(st.integers(0, 200), max_size=8))
def test_any_split_of_a_head_gives_the_same_result(head: bytes, early: bytes, cuts: list[int]) -> None:
    data = head + early
    *said, end = heads.told([data], needs_user=False)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[first:last] for first, last in pairwise(edges)]
    *others, other = heads.told(pieces, needs_user=False)
    # The caller holds the bytes after the head, not the parser.
    assert (said, end) == (others, other)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_code_of_each_protocol(reason: Reason) -> None:
    status, reply, failure = answers.codes(reason)
    assert status in range(400, 600)
    assert reply in range(1, 9)
    assert failure in range(1, 5)


ENDS = {"client_closed", "client_reset", "cluster_closed", "cluster_reset", "idle", "tls_handshake"}
"""Reasons for connections that already got their answer, or cannot get one."""


def test_every_reason_of_a_refusal_has_codes() -> None:
    left = {
        reason
        for reason in Reason
        if Subject.CLIENT in reason.subjects and Subject.GATEWAY not in reason.subjects
    }
    assert left - answers._CODES.keys() == ENDS


@pytest.mark.parametrize(
    ("reason", "status", "reply", "failure"),
    [
        ("bad_request", 400, 1, 2),
        ("denied", 403, 2, 1),
        ("unknown_name", 404, 4, 1),
        ("unsupported", 405, 7, 1),
        ("auth_required", 407, 2, 1),
        ("head_timeout", 408, 1, 2),
        ("internal", 500, 1, 2),
        ("channel_refused", 502, 5, 2),
        ("channel_prohibited", 502, 2, 1),
        ("channel_failed", 502, 1, 2),
        ("link_down", 503, 3, 2),
        ("auth_failed", 503, 3, 2),
        ("link_lost", 503, 3, 2),
        ("unresolvable", 502, 4, 2),
        ("memory", 503, 1, 4),
        ("limit", 503, 1, 4),
        ("cluster_limit", 503, 1, 4),
        ("drained", 503, 1, 2),
        ("shutdown", 503, 1, 2),
        ("timeout", 504, 6, 2),
        ("connect_timeout", 504, 6, 2),
    ],
)
def test_the_codes_of_the_reasons_never_change(reason: str, status: int, reply: int, failure: int) -> None:
    assert answers.codes(Reason(reason)) == (status, reply, failure)


def test_the_codes_on_the_page_are_right() -> None:
    told = [row[1:] for row in pages.rows("docs/entries.md", "what is wrong")]
    assert told
    for reason, status, reply in told:
        assert answers.codes(Reason(reason.strip("`")))[:2] == (int(status), int(reply)), reason
