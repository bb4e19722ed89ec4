"""The text that the demo prints: a picture, and commands to paste into another terminal."""

from __future__ import annotations

import shlex
import shutil
import sys

from proxy.config.model import Config
from proxy.demo.certificates import SERVER_NAME
from proxy.demo.stage import Stage
from proxy.runtime.endpoint import Endpoint


def welcome(stage: Stage) -> str:
    """The text that is on the screen while the demo runs."""
    name, cluster = next(iter(stage.config.clusters.items()))
    assert isinstance(cluster.listen, Endpoint)  # noqa: S101 - the stage gives each cluster one
    port = cluster.listen.port
    curl = ["curl", "--cacert", str(cluster.tls.ca_file), "--resolve", f"{SERVER_NAME}:{port}:127.0.0.1"]
    *_, (other, by_entry) = stage.config.clusters.items()
    by_name = ["curl", "--proxy", f"http://{stage.config.entries['proxy'].listen}"]
    by_name += ["--cacert", str(by_entry.tls.ca_file), "--connect-to", f"{SERVER_NAME}:443:{other}:443"]
    kubectl = ["kubectl", "--kubeconfig", str(stage.kubeconfig)]
    kubectl_missing = (
        ""
        if shutil.which("kubectl")
        else "      (kubectl is not installed here: https://kubernetes.io/docs/tasks/tools/)\n"
    )
    return f"""\
kubemux demo: two clusters that only let SSH through, each with an address on this machine.
They are stand-ins in this process, and so is the SSH server; everything between them is the real thing.

{_picture(stage.config)}

In another terminal:

  Is {name} alive? Its certificate, which does not name 127.0.0.1, is verified:
    {shlex.join([*curl, f"https://{SERVER_NAME}:{port}/healthz"])}

  What is in it?
{kubectl_missing}    {shlex.join([*kubectl, "get", "ns"])}
    {shlex.join([*kubectl, "--context", other, "get", "pods", "-A"])}

  No port map: clients ask the entry for {other} by name.
    {shlex.join([*by_name, f"https://{SERVER_NAME}/version"])}

  What is the state of kubemux?
    {shlex.join([*_kubemux(), "status", "--config", str(stage.config_path)])}
    curl http://{stage.config.admin.listen}/metrics

Ctrl-C ends it and removes {stage.folder}.
"""


def _picture(config: Config) -> str:
    ssh = f"127.0.0.1:{config.gateways['bastion'].port}"
    clusters = [
        f"  {name:8} https://{cluster.listen}  --SSH, through {ssh}-->  API server {cluster.api_servers[0]}"
        for name, cluster in config.clusters.items()
    ]
    proxy = config.entries["proxy"].listen
    return "\n".join(
        [*clusters, f"  {'proxy':8} http://{proxy}   both of them, by name (HTTP CONNECT, SOCKS5)"]
    )


def _kubemux() -> list[str]:
    """How to call this program from another shell: a virtual environment's scripts may not be on PATH."""
    return ["kubemux"] if shutil.which("kubemux") else [sys.executable, "-m", "proxy"]
