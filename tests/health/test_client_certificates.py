"""A probe can show the same client certificates as kubectl."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from proxy.config.model import DIRECT, ClusterConfig, ProbeConfig, TlsConfig
from proxy.config.reading import read
from proxy.health.probe import probe
from proxy.health.result import Failure, Result
from proxy.health.tls import Contexts
from proxy.runtime.endpoint import Endpoint
from tests.health.forge import CLIENT_AUTH, HOUR, Made, Spec, TlsServer, authority, make
from tests.health.scripted import NOWHERE, Dialer
from tests.health.test_as_kubectl import need_new_kubectl
from tests.health.verdicts import LEAF, NAME
from tests.support.parts import find

CLIENT = Spec("client", extended=(CLIENT_AUTH,))
ROOT = make(authority("root"))
MIDDLE = make(authority("middle", number=2), ROOT)
JUNK = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"


def pem(
    made: Made,
    form: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return made.key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


def client(**changes: object) -> Made:
    return make(replace(CLIENT, **changes), ROOT)  # type: ignore[arg-type]


PLAIN, RSA, SHORT, ED25519 = client(), client(key="rsa2048"), client(key="rsa1024"), client(key="ed25519")
NEGATIVE, EXPIRED, LOWER = client(negative=True), client(valid=(-2 * HOUR, -HOUR)), make(CLIENT, MIDDLE)
OLD = PrivateFormat.TraditionalOpenSSL
UNUSABLE, REFUSED = Result.CREDENTIALS_UNUSABLE, Result.TLS_CLIENT_CERT

CASES: dict[str, tuple[bytes, bytes, Result]] = {
    "plain": (PLAIN.pem, pem(PLAIN), Result.OK),
    "PKCS 1": (RSA.pem, pem(RSA, OLD), Result.OK),
    "SEC 1": (PLAIN.pem, pem(PLAIN, OLD), Result.OK),
    "SEC 1 after its parameters": (PLAIN.pem, PARAMETERS + pem(PLAIN, OLD), Result.OK),
    "Ed25519": (ED25519.pem, pem(ED25519), Result.OK),
    "RSA of 1024 bits": (SHORT.pem, pem(SHORT), Result.OK),
    "with an intermediate": (LOWER.pem + MIDDLE.pem, pem(LOWER), Result.OK),
    "text around": (b"text\n" + PLAIN.pem, b"text\n" + pem(PLAIN), Result.OK),
    "both in one file": (pem(PLAIN) + PLAIN.pem, PLAIN.pem + pem(PLAIN), Result.OK),
    "without its intermediate": (LOWER.pem, pem(LOWER), REFUSED),
    "expired": (EXPIRED.pem, pem(EXPIRED), REFUSED),
    "intermediate first": (MIDDLE.pem + LOWER.pem, pem(LOWER), UNUSABLE),
    "junk first": (JUNK + PLAIN.pem, pem(PLAIN), UNUSABLE),
    "negative serial number": (NEGATIVE.pem, pem(NEGATIVE), UNUSABLE),
    "encrypted key": (PLAIN.pem, pem(PLAIN, encryption=BestAvailableEncryption(b"x")), UNUSABLE),
    "another key": (PLAIN.pem, pem(make(replace(CLIENT, number=7), ROOT)), UNUSABLE),
    "empty": (b"", pem(PLAIN), UNUSABLE),
}


def kubectl(folder: Path, endpoint: Endpoint, ca: Path, user: dict[str, str]) -> str:
    """kubectl's complaint; empty if it gets its answer."""
    cluster = {"server": f"https://{endpoint}", "certificate-authority": str(ca), "tls-server-name": NAME}
    root = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (kubeconfig := folder / "kubeconfig").write_text(json.dumps(root))
    command = [
        find("kubectl") or "",
        "--kubeconfig",
        str(kubeconfig),
        "--request-timeout=60s",
        "get",
        "--raw",
        "/healthz",
    ]
    environment = os.environ | {"HOME": str(folder)}
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=90
    )
    return done.stderr.strip() or "failed" if done.returncode else ""


@pytest.mark.kubectl
@pytest.mark.parametrize("label", CASES)
async def test_a_client_certificate_is_shown_if_kubectl_shows_it(tmp_path: Path, label: str) -> None:
    need_new_kubectl()
    certificate, key, result = CASES[label]
    ca, cert_file, key_file = (tmp_path / name for name in ("ca.crt", "client.crt", "client.key"))
    for path, data in ((ca, ROOT.pem), (cert_file, certificate), (key_file, key)):
        path.touch(mode=0o600)
        path.write_bytes(data)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    with TlsServer(tmp_path, [make(LEAF, ROOT)], context=context).running() as endpoint:
        complaint = kubectl(
            tmp_path, endpoint, ca, {"client-certificate": str(cert_file), "client-key": str(key_file)}
        )
        config = ClusterConfig(
            gateway=DIRECT,
            listen=NOWHERE,
            api_servers=(endpoint,),
            tls=TlsConfig(server_name=NAME, ca_file=ca),
            probe=read(
                ProbeConfig, {"timeout": "60s", "client_cert": str(cert_file), "client_key": str(key_file)}
            ),
        )
        outcome = await probe("prod", config, Dialer(endpoint), Contexts())
    assert (not complaint, outcome.result) == (result is Result.OK, result), (complaint, outcome.message)


async def test_the_error_says_why_no_api_server_accepts_a_client_certificate(tmp_path: Path) -> None:
    weak = client(hash="SHA1")
    (tmp_path / "client.crt").write_bytes(weak.pem)
    (tmp_path / "client.key").write_bytes(pem(weak))
    settings = {"client_cert": str(tmp_path / "client.crt"), "client_key": str(tmp_path / "client.key")}
    config = ClusterConfig(
        gateway=DIRECT, listen=NOWHERE, api_servers=(NOWHERE,), probe=read(ProbeConfig, settings)
    )
    with pytest.raises(Failure, match="is signed by an algorithm that API servers refuse"):
        await Contexts().load(config)
