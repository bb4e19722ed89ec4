"""Limits on the work for a hostile server's certificates; and the server sees no credential before it is
verified.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509

from proxy.health.anchors import Anchors, Certificate
from proxy.health.chain import MAX_CHECKS, verify
from proxy.health.chain_rules import Refused
from proxy.health.name_constraints import MAX_COMPARISONS
from proxy.health.probe import probe
from proxy.health.result import Result
from proxy.health.tls import Contexts
from proxy.runtime.endpoint import Endpoint
from tests.health.forge import Made, Spec, authority, make
from tests.health.scripted import Dialer, Pki, cluster, server_context
from tests.health.verdicts import LEAF, NAME


def complaint(sent: list[Made], trusted: Made) -> Refused:
    with pytest.raises(Refused) as caught:
        verify([one.der for one in sent], Anchors([trusted.certificate]), NAME, datetime.now(UTC))
    return caught.value


def test_authorities_that_could_all_have_signed_each_other_are_not_all_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten CAs with the same name and key and different certificates: there are 10! chains through them."""
    top = make(authority("middle"))
    ring = [make(authority("middle", dns=(f"{number}.example",)), top) for number in range(10)]
    checked = 0
    original = Certificate.has_signed

    def counted(self: Certificate, child: Certificate) -> bool:
        nonlocal checked
        checked += 1
        return original(self, child)

    monkeypatch.setattr(Certificate, "has_signed", counted)
    refused = complaint([make(LEAF, top), *ring], make(authority("another")))
    assert (refused.result, checked) == (Result.TLS_UNTRUSTED, MAX_CHECKS)


def test_the_comparisons_of_names_with_constraints_are_limited() -> None:
    """CVE-2025-58187 in Go's crypto/x509: one certificate took more than a second of CPU."""
    constraints = tuple(x509.DNSName(f"{number}.example") for number in range(400))
    root = make(authority("root", excluded=constraints))
    leaf = make(replace(LEAF, dns=(NAME, *(f"{number}.test" for number in range(400)))), root)
    started = time.process_time()
    refused = complaint([leaf], root)
    assert time.process_time() - started < 1
    assert f"more than {MAX_COMPARISONS} names" in str(refused)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (make(Spec(dns=(NAME,)), make(authority("stranger"))), "is signed by CN=stranger, not found there"),
        (
            make(LEAF, make(authority("root", number=1))),
            "is signed by CN=root, which is there with another key than the one",
        ),
    ],
)
def test_the_issuer_is_named(sent: Made, words: str) -> None:
    assert words in str(complaint([sent], make(authority("root"))))


def test_an_intermediate_that_is_not_sent_is_named() -> None:
    root = make(authority("root"))
    lower = make(authority("lower", number=3), make(authority("middle", number=2), root))
    assert str(complaint([make(LEAF, lower), lower], root)) == "leads to CN=middle, not found there"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_is_not_trusted_sees_no_client_certificate(
    pki: Pki, version: ssl.TLSVersion
) -> None:
    shown: list[object] = []
    tls = server_context(pki.foreign, client_ca=pki.authority.ca.cert)
    tls.verify_mode = ssl.CERT_OPTIONAL
    tls.minimum_version = tls.maximum_version = version

    def serve(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(60)
            with tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False) as server:
                with suppress(OSError):
                    server.do_handshake()
                shown.extend(getattr(server, "_sslobj").get_unverified_chain() or ())  # noqa: B009

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        endpoint = Endpoint(*listener.getsockname())
        ours = {"client_cert": str(pki.client.cert), "client_key": str(pki.client.key)}
        outcome, _ = await asyncio.gather(
            probe("prod", cluster(endpoint, pki.authority.ca.cert, **ours), Dialer(endpoint), Contexts()),
            asyncio.to_thread(serve, listener),
        )
    assert outcome.result is Result.TLS_UNTRUSTED
    assert shown == []
