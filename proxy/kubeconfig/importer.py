"""Import: reads from a kubeconfig what kubemux must know about the chosen contexts. Pure.

context -> cluster entry {server: https://10.0.0.10, certificate-authority-data: ..., tls-server-name: ...} ->
Imported

A server's address may be one of this machine, such as 127.0.0.1. Then it is either the local end of an `ssh
-L`, or the API server runs on the gateway itself. Only the operator knows which, so a warning asks. The
certificate of such a server seldom has the name 127.0.0.1, but always `kubernetes`: kubeadm, k3s, EKS and
others put it there.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from proxy.config.model import DIRECT
from proxy.config.values import parse_base_path, parse_server_name
from proxy.errors import ConfigError, Problem, UnknownNames
from proxy.kubeconfig.entries import Body, Kubeconfig, text
from proxy.kubeconfig.exporter import OWN
from proxy.kubeconfig.targets import certificates
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.text import suggest

IN_CLUSTER = "in-cluster"
USUAL_NAME = "kubernetes"
_RENAME = "rename it: kubectl config rename-context"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Imported:
    """One cluster to import.

    `ca` is PEM that kubemux stores, or the absolute path of a file that another program maintains, or None.
    """

    name: str
    gateway: str
    api_server: Endpoint
    server_name: str
    ca: bytes | Path | None = None
    token_file: Path | None = None
    notes: tuple[str, ...] = ()
    base_path: str = ""

    @property
    def is_moved(self) -> bool:
        """Whether its address, such as 127.0.0.1, meant this machine before and now means the gateway."""
        return self.gateway != DIRECT and means_this_machine(self.api_server.host)


def select(
    kubeconfig: Kubeconfig,
    names: Iterable[str],
    *,
    gateway: str,
    origin: str,
    in_cluster: Imported | None,
    backups: Iterable[Path] = (),
) -> list[Imported]:
    """The contexts `names` as clusters that are reached through `gateway`. Pure.

    Each name must be written exactly as in the kubeconfig. `in_cluster` is used for the name `in-cluster`,
    unless the kubeconfig has such a context. Messages name the kubeconfig `origin`, and the `backups` that an
    export has made of it. Raises ConfigError with all problems: no name, unknown names (and the known ones),
    servers that cannot be reached through a tunnel.
    """
    chosen: list[Imported] = []
    problems: list[Problem] = []
    known = [
        *kubeconfig.contexts,
        *([IN_CLUSTER] if in_cluster and IN_CLUSTER not in kubeconfig.contexts else []),
    ]
    listed = sorted(known)
    there = suggest("", listed)
    names = list(dict.fromkeys(names))
    if not names:
        problems.append(
            Problem(
                0,
                "contexts",
                "no context is named",
                f"add --context NAME; {there}",
            )
        )
    for name in names:
        context = kubeconfig.contexts.get(name)
        if context is not None:
            cluster = text(context.get("cluster"))
            if not name.isprintable() or not name:
                problems.append(
                    Problem(
                        0, f"contexts.{name!r}", "its name has characters that no cluster's may have", _RENAME
                    )
                )
                continue
            if cluster.startswith(OWN):
                kept = ", ".join(map(str, backups))
                hint = "import it from its original kubeconfig" + (f"; exports kept: {kept}" if kept else "")
                problems.append(Problem(0, f"contexts.{name}", "leads through kubemux already", hint))
                continue
            try:
                chosen.append(_imported(name, kubeconfig, cluster, gateway))
            except ValueError as exc:
                problems.append(Problem(0, f"contexts.{name}", str(exc)))
        elif name == IN_CLUSTER and in_cluster:
            chosen.append(in_cluster)
        elif name == IN_CLUSTER:
            message = (
                f"there is no context {name!r}, and this is no pod: KUBERNETES_SERVICE_HOST and "
                "_PORT are not set"
            )
            problems.append(
                Problem(0, "contexts", message, f"it means the cluster whose pod kubemux runs in; {there}")
            )
        else:
            problems.append(Problem(0, "contexts", f"there is no context {name!r}", suggest(name, listed)))
    if problems:
        all_known = all(name in known for name in names) and names
        raise (ConfigError if all_known else UnknownNames)(origin, problems)
    return chosen


def _imported(name: str, kubeconfig: Kubeconfig, cluster_name: str, gateway: str) -> Imported:
    cluster = kubeconfig.clusters.get(cluster_name)
    if cluster is None:
        raise ValueError(f"its cluster {cluster_name!r} is not in the kubeconfig")
    api_server, base_path = server_url(text(cluster.get("server")))
    notes = []
    if cluster.get("insecure-skip-tls-verify"):
        notes.append(
            f"WARNING: {name}: the kubeconfig does not verify the server (insecure-skip-tls-verify), "
            "kubemux does: "
            f"without its CA in clusters.{name}.tls.ca_file, probes will say tls_untrusted"
        )
    if cluster.get("proxy-url"):
        notes.append(
            f"WARNING: {name}: its proxy-url is not used: {_dialler(gateway)} must reach {api_server} "
            "without it"
        )
    if base_path:
        notes.append(
            f"{name}: {base_path} of its server is kept as clusters.{name}.base_path; clients will send "
            "Host: 127.0.0.1:PORT. If a proxy in front of the API server selects by Host, it must treat this "
            f"as {api_server.host}"
        )
    imported = Imported(
        name, gateway, api_server, api_server.host, _ca(cluster), notes=tuple(notes), base_path=base_path
    )
    server_name = text(cluster.get("tls-server-name")) or (
        USUAL_NAME if imported.is_moved else api_server.host
    )
    try:
        return replace(imported, server_name=parse_server_name(server_name))
    except ValueError as exc:
        raise ValueError("its tls-server-name is neither a host name nor an address") from exc


def _dialler(gateway: str) -> str:
    return "this machine" if gateway == DIRECT else f"the gateway {gateway}"


def _ca(cluster: Body) -> bytes | Path | None:
    """The CA of a cluster; as in client-go, data wins over a path."""
    if data := text(cluster.get("certificate-authority-data")):
        try:
            # Go ignores line breaks in base64, and no other space.
            return certificates(base64.b64decode(data.replace("\n", "").replace("\r", ""), validate=True))
        except ValueError as exc:
            raise ValueError("certificate-authority-data is not base64 of PEM certificates") from exc
    path = text(cluster.get("certificate-authority"))
    return Path(path) if path else None


def server_url(server: str) -> tuple[Endpoint, str]:
    """Host, port and path of `https://HOST[:PORT][/PATH]`.

    Raises ValueError if kubemux cannot tunnel to it.
    """
    try:
        url = urlsplit(server)
        host, port = _in_ascii(url.hostname or ""), 443 if url.port is None else url.port
        endpoint = Endpoint.parse(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except ValueError as exc:
        raise ValueError("its server is not a valid https://HOST:PORT") from exc
    if url.scheme != "https":
        raise ValueError(
            f"its server is {url.scheme or 'no'}://, kubemux carries https:// only: clients would send "
            "tokens in clear"
        )
    if url.query or url.fragment or "@" in url.netloc:
        raise ValueError(
            f"its server has more than https://{endpoint}/PATH: a query or user in the URL would be lost"
        )
    if not url.path.strip("/"):
        return endpoint, ""
    try:
        return endpoint, parse_base_path(url.path)
    except ValueError as exc:
        raise ValueError(
            "the path of its server has a character that no URL may have, or an empty segment (//)"
        ) from exc


def _in_ascii(host: str) -> str:
    """A host name as Go's net/http sends it. In a URL, the `%` before the zone of an address is escaped
    (RFC 6874).
    """
    return (host if host.isascii() else host.encode("idna").decode()).replace("%25", "%")


_HERE = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})
_HERE_BELOW = (
    ".localhost",
    ".localdomain",
    ".docker.internal",
    ".containers.internal",
    ".minikube.internal",
    ".k3d.internal",
    ".lima.internal",
    ".rancher-desktop.internal",
)
"""Ends of names that resolvers (RFC 6761 6.3) and container runtimes resolve to this machine."""


def means_this_machine(host: str) -> bool:
    """Whether `host` is this machine: a loopback, unspecified or link-local address, or a name for one."""
    name = host.rstrip(".").lower()
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name in _HERE or f".{name}".endswith(_HERE_BELOW)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified or address.is_link_local


def in_cluster(environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Imported | None:
    """The cluster in whose pod this command runs, as in client-go's rest.InClusterConfig; None outside a pod.

    `token_file` is set only if no other user can read the token, because kubemux refuses secrets that others
    can read; by default Kubernetes mounts the token with mode 0644. A probe works without it: 401 and 403
    count as alive.
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port or not port.isdecimal():
        return None
    token = folder / "token"
    private = token.exists() and not token.stat().st_mode & 0o077
    ca = folder / "ca.crt"
    return Imported(
        IN_CLUSTER, DIRECT, Endpoint(host, int(port)), host, ca=ca, token_file=token if private else None
    )
