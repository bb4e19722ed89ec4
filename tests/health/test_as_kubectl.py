"""A probe accepts a certificate exactly when a real kubectl accepts it."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import event, given, settings
from hypothesis import strategies as st

from proxy.config import certificates
from proxy.config.model import DIRECT, ClusterConfig, ProbeConfig, TlsConfig
from proxy.health.anchors import Anchors
from proxy.health.chain import verify
from proxy.health.chain_rules import Refused
from proxy.health.probe import probe
from proxy.health.result import Result
from proxy.health.tls import Contexts
from proxy.runtime.endpoint import Endpoint
from tests.health.forge import CLIENT_AUTH, HOUR, SERVER_AUTH, Made, Spec, TlsServer, authority, make
from tests.health.scripted import NOWHERE, Dialer
from tests.health.verdicts import CASES, LEAF, NAME, Case
from tests.support.parts import find

SINCE = 32
"""The oldest minor version of kubectl to compare with: older ones are built with another version of Go."""


def kubectl(folder: Path, server: Endpoint, ca: Path, name: str) -> str:
    """The complaint of a real kubectl about the server; empty if there is none."""
    kubeconfig = folder / "kubeconfig"
    cluster = {"server": f"https://{server}", "certificate-authority": str(ca), "tls-server-name": name}
    root = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    kubeconfig.write_text(json.dumps(root))
    program = find("kubectl")
    assert program
    command: list[str | Path] = [
        program,
        "--kubeconfig",
        kubeconfig,
        "--request-timeout=60s",
        "get",
        "--raw",
        "/healthz",
    ]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        env=os.environ | {"HOME": str(folder)},
    )
    assert done.returncode in {0, 1}, done.stderr
    return done.stderr.strip() or "failed" if done.returncode else ""


@cache
def client_version() -> dict[str, str]:
    done = subprocess.run(
        [find("kubectl") or "", "version", "--client", "-o", "json"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    version: dict[str, str] = json.loads(done.stdout)["clientVersion"]
    return version


def need_new_kubectl() -> None:
    version = client_version()
    if int(re.sub(r"\D", "", version["minor"])) < SINCE:
        pytest.skip(f"kubectl {version['gitVersion']} is older than 1.{SINCE}")


def asked(endpoint: Endpoint, ca: Path, name: str) -> ClusterConfig:
    return ClusterConfig(
        gateway=DIRECT,
        listen=NOWHERE,
        api_servers=(endpoint,),
        tls=TlsConfig(server_name=name, ca_file=ca),
        probe=ProbeConfig(timeout=60.0),
    )


def shown(folder: Path, case: Case) -> tuple[TlsServer, Path]:
    ca = folder / "ca.crt"
    ca.write_bytes(case.ca_file)
    return TlsServer(folder, case.chain), ca


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """kubectl's complaints, by case. Two run at a time: one takes 0.1 s of CPU to start."""
    need_new_kubectl()
    cases = {
        label: tmp_path_factory.mktemp("case") for label in CASES
    }  # not in the threads: `make` is not thread-safe

    def ask(label: str) -> str:
        folder = cases[label]
        server, ca = shown(folder, CASES[label])
        with server.running() as endpoint:
            return kubectl(folder, endpoint, ca, CASES[label].name)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(CASES, pool.map(ask, CASES), strict=True))


@pytest.mark.kubectl
@pytest.mark.parametrize("label", CASES)
def test_kubectl_judges_each_chain_as_listed(complaints: dict[str, str], label: str) -> None:
    assert (not complaints[label]) is CASES[label].good, complaints[label]


@pytest.mark.parametrize("label", CASES)
async def test_a_probe_judges_each_chain_as_listed(tmp_path: Path, label: str) -> None:
    case = CASES[label]
    server, ca = shown(tmp_path, case)
    with server.running() as endpoint:
        outcome = await probe("prod", asked(endpoint, ca, case.name), Dialer(endpoint), Contexts())
    assert (outcome.result is Result.OK) is case.good, outcome.message
    assert outcome.message.isprintable()


