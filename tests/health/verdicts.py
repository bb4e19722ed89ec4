"""Certificate chains, and for each whether a Go TLS client (kubectl) accepts it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.health.forge import CLIENT_AUTH, HOUR, SERVER_AUTH, Made, Spec, authority, make

NAME = "kubernetes"
LEAF = Spec(dns=(NAME,))


@dataclass(frozen=True)
class Case:
    """A chain as a server sends it, the client's CA file, the server name that the client verifies, and
    whether a Go client accepts the chain.
    """

    chain: Sequence[Made]
    ca_file: bytes
    good: bool
    name: str = NAME


def plain(good: bool, leaf: Spec = LEAF, ca: Spec | None = None, *, name: str = NAME) -> Case:
    """The server sends one leaf. Its issuer is a root, which is the only trusted CA."""
    root = make(ca or authority("root"))
    return Case([make(leaf, root)], root.pem, good, name)


def deep(good: bool, *middle: Spec, leaf: Spec = LEAF, root: Spec | None = None) -> Case:
    """`middle` are the intermediates, from the root down. The server sends the leaf and the intermediates."""
    top = make(root or authority("root"))
    chain = [top]
    for spec in (*middle, leaf):
        chain.append(make(spec, chain[-1]))
    return Case(chain[:0:-1], top.pem, good)


def _others() -> dict[str, Case]:
    root, other = make(authority("root")), make(authority("root", number=1))
    middle = make(authority("middle", number=2), root)
    leaf = make(LEAF, root)
    below = make(LEAF, middle)
    alone = make(LEAF)
    itself = make(authority("server", dns=(NAME,)))
    renewed = make(authority("root", valid=(-2 * HOUR, 2 * HOUR)))
    expired = make(authority("root", valid=(-2 * HOUR, -HOUR)))
    crossed = make(authority("root", number=1), make(authority("older", number=3)))
    junk = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    headed = root.pem.replace(b"CERTIFICATE-----\n", b"CERTIFICATE-----\nSubject: x\n\n", 1)
    negative = make(authority("root", negative=True))
    return {
        "root": Case([leaf], root.pem, True),
        "root sent too": Case([leaf, root], root.pem, True),
        "intermediate as anchor": Case([below], middle.pem, True),
        "intermediate as anchor, sent too": Case([below, middle], middle.pem, True),
        "intermediate missing": Case([below], root.pem, False),
        "chain out of order": Case([below, root, middle], root.pem, True),
        "chain with unrelated certificates": Case([below, other, alone, middle], root.pem, True),
        "pinned leaf": Case([leaf], leaf.pem, True),
        "pinned leaf of an intermediate": Case([below, middle], below.pem, True),
        "pinned self-signed leaf": Case([alone], alone.pem, True),
        "pinned CA as server": Case([itself], itself.pem, True),
        "pinned leaf, another name": Case([leaf], leaf.pem, False, "other"),
        "pinned expired leaf": plain(False, replace(LEAF, valid=(-2 * HOUR, -HOUR))),
        "self-signed leaf, not in the CA file": Case([alone], root.pem, False),
        "CA as server, not in the CA file": Case([itself], root.pem, False),
        "other CA of the same name": Case([leaf], other.pem, False),
        "both CAs of the same name": Case([leaf], other.pem + root.pem, True),
        "both CAs of the same name, the other way round": Case([leaf], root.pem + other.pem, True),
        "renewed CA of the same key": Case([leaf], renewed.pem, True),
        "expired CA": Case([leaf], expired.pem, False),
        "expired CA and the renewed one": Case([leaf], expired.pem + renewed.pem, True),
        "cross-signed CA": Case([make(LEAF, other), crossed], make(authority("older", number=3)).pem, True),
        "cross-signed CA as anchor": Case([make(LEAF, other)], crossed.pem, True),
        "junk before the CA": Case([leaf], b"text\n" + junk + root.pem, True),
        "CA with headers": Case([leaf], headed, False),
        "CA in a line with spaces": Case([leaf], root.pem.replace(b"\n", b" \r\n"), True),
        "a key beside the CA": Case(
            [leaf], b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n" + root.pem, True
        ),
        "CA with a negative serial number": Case([make(LEAF, negative)], negative.pem, False),
        "CA with a negative serial number and another CA": Case([leaf], negative.pem + root.pem, True),
        "intermediate with a negative serial number": deep(
            False, authority("middle", number=2, negative=True)
        ),
        "unrelated certificate with a negative serial number": Case(
            [leaf, make(replace(LEAF, negative=True))], root.pem, False
        ),
    }


def _names() -> dict[str, Case]:
    def named(good: bool, name: str, *dns: str, ips: tuple[str, ...] = ()) -> Case:
        return plain(good, Spec("server", dns=dns, ips=ips), name=name)

    return {
        "common name alone": plain(False, Spec(NAME), name=NAME),
        "common name beside another": plain(False, Spec(NAME, dns=("other",)), name=NAME),
        "upper case in the name": named(True, "KUBERNETES", NAME),
        "upper case in the certificate": named(True, NAME, "KUBERNETES"),
        "final dot in the name": named(True, "kubernetes.", NAME),
        "final dot in the certificate": named(False, NAME, "kubernetes."),
        "final dot in both": named(True, "kubernetes.", "kubernetes."),
        "two final dots": named(False, "kubernetes..", NAME),
        "underscore": named(True, "my_api.svc", "my_api.svc"),
        "leading hyphen": named(True, "-api.svc", "-api.svc"),
        "leading hyphen, wildcard": named(False, "-api.svc", "*.svc"),
        "leading dot": named(True, ".api.svc", ".api.svc"),
        "empty label": named(True, "a..b", "a..b"),
        "empty label, wildcard": named(False, "a..b", "*..b"),
        "long label": named(True, "x" * 70, "x" * 70),
        "star": named(False, NAME, "*"),
        "star as the name": named(True, "*", "*"),
        "wildcard": named(True, "api.example.com", "*.example.com"),
        "wildcard, one label below": named(False, "a.api.example.com", "*.example.com"),
        "wildcard, the domain itself": named(False, "example.com", "*.example.com"),
        "wildcard of a top-level domain": named(True, "api.local", "*.local"),
        "wildcard in a label": named(False, "api-1.example.com", "api-*.example.com"),
        "wildcard further right": named(False, "api.eu.example.com", "api.*.example.com"),
        "wildcard as the name": named(True, "*.example.com", "*.example.com"),
        "wildcard, final dot": named(True, "api.example.com.", "*.example.com"),
        "address": named(True, "192.0.2.1", ips=("192.0.2.1",)),
        "another address": named(False, "192.0.2.2", ips=("192.0.2.1",)),
        "address as a DNS name": named(False, "192.0.2.1", "192.0.2.1"),
        "address in brackets": named(True, "[192.0.2.1]", ips=("192.0.2.1",)),
        "address with a leading zero": named(False, "192.0.2.01", ips=("192.0.2.1",)),
        "IPv6": named(True, "2001:DB8::1", ips=("2001:db8:0:0::1",)),
        "IPv6 in brackets": named(True, "[2001:db8::1]", ips=("2001:db8::1",)),
        "IPv6 with a zone": named(False, "fe80::1%eth0", ips=("fe80::1",)),
        "IPv6 with a zone in brackets": named(False, "[fe80::1%eth0]", ips=("fe80::1",)),
        "mapped address as the name": named(True, "::ffff:192.0.2.1", ips=("192.0.2.1",)),
        "mapped address in the certificate": named(True, "192.0.2.1", ips=("::ffff:192.0.2.1",)),
        "no name in the certificate": named(False, NAME),
        "one of many names": named(True, "b.example", "a.example", "b.example", ips=("192.0.2.1",)),
        "IDN as it is written": named(False, "bücher.example", "xn--bcher-kva.example"),
        "IDN in ASCII": named(True, "xn--bcher-kva.example", "xn--bcher-kva.example"),
    }


def _authorities() -> dict[str, Case]:
    middle = authority("middle", number=2)
    staple = x509.TLSFeature([x509.TLSFeatureType.status_request])
    email = x509.RFC822Name("a@example.com")
    return {
        "intermediate": deep(True, middle),
        "two intermediates": deep(True, middle, authority("lower", number=3)),
        "intermediate that is no CA": deep(False, replace(middle, ca=False)),
        "intermediate without basic constraints": deep(False, replace(middle, ca=None)),
        "intermediate that may not sign": deep(False, replace(middle, usage=("digital_signature",))),
        "intermediate without key usage": deep(True, replace(middle, usage=None)),
        "root that is no CA": plain(False, ca=replace(authority("root"), ca=False)),
        "root without basic constraints": plain(False, ca=replace(authority("root"), ca=None)),
        "root that may not sign": plain(False, ca=replace(authority("root"), usage=("digital_signature",))),
        "root of version 1": plain(True, ca=Spec("root", version_1=True)),
        "intermediate of version 1": deep(False, Spec("middle", number=2, version_1=True)),
        "leaf of version 1": plain(False, Spec(NAME, version_1=True)),
        "leaf of version 1 with a name": plain(False, replace(LEAF, version_1=True)),
        "intermediate of version 1 that says it is a CA": deep(False, replace(middle, version_1=True)),
        "two algorithms of one signature": plain(False, replace(LEAF, misnamed=True)),
        "path length 0": plain(True, ca=authority("root", path_length=0)),
        "path length 0, with an intermediate": deep(False, middle, root=authority("root", path_length=0)),
        "path length 0 of the intermediate": deep(True, replace(middle, path_length=0)),
        "path length 0 and one below": deep(
            False, replace(middle, path_length=0), authority("lower", number=3)
        ),
        "path length 1 and one below": deep(
            True, replace(middle, path_length=1), authority("lower", number=3)
        ),
        "intermediate expired": deep(False, replace(middle, valid=(-2 * HOUR, -HOUR))),
        "intermediate not yet valid": deep(False, replace(middle, valid=(HOUR, 2 * HOUR))),
        "root not yet valid": plain(False, ca=authority("root", valid=(HOUR, 2 * HOUR))),
        "leaf expired": plain(False, replace(LEAF, valid=(-2 * HOUR, -HOUR))),
        "leaf not yet valid": plain(False, replace(LEAF, valid=(HOUR, 2 * HOUR))),
        "issuer spelled as another kind of string": plain(False, replace(LEAF, printable_issuer=True)),
        "wrong authority key identifier": plain(True, replace(LEAF, authority_id=b"x" * 20)),
        "for clients alone": plain(False, replace(LEAF, extended=(CLIENT_AUTH,))),
        "for servers and clients": plain(True, replace(LEAF, extended=(SERVER_AUTH, CLIENT_AUTH))),
        "for anything": plain(True, replace(LEAF, extended=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,))),
        "for something unknown": plain(False, replace(LEAF, extended=(x509.ObjectIdentifier("1.2.3.4"),))),
        "intermediate for clients alone": deep(False, replace(middle, extended=(CLIENT_AUTH,))),
        "root for clients alone": plain(False, ca=authority("root", extended=(CLIENT_AUTH,))),
        "leaf that may not sign handshakes": plain(True, replace(LEAF, usage=("key_agreement",))),
        "leaf with the usage of a CA": plain(True, replace(LEAF, usage=("key_cert_sign", "crl_sign"))),
        "unknown extension": plain(True, replace(LEAF, more=((_unknown(), False),))),
        "unknown critical extension": plain(False, replace(LEAF, more=((_unknown(), True),))),
        "unknown critical extension of the intermediate": deep(
            False, replace(middle, more=((_unknown(), True),))
        ),
        "unknown critical extension of the root": plain(
            False, ca=authority("root", more=((_unknown(), True),))
        ),
        "must-staple, critical": plain(False, replace(LEAF, more=((staple, True),))),
        "SHA-1": plain(False, replace(LEAF, hash="SHA1")),
        "SHA-1 intermediate": deep(False, replace(middle, hash="SHA1")),
        "SHA-1 root": plain(True, ca=authority("root", hash="SHA1")),
        "SHA-224": plain(False, replace(LEAF, hash="SHA224")),
        "SHA-384": plain(True, replace(LEAF, hash="SHA384")),
        "SHA-512 of an RSA root": plain(True, replace(LEAF, hash="SHA512"), authority("root", key="rsa2048")),
        "RSASSA-PSS": plain(True, replace(LEAF, pss=True), authority("root", key="rsa2048")),
        "RSASSA-PSS, a salt that is too short": plain(
            False, replace(LEAF, pss=True, salt=20), authority("root", key="rsa2048")
        ),
        "RSASSA-PSS, no salt": plain(
            False, replace(LEAF, pss=True, salt=0), authority("root", key="rsa2048")
        ),
        "RSA of 1024 bits": plain(True, replace(LEAF, key="rsa1024")),
        "root of 1024 bits": plain(True, ca=authority("root", key="rsa1024")),
        "root of 1024 bits, intermediate of 2048": deep(
            True, replace(middle, key="rsa2048"), root=authority("root", key="rsa1024")
        ),
        "P-384 and P-521": plain(True, replace(LEAF, key="p384"), authority("root", key="p521")),
        "root on P-224": plain(True, ca=authority("root", key="p224")),
        "root on secp256k1": plain(False, ca=authority("root", key="k256")),
        "Ed25519": plain(True, replace(LEAF, key="ed25519"), authority("root", key="ed25519")),
        "negative serial number": plain(False, replace(LEAF, negative=True)),
        "permitted domain": _constrained(True, permitted=(x509.DNSName("kubernetes"),)),
        "permitted domain, another": _constrained(False, permitted=(x509.DNSName("example.com"),)),
        "permitted domain, below it": _constrained(
            True, ("api.example.com",), permitted=(x509.DNSName("example.com"),)
        ),
        "permitted domain, a name that only ends with the same letters": _constrained(
            False, ("my-example.com",), permitted=(x509.DNSName("example.com"),)
        ),
        "permitted below a dot": _constrained(
            False, ("example.com",), permitted=(x509.DNSName(".example.com"),)
        ),
        "permitted domain, one of two names": _constrained(
            False, (NAME, "evil"), permitted=(x509.DNSName(NAME),)
        ),
        "excluded domain": _constrained(False, excluded=(x509.DNSName(NAME),)),
        "excluded domain, another": _constrained(True, excluded=(x509.DNSName("example.com"),)),
        "permitted network, no address": _constrained(True, permitted=(_network("192.0.2.0/24"),)),
        "permitted network, an address outside": _constrained(
            False, ips=("10.0.0.1",), permitted=(_network("192.0.2.0/24"),)
        ),
        "permitted network, an address inside": _constrained(
            True, ips=("192.0.2.9",), permitted=(_network("192.0.2.0/24"),)
        ),
        "permitted network, IPv6 address": _constrained(
            False, ips=("::1",), permitted=(_network("192.0.2.0/24"),)
        ),
        "excluded network": _constrained(False, ips=("192.0.2.9",), excluded=(_network("192.0.2.0/24"),)),
        "permitted e-mail, none in the certificate": _constrained(True, permitted=(email,)),
        "permitted directory name": _constrained(False, permitted=(x509.DirectoryName(x509.Name([])),)),
        "excluded domain with a final dot": _constrained(False, excluded=(x509.DNSName("kubernetes."),)),
        "excluded domain with a space": _constrained(False, excluded=(x509.DNSName("ex ample"),)),
        "excluded dot": _constrained(False, excluded=(x509.DNSName("."),)),
        "excluded address without a mask": plain(
            False, ca=authority("root", more=((_raw("2.5.29.30", _NO_MASK), True),))
        ),
        "permitted domain, another name is malformed": _constrained(
            False, ("a.example.com", "a..example.com"), permitted=(x509.DNSName("example.com"),)
        ),
        "excluded domain, a name with a final dot": _constrained(
            False, ("a.example.com", "b.example.com."), excluded=(x509.DNSName("b.example.com"),)
        ),
        "an address of 8 bytes": plain(
            False, Spec(more=((_raw("2.5.29.17", _NAMED + b"\x87\x08" + bytes(8)), False),))
        ),
        "a name in UTF-8": plain(
            False, Spec(more=((_raw("2.5.29.17", _NAMED + b"\x82\x03\xc3\xa9."), False),))
        ),
        "a URI of no host": plain(
            False, Spec(more=((_raw("2.5.29.17", _NAMED + b"\x86\x0ahttp://a.."), False),))
        ),
        "constraints of the intermediate": deep(
            False, replace(middle, permitted=(x509.DNSName("example.com"),))
        ),
    }


def _constrained(
    good: bool,
    dns: tuple[str, ...] = (NAME,),
    ips: tuple[str, ...] = (),
    **constraints: tuple[x509.GeneralName, ...],
) -> Case:
    root = authority("root", **constraints)
    return plain(good, Spec(dns=dns, ips=ips), root, name=dns[0])


def _network(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_network(text))


_NAMED = b"\x82\x0a" + NAME.encode()
_NO_MASK = bytes.fromhex("a1083006870410000001")
"""An excluded subtree (RFC 5280 4.2.1.10) of 4 bytes: the address 10.0.0.1 without the mask that belongs to
it.
"""


def _raw(oid: str, contents: bytes) -> x509.UnrecognizedExtension:
    """An extension with malformed contents, which the cryptography package refuses to write."""
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), b"\x30" + bytes([len(contents)]) + contents)


def _unknown() -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")


CASES = {**_others(), **_names(), **_authorities()}
