"""A ProxyJump of ssh_config, as the gateway of each hop."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.config.model import GatewayConfig
from proxy.ssh.login.jumps import proxy_jump

hosts = st.sampled_from(["jump", "jump.example.com", "192.0.2.7"])


@given(
    host=hosts,
    user=st.sampled_from(["", "tunnel", "a@b"]),
    port=st.none() | st.integers(1, 65535),
    uri=st.booleans(),
)
def test_a_proxyjump_hop_is_parsed(host: str, user: str, port: int | None, uri: bool) -> None:
    text = f"{'ssh://' if uri else ''}{user}{'@' if user else ''}{host}{f':{port}' if port else ''}"
    hop = proxy_jump(GatewayConfig(host="edge", port=1, user="me", jump=("other",)), f" {text} ")
    assert (hop.host, hop.port, hop.user, hop.jump) == (host, port, user or None, ())


def test_a_proxyjump_hop_with_an_ipv6_address_is_parsed() -> None:
    hop = proxy_jump(GatewayConfig(host="edge"), "me@[2001:db8::7]:2222")
    assert (hop.host, hop.port, hop.user) == ("2001:db8::7", 2222, "me")
    assert proxy_jump(GatewayConfig(host="edge"), "[2001:db8::7]").host == "2001:db8::7"
