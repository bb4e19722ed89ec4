"""A cluster's node in a network namespace: a stand-in kubelet, a pod and a Service that only the node's sshd
reaches, and the objects that the API server has for them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from tests.support.elsewhere import FarSshd
from tests.support.tls import Issued

NODE: Final = "node-a"
POD_IP: Final = "10.200.0.5"
SERVICE_IP: Final = "10.0.0.77"
"""A Service's address, from which kube-proxy would forward to a pod."""

ROOT: Final = Path(__file__).parents[2]

Json = Mapping[str, object]


class Node(FarSshd):
    """A machine with an sshd and `tests.support.kubelet`.

    `issued` is the kubelet's certificate; `ca` has issued the API server's client certificate.
    """

    def __init__(self, folder: Path, *, issued: Issued, ca: Path) -> None:
        super().__init__(folder, names=[NODE])
        self.port = 22  # free, because nothing else listens in that namespace
        self._files = (issued.cert, issued.key, ca)
        self._kubelet: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.add_addresses(POD_IP, SERVICE_IP)
            self._kubelet = subprocess.Popen(
                [*self.command, sys.executable, "-m", "tests.support.kubelet", *self._files],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                cwd=ROOT,
            )
            assert self._kubelet.stdout is not None
            assert self._kubelet.stdout.readline() == b"ready\n"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._kubelet:
            self._kubelet.kill()
            self._kubelet.wait()
            if self._kubelet.stdout:
                self._kubelet.stdout.close()
        super().__exit__()


NODE_OBJECT: Final[Json] = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": NODE},
    "status": {
        "addresses": [{"type": "Hostname", "address": NODE}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    },
}
POD: Final[Json] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"nodeName": NODE, "containers": [{"name": "web", "image": "web", "stdin": True, "tty": True}]},
}
POD_STATUS: Final[Json] = {
    "phase": "Running",
    "podIP": POD_IP,
    "podIPs": [{"ip": POD_IP}],
    "containerStatuses": [
        {
            "name": "web",
            "image": "web",
            "imageID": "",
            "ready": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }
    ],
}
"""The pod's status is written separately: the API server ignores a status when a pod is created."""
