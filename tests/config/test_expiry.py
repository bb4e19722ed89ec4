"""When certificates expire, read from real ones of ssh-keygen and OpenSSL."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from proxy.config import expiry
from proxy.config.model import (
    ClusterConfig,
    Config,
    EntryConfig,
    EntryTlsConfig,
    GatewayConfig,
    TlsConfig,
)
from proxy.runtime.endpoint import Endpoint
from tests.support.ssh_keys import new_key, sign
from tests.support.tls import Authority

DAY = 86400.0


def certified(folder: Path, validity: str, *, name: str = "key") -> tuple[Path, Path]:
    key, ca = new_key(folder / name), folder / "ca"
    if not ca.exists():
        new_key(ca)
    return key, sign(key, ca=ca, principals="tunnel", validity=validity)


def ends(config: GatewayConfig) -> list[float]:
    return [round((validity.end - time.time()) / DAY, 1) for _, validity in expiry.user_certificates(config)]


def test_certificates_that_are_named_or_lie_beside_a_key_are_read(tmp_path: Path) -> None:
    key, certificate = certified(tmp_path, "-1d:+10d")
    assert ends(GatewayConfig(host="edge", identity_files=(key,))) == [10]
    assert ends(GatewayConfig(host="edge", identity_files=(key,), certificate_files=(certificate,))) == [
        10
    ], "once"
    other = certificate.rename(tmp_path / "elsewhere")
    assert ends(GatewayConfig(host="edge", identity_files=(key,))) == []
    assert ends(GatewayConfig(host="edge", identity_files=(key,), certificate_files=(other,))) == [10]


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_the_certificate_of_every_kind_of_key_is_read(tmp_path: Path, kind: str) -> None:
    key = new_key(tmp_path / "key", kind=kind)
    sign(key, ca=new_key(tmp_path / "ca"), principals="tunnel", validity="-1d:+3d")
    assert ends(GatewayConfig(host="edge", identity_files=(key,))) == [3]


def test_certificates_without_an_end_and_other_files_have_no_expiry(tmp_path: Path) -> None:
    key, certificate = certified(tmp_path, "always:forever")
    public = Path(f"{key}.pub")
    (tmp_path / "garbage").write_bytes(b"ssh-ed25519-cert-v01@openssh.com AAAA\n\xff\n")
    files = (certificate, public, tmp_path / "garbage", tmp_path / "missing")
    assert ends(GatewayConfig(host="edge", certificate_files=files)) == []


@pytest.mark.parametrize(
    ("validity", "said"),
    [
        ("-1d:+10d", None),
        ("-400d:+10d", "expires on"),
        ("-2d:-1d", "expired on"),
        ("-1d:+30d", None),
        ("-1h:+3h", None),  # a certificate that is renewed every few hours, and was just issued
        ("-3h:+10m", "expires on"),
    ],
)
def test_a_certificate_that_expires_soon_gets_a_warning(
    tmp_path: Path, validity: str, said: str | None
) -> None:
    """The warning comes two weeks before the end, or after four fifths of the lifetime."""
    key, certificate = certified(tmp_path, validity)
    config = Config(version=1, gateways={"edge": GatewayConfig(host="edge", identity_files=(key,))})
    found = [message for message, _ in expiry.ending_soon(config, time.time())]
    assert len(found) == (said is not None)
    if said:
        assert found[0].startswith(f"gateways.edge: certificate {certificate} {said} 20")


def test_a_clusters_ca_ends_too(tmp_path: Path) -> None:
    ca = Authority(tmp_path).ca.cert
    cluster = ClusterConfig(
        gateway="direct",
        listen=Endpoint("127.0.0.1", 16443),
        api_servers=(Endpoint("10.0.0.10", 6443),),
        tls=TlsConfig(ca_file=ca),
    )
    config = Config(version=1, clusters={"prod": cluster})
    assert list(expiry.ending_soon(config, time.time() - DAY)) == []
    [(message, hint)] = expiry.ending_soon(config, time.time() + 10_000 * DAY)
    assert message.startswith(f"clusters.prod.tls.ca_file: certificate {ca} expired on 20")
    assert str(ca) in hint


def test_the_certificate_of_an_entry_ends_too(tmp_path: Path) -> None:
    issued = Authority(tmp_path).issue("entry")
    tls = EntryTlsConfig(cert_file=issued.cert, key_file=issued.key)
    config = Config(version=1, entries={"remote": EntryConfig(listen=Endpoint("127.0.0.1", 3129), tls=tls)})
    [(message, _)] = expiry.ending_soon(config, time.time() + 10_000 * DAY)
    assert message.startswith(f"entries.remote.tls.cert_file: certificate {issued.cert} expired on 20")
