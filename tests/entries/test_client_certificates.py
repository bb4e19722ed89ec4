"""The identities of a client certificate."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from proxy.entries.client_certificates import identities_of
from tests.support.tls import Authority, Issued

NAMES: Final = (
    x509.UniformResourceIdentifier("spiffe://example.com/ns/argo"),
    x509.RFC822Name("Ops@example.com"),
    x509.RegisteredID(x509.ObjectIdentifier("1.2.3.4")),
    x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])),
)


def shown_to_a_server(client: Issued, ca: Path, *, verify: ssl.VerifyMode) -> Mapping[str, object]:
    """Do a TLS handshake in memory. Returns the client's certificate as the server sees it."""
    theirs = ssl.create_default_context(cafile=ca)
    theirs.load_cert_chain(client.cert, client.key)
    theirs.check_hostname = False
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    ours.load_cert_chain(client.cert, client.key)
    ours.verify_mode = verify
    to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = ours.wrap_bio(to_us, to_them, server_side=True), theirs.wrap_bio(to_them, to_us)
    done: set[int] = set()
    for turn in range(20):
        try:
            ends[turn % 2].do_handshake()
        except ssl.SSLWantReadError:
            continue
        done.add(turn % 2)
        if len(done) == 2:
            return ends[0].getpeercert() or {}
    raise AssertionError("no handshake")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> tuple[Issued, Path]:
    authority = Authority(tmp_path_factory.mktemp("ca"))
    issued = authority.issue(
        "uid:0", dns=("CI.example.com", "*.example.com"), ips=("10.0.0.9", "fd00::9"), others=NAMES
    )
    return issued, authority.ca.cert


def test_the_names_of_a_verified_certificate(client: tuple[Issued, Path]) -> None:
    certificate = shown_to_a_server(*client, verify=ssl.CERT_REQUIRED)
    assert identities_of(certificate) == {
        "cert:ci.example.com",
        "cert:10.0.0.9",
        "cert:fd00::9",
        "cert:spiffe://example.com/ns/argo",
        "cert:Ops@example.com",
    }


def test_a_certificate_that_was_not_verified_has_no_names(client: tuple[Issued, Path]) -> None:
    assert identities_of(shown_to_a_server(*client, verify=ssl.CERT_NONE)) == frozenset()
    assert identities_of(None) == frozenset()
    assert identities_of({}) == frozenset()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("DNS", "10.0.0.9"),
        ("DNS", "fd00::9"),
        ("DNS", "ops@example.com"),
        ("DNS", "spiffe://example.com/ns/argo"),
        ("DNS", "*"),
        ("DNS", ""),
        ("DNS", "ci.example.com\0.evil.example"),
        ("DNS", "ci.example.com\n"),
        ("DNS", "ci example"),
        ("DNS", "bücher.example"),
        ("URI", "ci.example.com"),
        ("URI", "fd00::9"),
        ("URI", "spiffe://example.com/a b"),
        ("email", "ci.example.com"),
        ("email", "spiffe://a@example.com"),
        ("email", "a@b@example.com"),
        ("IP Address", "<invalid>"),
        ("IP Address", "10.0.0"),
        ("Registered ID", "1.2.3.4"),
        ("othername", "<unsupported>"),
        ("DirName", "ci.example.com"),
    ],
)
def test_a_name_that_looks_like_another_kind_does_not_count(kind: str, name: str) -> None:
    assert identities_of({"subjectAltName": ((kind, name),)}) == frozenset()


def test_addresses_have_one_form() -> None:
    """OpenSSL returns the longest form."""
    names = (("IP Address", "FD00:0:0:0:0:0:0:9"), ("IP Address", "10.0.0.9"))
    assert identities_of({"subjectAltName": names}) == {"cert:fd00::9", "cert:10.0.0.9"}


@given(
    st.sampled_from(["DNS", "URI", "email", "IP Address"]),
    st.sampled_from(["DNS", "URI", "email", "IP Address"]),
    st.text(max_size=20)
    | st.ip_addresses().map(str)
    | st.text("ab1:.@/*-", max_size=12)
    | st.sampled_from(["a:b", "1::2", "ops@example.com", "ci.example.com"]),
)
def test_no_name_counts_as_two_kinds(first: str, second: str, name: str) -> None:
    found = [identities_of({"subjectAltName": ((kind, name),)}) for kind in (first, second)]
    assert first == second or not (found[0] and found[1])
    for identity in found[0]:
        assert identity.startswith("cert:")
        assert identity.isprintable()
        if first == "IP Address":
            assert ip_address(identity.removeprefix("cert:")) == ip_address(name)
