"""Verification of a server's host key or certificate against known_hosts, compared with ssh(1), and the
messages.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import asyncssh
import pytest
from asyncssh.packet import MPInt, String
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.model import GatewayConfig
from proxy.errors import HostKeyChanged, HostKeyRevoked, HostKeyUnknown, LinkError, RetryClass
from proxy.ssh.login.prepared import Prepared
from proxy.ssh.login.trust import Known, Trusted, fingerprint
from proxy.ssh.login.verify import Server, scan, verify

KEY, OTHER, CA = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(3))
SCAN = "ssh-keyscan -p 2222 edge >> /etc/kh"
FILE = Path("/etc/kh")


def known(key: asyncssh.SSHKey, line: int = 7, name: str = "[edge]:2222", *, is_simple: bool = True) -> Known:
    return Known(key.convert_to_public(), FILE, line, name, is_simple)


def judged(trusted: Trusted, shown: bytes) -> LinkError | None:
    try:
        verify(Server("edge:2222", SCAN, trusted, trusted.algorithms()), shown)
    except LinkError as exc:
        return exc
    return None


def certificate(
    key: asyncssh.SSHKey = KEY,
    ca: asyncssh.SSHKey = CA,
    *,
    principals: tuple[str, ...] = ("edge",),
    end: str = "+1h",
) -> bytes:
    return ca.generate_host_certificate(
        key, "id", principals=principals, valid_after=0, valid_before=end
    ).public_data


PLAIN = KEY.public_data
AT = "(/etc/kh:7)"


NO_KEYS = [
    String("ssh-rsa") + MPInt(-3) + MPInt(-5),
    String("ssh-rsa") + MPInt(0) + MPInt(5),
    String("ssh-ed25519") + String(b"x"),
    String("ecdsa-sha2-nistp256") + String("nistp256") + String(b"\4" + bytes(64)),
    String("ecdsa-sha2-nistp256") + String(b"\xff") + String(b""),
    String("sk-ssh-ed25519@openssh.com") + String(bytes(32)) + String(b"\xff"),
    String("ssh-dss") + MPInt(0) * 4,
]
"""The cryptography package raises a different exception for each of these."""


def signed(principal: str = "edge", *, keys: Sequence[Known] = (), revoked: Sequence[Known] = ()) -> Trusted:
    return Trusted(principal=principal, authorities=[known(CA)], keys=keys, revoked=revoked)


@pytest.mark.parametrize(
    ("trusted", "shown"),
    [
        (Trusted(keys=[known(OTHER), known(KEY)]), PLAIN),
        (signed(), certificate()),
        (signed("edge.example"), certificate(principals=("edge", "edge.example"))),
        (signed(), certificate(principals=())),
        (signed("other", keys=[known(KEY)]), certificate()),
        (Trusted(authorities=[known(OTHER)], keys=[known(KEY)]), certificate()),
    ],
    ids=[
        "key",
        "authority",
        "one of its principals",
        "any principal",
        "its key is known, too",
        "its key is, its authority is not",
    ],
)
def test_a_trusted_server_is_accepted(trusted: Trusted, shown: bytes) -> None:
    assert judged(trusted, shown) is None


@pytest.mark.parametrize(
    ("trusted", "shown", "kind", "says"),
    [
        (
            Trusted(names=["[edge]:2222", "edge"], files=[FILE]),
            PLAIN,
            HostKeyUnknown,
            [f"{FILE} has no key for [edge]:2222 or edge"],
        ),
        (Trusted(unread=["/home/kh may not be read"]), PLAIN, HostKeyUnknown, ["; /home/kh may not be read"]),
        (Trusted(keys=[known(OTHER)]), PLAIN, HostKeyChanged, [f"{fingerprint(OTHER)} {AT}"]),
        (Trusted(authorities=[known(CA)]), PLAIN, HostKeyUnknown, [f"only CA {fingerprint(CA)} {AT}"]),
        (
            Trusted(authorities=[known(OTHER)]),
            certificate(),
            HostKeyChanged,
            [fingerprint(CA), f"{fingerprint(OTHER)} {AT}"],
        ),
        (Trusted(keys=[known(OTHER)]), certificate(), HostKeyUnknown, [fingerprint(CA), "no authority"]),
        (signed(), certificate(end="1s"), HostKeyChanged, ["Certificate expired"]),
        (
            signed("edg"),
            certificate(),
            HostKeyChanged,
            ["principal mismatch: it is for edge"],
        ),
        (
            signed("edge.example"),
            certificate(principals=("*.example", "*")),
            HostKeyChanged,
            ["principal mismatch: it is for *.example, *"],
        ),
        (
            Trusted(keys=[known(KEY)], revoked=[known(KEY)]),
            PLAIN,
            HostKeyRevoked,
            [f"{fingerprint(KEY)} {AT}"],
        ),
        (
            signed(revoked=[known(KEY)]),
            certificate(),
            HostKeyRevoked,
            [fingerprint(KEY)],
        ),
        (
            signed(revoked=[known(CA)]),
            certificate(),
            HostKeyRevoked,
            [fingerprint(CA)],
        ),
        (Trusted(keys=[known(KEY)]), b"\0\0\0\x04what", HostKeyChanged, ["not valid (what)"]),
        (Trusted(keys=[known(KEY)]), b"", HostKeyChanged, ["not valid ()"]),
        (signed(), certificate()[:-1] + b"x", HostKeyChanged, ["not valid"]),
        *((Trusted(keys=[known(KEY)]), blob, HostKeyChanged, ["not valid ("]) for blob in NO_KEYS),
    ],
    ids=map(str, itertools.count()),  # each worker makes its own keys
)
def test_an_untrusted_server_is_refused_with_a_message(
    trusted: Trusted, shown: bytes, kind: type[LinkError], says: list[str]
) -> None:
    found = judged(trusted, shown)
    assert type(found) is kind
    assert found.retry is RetryClass.SLOW
    assert str(found).startswith("edge:2222 shows ")
    assert found.hint
    for text in says:
        assert text in str(found)


def test_the_remedy_is_a_command() -> None:
    unknown = judged(Trusted(), PLAIN)
    assert unknown
    assert SCAN in unknown.hint
    changed = judged(Trusted(keys=[known(OTHER, 7), known(CA, 8), known(CA, 9, "*", is_simple=False)]), PLAIN)
    assert changed
    assert (
        "remove the old key and add the new one: ssh-keygen -f /etc/kh -R '[edge]:2222'; "
        f"change /etc/kh:9, which is about other servers, too; {SCAN}. "
    ) in changed.hint


@given(
    st.lists(st.sampled_from(["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp521"]), max_size=3),
    st.booleans(),
)
def test_algorithms_of_known_keys_come_first_and_weak_ones_are_not_offered(
    kinds: list[str], has_authority: bool
) -> None:
    keys = [known(asyncssh.generate_private_key(kind)) for kind in kinds]
    algorithms = Trusted(keys=keys, authorities=[known(CA)] if has_authority else []).algorithms()
    assert len(algorithms) == len(set(algorithms))
    certificates = [name for name in algorithms if "cert" in name]
    assert algorithms[: len(certificates)] == certificates
    assert bool(certificates) == has_authority
    plain = algorithms[len(certificates) :]
    assert plain[: len(set(kinds))] == list(dict.fromkeys(kinds))
    assert set(plain) == set(Trusted().algorithms()), (
        "the server can still show a changed key of another type, so the error is not about algorithms"
    )
    assert not [name for name in algorithms if name.startswith(("ssh-rsa", "ssh-dss"))]


def test_only_the_wanted_algorithms_are_offered() -> None:
    rsa = asyncssh.generate_private_key("ssh-rsa", key_size=1024)
    wanted = ["ssh-ed25519", "ssh-rsa-cert-v01@openssh.com", "ssh-rsa"]
    assert Trusted(keys=[known(rsa)]).algorithms(wanted) == ["ssh-rsa", "ssh-ed25519"]
    assert Trusted(authorities=[known(CA)]).algorithms(wanted) == [
        "ssh-rsa-cert-v01@openssh.com",
        "ssh-ed25519",
        "ssh-rsa",
    ]


def test_a_signature_with_sha1_counts_only_if_it_was_asked_for() -> None:
    rsa = asyncssh.generate_private_key("ssh-rsa", key_size=1024)
    trusted = Trusted(keys=[known(rsa)])
    signature = rsa.sign(b"exchange", b"ssh-rsa")
    for algorithms, is_taken in ((trusted.algorithms(), False), (["ssh-rsa"], True)):
        key = verify(Server("edge:22", SCAN, trusted, algorithms), rsa.public_data)
        assert key.verify(b"exchange", signature) is is_taken
        assert key.verify(b"exchange", rsa.sign(b"exchange", b"rsa-sha2-256")) is not is_taken


@pytest.mark.parametrize(
    ("more", "hop", "proxy_command", "command"),
    [
        ({}, None, None, "ssh-keyscan -p 2222 edge >> '/etc/known hosts'"),
        (
            {"host_key_alias": "b"},
            None,
            None,
            "ssh-keyscan -p 2222 edge | sed 's/^[^ ]*/b/' >> '/etc/known hosts'",
        ),
        ({}, ("bastion", 22), None, "ssh -p 22 me@bastion 'ssh-keyscan -p 2222 edge' >> '/etc/known hosts'"),
        ({}, None, "nc edge 22", "ssh -F /etc/ssh_config -o UserKnownHostsFile='/etc/known hosts' alias"),
    ],
    ids=["directly", "by an alias", "through a jump host", "through a ProxyCommand"],
)
def test_the_command_reaches_the_server_as_the_gateway_does(
    more: dict[str, str], hop: tuple[str, int] | None, proxy_command: str | None, command: str
) -> None:
    def options(host: str, port: int, **more: str) -> asyncssh.SSHClientConnectionOptions:
        return asyncssh.SSHClientConnectionOptions(
            host=host, port=port, username="me", config=None, client_keys=None, **more
        )

    prepared = Prepared(
        options("edge", 2222, **more),
        Trusted(files=[Path("/etc/known hosts")]),
        (),
        proxy_command=proxy_command,
    )
    config = GatewayConfig(host="alias", ssh_config=Path("/etc/ssh_config"))
    assert scan(config, prepared, options(*hop) if hop else None) == command
