"""The files of a probe: contexts, tokens, and the message for each unusable file."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from proxy.health import tls
from proxy.health.chain import verify
from proxy.health.chain_rules import Refused
from proxy.health.result import Failure, Result
from proxy.health.tls import Contexts, distrusted
from proxy.runtime.blocking import Place
from tests.health.scripted import NOWHERE, Pki, cluster


def key_with_passphrase(plain: Path, where: Path) -> Path:
    key = load_pem_private_key(plain.read_bytes(), None)
    where.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    return where


async def test_a_context_lives_as_long_as_its_files(pki: Pki, tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_bytes(pki.authority.ca.cert.read_bytes())
    contexts = Contexts()
    first, _ = await contexts.load(cluster(NOWHERE, ca))
    again, _ = await contexts.load(cluster(NOWHERE, ca, path="/livez"))
    assert (again.anchors, again.context) == (first.anchors, first.context)
    assert first.context.minimum_version is ssl.TLSVersion.TLSv1_2
    os.utime(ca, ns=(0, 1))
    touched, _ = await contexts.load(cluster(NOWHERE, ca))
    assert touched.anchors is not first.anchors
    replacement = tmp_path / "new"
    replacement.write_bytes(pki.authority.ca.cert.read_bytes())
    os.utime(replacement, ns=(0, 1))
    # By rename, as the kubelet replaces a file; even with the old time and size.
    replacement.rename(ca)
    assert (await contexts.load(cluster(NOWHERE, ca)))[0].anchors is not touched.anchors


async def test_a_bundle_expires_with_its_first_certificate_to_expire(pki: Pki, tmp_path: Path) -> None:
    other = pki.foreign.cert.parent / "other.crt"
    bundle = tmp_path / "bundle.crt"
    bundle.write_bytes(other.read_bytes() + pki.authority.ca.cert.read_bytes())
    identity, _ = await Contexts().load(cluster(NOWHERE, bundle))
    both = [
        one.not_valid_after_utc.timestamp() for one in x509.load_pem_x509_certificates(bundle.read_bytes())
    ]
    assert len(both) == 2
    assert dict(identity.expiries) == {"ca": min(both)}


async def test_the_token_is_read_each_time(tmp_path: Path) -> None:
    token = tmp_path / "token"
    contexts = Contexts()
    config = cluster(NOWHERE, None, token_file=str(token))
    for text in ("first\n", "second"):
        token.write_text(text)
        assert (await contexts.load(config))[1] == text.strip()


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"new\nline", b"caf\xc3\xa9", b"nul\x00"])
async def test_an_invalid_token_is_never_quoted(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(Failure) as failure:
        await Contexts().load(cluster(NOWHERE, None, token_file=str(tmp_path / "t")))
    assert failure.value.result is Result.CREDENTIALS_UNUSABLE
    assert str(failure.value) == f"probe.token_file {tmp_path / 't'}: expected one token of printable ASCII"


async def test_every_missing_file_is_named_with_its_key(pki: Pki, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    good = {"client_cert": str(pki.client.cert), "client_key": str(pki.client.key)}
    for key, config in {
        "tls.ca_file": cluster(NOWHERE, missing),
        "probe.token_file": cluster(NOWHERE, None, token_file=str(missing)),
        "probe.client_cert": cluster(NOWHERE, None, **good | {"client_cert": str(missing)}),
        "probe.client_key": cluster(NOWHERE, None, **good | {"client_key": str(missing)}),
    }.items():
        with pytest.raises(Failure) as failure:
            await Contexts().load(config)
        assert str(failure.value) == f"{key} {missing}: No such file or directory"
        assert failure.value.result is Result.CREDENTIALS_UNUSABLE


async def test_files_that_hold_something_else_are_refused(pki: Pki, tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_text("junk")
    ours, theirs = pki.client, pki.good
    encrypted = key_with_passphrase(ours.key, tmp_path / "encrypted.key")
    for config, words in [
        (cluster(NOWHERE, junk), f"tls.ca_file {junk}: holds no PEM certificate that can be read"),
        (cluster(NOWHERE, None, client_cert=str(ours.cert)), "no PEM certificate with its key, unencrypted"),
        (
            cluster(NOWHERE, None, client_cert=str(junk), client_key=str(ours.key)),
            "no PEM certificate with its key",
        ),
        (cluster(NOWHERE, None, client_cert=str(ours.cert), client_key=str(encrypted)), "unencrypted"),
        (
            cluster(NOWHERE, None, client_cert=str(ours.cert), client_key=str(theirs.key)),
            "is another certificate's key",
        ),
    ]:
        with pytest.raises(Failure) as failure:
            await Contexts().load(config)
        assert failure.value.result is Result.CREDENTIALS_UNUSABLE
        assert words in str(failure.value)


async def test_files_are_read_again_after_a_failure(pki: Pki, tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    contexts = Contexts()
    with pytest.raises(Failure):
        await contexts.load(cluster(NOWHERE, ca))
    ca.write_bytes(pki.authority.ca.cert.read_bytes())
    assert (await contexts.load(cluster(NOWHERE, ca)))[0].expiries


async def test_clusters_without_a_certificate_of_their_own_share_a_context(pki: Pki, tmp_path: Path) -> None:
    contexts = Contexts()
    other = pki.foreign.cert.parent / "other.crt"
    first, second = [(await contexts.load(cluster(NOWHERE, ca)))[0] for ca in (pki.authority.ca.cert, other)]
    assert first.context is second.context  # 30 KB each
    assert first.anchors is not second.anchors


def test_the_message_names_the_ca_file_that_does_not_trust_the_server() -> None:
    ours = Refused(Result.TLS_UNTRUSTED, "is signed by CN=x, not found there")
    failure = distrusted(ours, cluster(NOWHERE, Path("/etc/ca.crt")), NOWHERE)
    assert failure.result is Result.TLS_UNTRUSTED
    words = (
        f"reached, but the certificate of {NOWHERE} is not trusted by tls.ca_file /etc/ca.crt: it is "
        "signed by CN=x"
    )
    assert str(failure).startswith(words)
    assert failure.hint.startswith("clients that trust another CA are served all the same")
    without = distrusted(ours, cluster(NOWHERE, None), NOWHERE)
    assert "the system's CA store (no tls.ca_file is given): it is signed by" in str(without)
    assert without.hint.startswith("set tls.ca_file")

    theirs = distrusted(
        Refused(Result.TLS_UNTRUSTED, "cannot be read", for_all=True),
        cluster(NOWHERE, Path("/etc/ca.crt")),
        NOWHERE,
    )
    assert str(theirs) == f"the certificate of {NOWHERE} cannot be read"
    assert theirs.hint.startswith("kubectl refuses it, too")


async def test_a_hanging_file_is_named_and_delays_only_its_cluster(pki: Pki, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    contexts = Contexts()
    ca = pki.authority.ca.cert
    good = cluster(NOWHERE, ca)
    for key, config in {
        "tls.ca_file": cluster(NOWHERE, pipe, timeout="1s"),
        "probe.token_file": cluster(NOWHERE, ca, token_file=str(pipe), timeout="1s"),
        "probe.client_cert": cluster(NOWHERE, ca, client_cert=str(pipe), timeout="1s"),
        "probe.client_key": cluster(
            NOWHERE, ca, client_cert=str(pki.client.cert), client_key=str(pipe), timeout="1s"
        ),
    }.items():
        place = Place("here")
        with pytest.raises(Failure, match=rf"reading {key} {pipe} has been hanging since 20") as first:
            await contexts.load(config, place)
        assert first.value.result is Result.CREDENTIALS_UNUSABLE
        with pytest.raises(Failure) as second:
            await contexts.load(config, place)
        assert str(second.value) == str(first.value)
        assert (await contexts.load(good, Place("another")))[0].expiries
        await opened_until_the_end_of("here", pipe)


async def opened_until_the_end_of(thread: str, pipe: Path) -> None:
    """Each reader that opens `pipe` gets EOF, until the thread has ended."""
    async with asyncio.timeout(30):
        while thread in {one.name for one in threading.enumerate()}:
            with suppress(OSError):  # no reader has it open at this moment
                os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            await asyncio.sleep(0.001)


async def test_without_a_file_the_systems_certificates_are_trusted(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "certs"
    folder.mkdir()
    (folder / "other.crt").write_bytes((pki.foreign.cert.parent / "other.crt").read_bytes())
    (folder / "0a1b2c3d.0").symlink_to("other.crt")
    (folder / "gone").symlink_to("/nowhere/at/all")
    (folder / "junk").write_text("junk")
    monkeypatch.setenv("SSL_CERT_FILE", str(pki.authority.ca.cert))
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    anchors = tls._system_anchors.__wrapped__()
    now = datetime.now(UTC)
    for issued in (pki.good, pki.foreign):
        sent = x509.load_pem_x509_certificate(issued.cert.read_bytes())
        assert verify([sent.public_bytes(Encoding.DER)], anchors, "kubernetes", now).parsed == sent
