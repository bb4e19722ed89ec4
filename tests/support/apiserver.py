"""A real kube-apiserver on a real etcd, from $KUBEBUILDER_ASSETS.

It takes seconds to start, so a test session starts only one.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from proxy.runtime.endpoint import Endpoint
from tests.support.ports import free_port
from tests.support.tls import Certificates

READY_SECONDS = 180.0


def asset(program: str) -> Path:
    """A program of $KUBEBUILDER_ASSETS."""
    return Path(os.environ["KUBEBUILDER_ASSETS"]) / program


def _answers(url: str, context: ssl.SSLContext | None = None) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5, context=context) as answer:  # noqa: S310 - our own URLs
        return bool(answer.status == 200)
    return False


@contextmanager
def _running(
    arguments: Sequence[str | Path], log: Path, url: str, context: ssl.SSLContext | None = None
) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not _answers(url, context):
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.1)
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(
                    f"{arguments[0]} is not ready (exit code {process.poll()}):\n{log.read_text()[-4000:]}"
                )
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class ApiServer:
    """A running API server whose certificate names `kubernetes` and not 127.0.0.1."""

    def __init__(self, folder: Path, *, beside: ApiServer | None = None) -> None:
        """`beside` is another API server of the same cluster: it has the same objects and certificates."""
        self.folder = folder
        self.certificates: Certificates = beside.certificates if beside else Certificates(folder / "pki")
        self.prefix: str = beside.prefix if beside else f"/{folder.name}"
        """The path of its objects in etcd."""
        self.endpoint = Endpoint("127.0.0.1", free_port())

    @property
    def ca_file(self) -> Path:
        """The CA of its certificate."""
        return self.certificates.ca

    @property
    def environment(self) -> dict[str, str]:
        """The environment for kubectl: an empty home folder, so that kubectl finds no discovery cache of
        another test or of the developer.
        """
        return os.environ | {"HOME": str(self.folder), "KUBECACHEDIR": str(self.folder / "cache")}

    def kubeconfig(self, path: Path, *, server: str | None = None, context: str = "admin") -> Path:
        """An administrator's kubeconfig at `path`, for `server` (a URL; the API server itself by default)."""
        admin = self.certificates.admin
        cluster = {
            "server": server or f"https://{self.endpoint}",
            "certificate-authority": str(self.ca_file),
            "tls-server-name": self.certificates.server_name,
        }
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": context, "cluster": cluster}],
            "users": [
                {
                    "name": context,
                    "user": {"client-certificate": str(admin.cert), "client-key": str(admin.key)},
                }
            ],
            "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
            "current-context": context,
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(content, indent=2))  # JSON is YAML
        return path

    def kubectl(
        self, *arguments: str, kubeconfig: Path, stdin: str | None = None, seconds: float = 60.0
    ) -> str:
        """Run kubectl and return its output. If it fails, raises AssertionError with its standard error."""
        done = subprocess.run(
            [asset("kubectl"), "--kubeconfig", kubeconfig, *arguments],
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=seconds,
            env=self.environment,
        )
        assert done.returncode == 0, (
            f"kubectl {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}"
        )
        return done.stdout

    @contextmanager
    def run(self, etcd: str, *flags: str) -> Iterator[None]:
        """Serve until the block ends, on the etcd at that URL."""
        pki = self.certificates
        key, public = self.folder / "accounts.key", self.folder / "accounts.pub"
        account = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        key.write_bytes(account.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public.write_bytes(account.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        arguments: list[str | Path] = [
            asset("kube-apiserver"),
            f"--etcd-servers={etcd}",
            f"--etcd-prefix={self.prefix}",
            f"--bind-address={self.endpoint.host}",
            f"--secure-port={self.endpoint.port}",
            f"--cert-dir={self.folder}",
            f"--client-ca-file={pki.ca}",
            f"--tls-cert-file={pki.server.cert}",
            f"--tls-private-key-file={pki.server.key}",
            f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            # No controller runs that would make the default service account, which every pod needs.
            "--disable-admission-plugins=ServiceAccount",
            # The client certificate that the API server presents to kubelets.
            f"--kubelet-client-certificate={pki.admin.cert}",
            f"--kubelet-client-key={pki.admin.key}",
            *flags,
        ]
        context = ssl.create_default_context(cafile=pki.ca)
        context.check_hostname = (
            False  # urllib would verify 127.0.0.1, and the certificate leaves that out on purpose
        )
        with _running(
            arguments, self.folder / "kube-apiserver.log", f"https://{self.endpoint}/readyz", context
        ):
            yield


@contextmanager
def run_etcd(folder: Path) -> Iterator[str]:
    """A running etcd. Yields its URL."""
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    arguments: list[str | Path] = [
        asset("etcd"),
        f"--data-dir={folder / 'data'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
    ]
    with _running(arguments, folder / "etcd.log", f"{client}/health"):
        yield client