def context(ciphers: str, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    made.minimum_version = made.maximum_version = version
    return made


HANDSHAKES: dict[str, tuple[bool, Callable[[], ssl.SSLContext]]] = {
    "TLS 1.3": (True, lambda: context("ALL", ssl.TLSVersion.TLSv1_3)),
    "ECDHE, GCM": (True, lambda: context("ECDHE-RSA-AES128-GCM-SHA256")),
    "ECDHE, ChaCha20": (True, lambda: context("ECDHE-RSA-CHACHA20-POLY1305")),
    "ECDHE, CBC, SHA-1": (True, lambda: context("ECDHE-RSA-AES256-SHA")),
    "ECDHE, CBC, SHA-256": (False, lambda: context("ECDHE-RSA-AES128-SHA256")),
    "DHE": (False, lambda: context("DHE-RSA-AES128-GCM-SHA256")),
    "RSA": (False, lambda: context("AES128-GCM-SHA256")),
    "CCM": (False, lambda: context("ECDHE-ECDSA-AES128-CCM")),
}


@pytest.mark.kubectl
@pytest.mark.parametrize("label", HANDSHAKES)
async def test_a_probe_makes_a_handshake_exactly_if_kubectl_does(tmp_path: Path, label: str) -> None:
    need_new_kubectl()
    good, made = HANDSHAKES[label]
    root = make(authority("root"))
    leaf = make(replace(LEAF, key="p256" if label == "CCM" else "rsa2048"), root)
    server = TlsServer(tmp_path, [leaf], context=made())
    ca = tmp_path / "ca.crt"
    ca.write_bytes(root.pem)
    with server.running() as endpoint:
        complaint = kubectl(tmp_path, endpoint, ca, NAME)
        outcome = await probe("prod", asked(endpoint, ca, NAME), Dialer(endpoint), Contexts())
    assert (not complaint, outcome.result) == (good, Result.OK if good else Result.TLS_FAILED), (
        complaint,
        outcome.message,
    )


@pytest.mark.kubectl
@pytest.mark.parametrize(
    "name",
    [
        "kubernetes",
        "KUBERNETES",
        "kubernetes.",
        "my_api.svc",
        "a..b",
        "192.0.2.1",
        "[192.0.2.1]",
        "::1",
        "fe80::1%eth0",
        "*.svc",
    ],
)
async def test_the_server_gets_the_same_name_as_from_kubectl(tmp_path: Path, name: str) -> None:
    need_new_kubectl()
    root = make(authority("root"))
    server, ca = shown(tmp_path, Case([make(LEAF, root)], root.pem, good=True))
    server.note_names()
    with server.running() as endpoint:
        kubectl(tmp_path, endpoint, ca, name)
        await probe("prod", asked(endpoint, ca, name), Dialer(endpoint), Contexts())
    *theirs, ours = server.sni  # some versions of kubectl request the version first
    assert set(theirs) == {ours}


KEYS = ["p256", "p384", "rsa2048"]
NAMES = ["kubernetes", "api.example.com", "*.example.com", "*.kubernetes", "KUBERNETES"]


@st.composite
def chains(draw: st.DrawFn) -> Case:
    """Draws a chain of up to three certificates; any of them may be trusted."""
    odd = st.integers(0, 9).map(lambda number: number == 0)
    usages = st.sampled_from(
        [None, ("key_cert_sign",), ("key_cert_sign", "digital_signature"), ("digital_signature",)]
    )
    extended = st.sampled_from([None, None, None, (SERVER_AUTH,), (SERVER_AUTH, CLIENT_AUTH), (CLIENT_AUTH,)])
    made: list[Made] = []
    for level in range(draw(st.integers(1, 3))):
        above = authority(
            draw(st.sampled_from(["root", "middle"])),
            key=draw(st.sampled_from(KEYS)),
            number=draw(st.integers(0, 1)),
            ca=draw(st.sampled_from([True, True, True, True, False, None])),
            usage=draw(st.sampled_from([None, ("key_cert_sign",)]) if not draw(odd) else usages),
            extended=draw(extended),
            valid=(-HOUR, HOUR) if not draw(odd) else (-2 * HOUR, -HOUR),
            permitted=None if not draw(odd) else (x509.DNSName("example.com"),),
        )
        if above.ca and draw(st.booleans()):
            above = replace(above, path_length=draw(st.integers(0, 2)))
        made.append(make(above, made[-1] if level else None))
    leaf = Spec(
        key=draw(st.sampled_from(KEYS)),
        dns=tuple(draw(st.lists(st.sampled_from(NAMES), max_size=2))),
        extended=draw(extended),
        usage=draw(usages),
        valid=(-HOUR, HOUR) if not draw(odd) else (-2 * HOUR, -HOUR),
    )
    made.append(make(leaf, made[-1]))
    sent = [made[-1], *draw(st.permutations(made[:-1]))[: draw(st.integers(0, 3))]]
    trusted = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3))
    return Case(
        sent,
        b"".join(one.pem for one in trusted),
        good=True,
        name=draw(st.sampled_from(["kubernetes", "api.example.com"])),
    )


@pytest.mark.kubectl
@given(case=chains())
@settings(max_examples=int(os.environ.get("KUBECTL_EXAMPLES", "30")), deadline=None)
def test_any_chain_is_judged_as_by_kubectl(case: Case) -> None:
    need_new_kubectl()
    with tempfile.TemporaryDirectory() as folder:
        server, ca = shown(Path(folder), case)
        with server.running() as endpoint:
            complaint = kubectl(Path(folder), endpoint, ca, case.name)
    try:
        verify(
            [one.der for one in case.chain],
            Anchors(certificates.load_pem(case.ca_file)),
            case.name,
            datetime.now(UTC),
        )
        ours = ""
    except (Refused, ValueError) as refused:
        ours = str(refused)
    event("good" if not ours else "bad")
    assert (not ours) is (not complaint), (ours, complaint)
