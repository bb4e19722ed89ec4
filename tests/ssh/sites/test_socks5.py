"""The request to a site's SOCKS5 server, and its replies, in pieces of any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.entries.heads.head import Asked, Reply
from proxy.entries.heads.socks5 import Socks5
from proxy.errors import ChannelError, ChannelRefused
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.sites.socks5 import UNSUPPORTED_METHOD, ConnectReply, MethodReply, connect_request

TARGET = Endpoint("node-a", 22)
WELL = b"\5\0" + b"\5\0\0\1" + bytes(4) + b"\0\x16"

targets = st.builds(
    Endpoint,
    st.one_of(
        st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{1,9})?", fullmatch=True),
        st.ip_addresses().map(str),
    ),
    st.integers(1, 65535),
)


@given(targets)
def test_a_socks5_server_understands_the_request(target: Endpoint) -> None:
    server = Socks5(needs_user=False)
    assert server.feed(connect_request(target)) == Reply(b"\5\0")
    asked = server.feed(b"")
    assert isinstance(asked, Asked)
    assert asked.target == target


@given(
    st.sampled_from([WELL, b"\5\0\5\0\0\4" + bytes(18), b"\5\0\5\0\0\3\4name\0\1"]),
    st.binary(max_size=20),
    st.data(),
)
def test_bytes_after_the_reply_belong_to_the_target(answer: bytes, early: bytes, data: st.DataObject) -> None:
    whole = answer + early
    cuts = sorted(data.draw(st.sets(st.integers(1, len(answer) - 1))))
    one, unread = ConnectReply("factory-7", TARGET), None
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        assert unread is None
        unread = one.feed(whole[start:end])
    assert unread == early


def test_a_refusal_says_why() -> None:
    with pytest.raises(ChannelRefused, match="factory-7 could not connect to node-a:22: connection refused"):
        ConnectReply("factory-7", TARGET).feed(b"\5\0\5\5\0\1" + bytes(6))
    assert "PermitRemoteOpen" in str(ConnectReply("factory-7", TARGET).closed())


@pytest.mark.parametrize("said", [b"HTTP", b"\5\xff", b"\4\x5a", b"\5\0\4", b"\5\0\5\0\0\2\0"])
def test_a_malformed_reply_ends_the_attempt(said: bytes) -> None:
    with pytest.raises(ChannelError, match="factory-7 gave an answer that is"):
        ConnectReply("factory-7", TARGET).feed(said)


def test_a_name_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(ChannelError, match="300 bytes is too long"):
        connect_request(Endpoint("a" * 300, 22))


@pytest.mark.parametrize("pieces", [[b"\5\xff"], [b"\5", b"\xff"]])
def test_a_socks5_server_declines_an_unknown_method(pieces: list[bytes]) -> None:
    assert len(UNSUPPORTED_METHOD) >= 3, "OpenSSH reads no less"
    one = MethodReply("factory-7")
    assert [one.feed(piece) for piece in pieces][-1] == b""


def test_a_server_that_does_not_decline_is_no_socks5_server() -> None:
    with pytest.raises(ChannelError, match="factory-7 gave an answer that is not SOCKS5: 53 53"):
        MethodReply("factory-7").feed(b"SSH-2.0-OpenSSH")
