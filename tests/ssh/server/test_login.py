"""The decision whose a key is, without a connection."""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.key_table import Grant, Lines, Table, Who, table
from proxy.errors.reasons import Reason
from proxy.openssh import blobs
from proxy.openssh.authorized_keys import Options, read_options
from proxy.openssh.certificates import Certificate
from proxy.runtime.endpoint import Endpoint
from proxy.ssh.server.login import Login, Refused, decide
from tests.support import ssh_keys

HERE: Final = Endpoint("192.0.2.7", 50000)
NOW: Final = 1_800_000_000.0
OPS, SRE, EDGE = Who("user", "ops"), Who("user", "sre"), Who("site", "edge")


def grant(who: Who, options: str = "", line: int = 1) -> Grant:
    return Grant(who, read_options(options), Path("/keys"), line)


def key(number: int) -> bytes:
    """An Ed25519 public key."""
    return b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + number.to_bytes(32)


def of(*keys: tuple[bytes, Grant]) -> Table:
    return table([Lines(keys)])[0]


def asked(known: Table, blob: bytes, name: str = "x", address: Endpoint = HERE, now: float = NOW) -> Login:
    return decide(known, blob, asked=name, address=address, now=now)


def refused(known: Table, blob: bytes, name: str = "x", address: Endpoint = HERE, now: float = NOW) -> Reason:
    with pytest.raises(Refused) as caught:
        asked(known, blob, name, address, now)
    return caught.value.reason


def test_a_key_is_found_and_others_are_not() -> None:
    known = of((key(1), grant(OPS)), (key(2), grant(EDGE)))
    assert [asked(known, key(number)).identity for number in (1, 2)] == ["ssh-user:ops", "site:edge"]
    assert refused(known, key(3)) == Reason.UNKNOWN_KEY


def test_revoked_keys_are_refused(certified: tuple[Table, dict[str, bytes]]) -> None:
    known = replace(of((key(1), grant(OPS)), (key(2), grant(EDGE))), revoked=frozenset({key(2)}))
    assert asked(known, key(1)).who == OPS
    assert refused(known, key(2)) == Reason.KEY_REVOKED
    signed, made = certified
    certificate = Certificate.parse(made["good"])
    for revoked in (certificate.key, certificate.authority, made["good"]):
        assert refused(replace(signed, revoked=frozenset({revoked})), made["good"]) == Reason.KEY_REVOKED


def test_the_user_name_must_be_that_of_the_key_or_unknown() -> None:
    known = of((key(1), grant(OPS)), (key(2), grant(EDGE)))
    assert asked(known, key(1), "ops").asked == "ops"
    assert asked(known, key(1), "nobody").who == OPS
    assert refused(known, key(1), "edge") == Reason.OTHER_NAME


def test_a_user_and_a_site_may_have_one_name() -> None:
    known = of((key(1), grant(OPS)), (key(2), grant(Who("site", "ops"))))
    assert asked(known, key(2), "ops").identity == "site:ops"


def test_the_expiry_and_the_source_of_a_key_are_checked() -> None:
    known = of((key(1), grant(OPS, 'from="192.0.2.0/24,!192.0.2.9",expiry-time="20270601Z"')))
    assert asked(known, key(1)).expires == 1_811_808_000.0
    assert refused(known, key(1), address=Endpoint("192.0.2.9", 1)) == Reason.KEY_SOURCE
    assert refused(known, key(1), address=Endpoint("2001:db8::1%eth0", 1)) == Reason.KEY_SOURCE
    assert refused(known, key(1), now=1_811_808_000.0) == Reason.KEY_EXPIRED


def test_options_limit_channels_and_forwards() -> None:
    known = of(
        (key(1), grant(OPS, 'permitopen="*.nb:22",permitopen="[::1]:*",permitlisten="factory-*:1080"'))
    )
    login = asked(known, key(1))
    may = [Endpoint("a.NB", 22), Endpoint("::1", 5)]
    may_not = [Endpoint("a.nb", 23), Endpoint("nb", 22), Endpoint("127.0.0.1", 22)]
    assert [login.may_open(target) for target in (*may, *may_not)] == [True, True, False, False, False]
    assert login.may_listen("Factory-7", 1080)
    assert not login.may_listen("factory-7", 1081)
    nothing = asked(of((key(1), grant(OPS, 'restrict,permitopen="a:1"'))), key(1))
    assert not nothing.may_open(Endpoint("a", 1))
    assert not nothing.may_listen("a", 1)


def test_a_key_of_two_identities_is_refused_in_either_order() -> None:
    one, other = (key(1), grant(OPS)), (key(1), grant(EDGE))
    for pair in ((one, other), (other, one)):
        assert refused(of(*pair), key(1)) == Reason.KEY_OPTION
    assert refused(of(one, other, one), key(1)) == Reason.KEY_OPTION


def test_a_key_that_is_another_identitys_ca_is_refused(
    certified: tuple[Table, dict[str, bytes]],
) -> None:
    made = certified[1]["good"]
    authority = Certificate.parse(made).authority
    for who in (OPS, SRE):
        lines = Lines(((authority, grant(who)),), ((authority, "sre", grant(SRE, line=2)),))
        known, twice = table([lines])
        if who == SRE:  # it has both
            assert (asked(known, authority).who, asked(known, made).who, twice) == (SRE, SRE, ())
        else:
            assert [refused(known, blob) for blob in (authority, made)] == [Reason.KEY_OPTION] * 2
            assert twice == ((grant(OPS), grant(SRE, line=2)),)


def test_a_certificate_needs_a_touch_unless_line_and_extension_waive_it() -> None:
    """As with sshd, `no-touch-required` of the line alone is not enough."""
    for extension, needs_touch in ((b"permit-pty", True), (b"no-touch-required", False)):
        known, made = _made("no-touch-required", extension)
        assert asked(known, made).options.needs_touch is needs_touch


def test_a_key_in_two_lines_is_accepted_only_if_their_options_agree() -> None:
    assert asked(of((key(1), grant(OPS)), (key(1), grant(OPS, line=2))), key(1)).who == OPS
    assert refused(of((key(1), grant(OPS)), (key(1), grant(OPS, "restrict", 2))), key(1)) == Reason.KEY_OPTION


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, dict[str, bytes]]:
    """A CA of two identities, and its certificates."""
    folder = tmp_path_factory.mktemp("keys")
    ca, one = (ssh_keys.new_key(folder / name) for name in ("ca", "one"))
    made = {}
    for name, how in {
        "good": {"principals": "sre", "validity": "always:forever"},
        "host": {"principals": "sre", "host": True},
        "both": {"principals": "sre,edge"},
    }.items():
        text = ssh_keys.sign(one, ca=ca, **how).read_text()  # type: ignore[arg-type]  # as given
        made[name] = base64.b64decode(text.split()[1])
    authority = base64.b64decode(ssh_keys.public(ca).split()[1])
    return table([Lines((), ((authority, "sre", grant(SRE)), (authority, "edge", grant(EDGE))))])[0], made


def test_only_a_user_certificate_of_one_identity_is_accepted(
    certified: tuple[Table, dict[str, bytes]],
) -> None:
    known, made = certified
    login = asked(known, made["good"])
    assert (login.who, login.expires) == (SRE, None)
    assert refused(known, made["host"]) == Reason.CERTIFICATE
    assert refused(known, made["both"]) == Reason.CERTIFICATE
    assert refused(Table(), made["good"]) == Reason.UNKNOWN_KEY


@given(st.data())
def test_a_certificate_that_is_damaged_is_refused(data: st.DataObject) -> None:
    """If it can still be parsed, its signature is wrong, which is checked later."""
    known, made = data.draw(st.shared(st.builds(_made), key="made"))
    blob = bytearray(made)
    cut = data.draw(st.integers(0, len(blob)))
    for _ in range(data.draw(st.integers(0, 3))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    for damaged in (bytes(blob[:cut]), bytes(blob), bytes(blob) + b"x"):
        with suppress(Refused):
            assert asked(known, damaged).who == SRE


def _made(line: str = "", extension: bytes = b"permit-pty") -> tuple[Table, bytes]:
    """A certificate with a signature that is not valid."""

    def text(value: bytes) -> bytes:
        return len(value).to_bytes(4) + value

    options = text(b"source-address") + text(text(b"192.0.2.0/24"))
    extensions = (extension, b"", b"permit-port-forwarding", b"")
    blob = (
        text(b"ssh-ed25519-cert-v01@openssh.com") + text(b"nonce") + text(bytes(32)) + bytes(8)
        + b"\0\0\0\x01" + text(b"id") + text(text(b"sre")) + bytes(8) + b"\xff" * 8 + text(options)
        + text(b"".join(map(text, extensions))) + text(b"") + text(key(9))
        + text(text(b"ssh-ed25519") + text(bytes(64)))
    )  # fmt: skip
    known = table([Lines((), ((key(9), "sre", grant(SRE, line)),))])[0]
    assert asked(known, blob).who == SRE
    return known, blob


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_message(blob: bytes) -> None:
    assert refused(of((key(1), grant(OPS))), blob) in {Reason.UNKNOWN_KEY, Reason.CERTIFICATE}


def test_a_fingerprint_is_the_same_as_openssh_prints(tmp_path: Path) -> None:
    made = ssh_keys.new_key(tmp_path / "key")
    blob = base64.b64decode(ssh_keys.public(made).split()[1])
    assert blobs.fingerprint(blob) == ssh_keys.fingerprint(made)
    assert Options() == read_options("")
