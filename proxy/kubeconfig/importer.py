"""Import: contexts of a kubeconfig, named one by one, become `clusters:` entries of the configuration.

    context -> cluster entry {server: https://10.0.0.10, certificate-authority-data: ..., tls-server-name: ...}
            -> clusters.CONTEXT {gateway, listen: "127.0.0.1:16443", api_servers: ["10.0.0.10:443"], tls: {server_name, ca_file}}

Importing again keeps the port, every key that was added by hand, and further `api_servers`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ruamel.yaml.comments import CommentedMap

from proxy.config.model import DIRECT, Config
from proxy.config.values import Endpoint
from proxy.config.yaml import Document
from proxy.errors import ConfigError, Problem
from proxy.kubeconfig.entries import Body, Kubeconfig, append, fresh, text
from proxy.kubeconfig.exporter import OWN, certificates

IN_CLUSTER = "in-cluster"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Imported:
    """One cluster to be. `ca` is PEM to be stored, or the absolute path of a file that somebody else keeps, or None."""

    name: str
    gateway: str
    api_server: Endpoint
    server_name: str
    ca: bytes | Path | None = None
    token_file: Path | None = None
    notes: tuple[str, ...] = ()


def select(
    kubeconfig: Kubeconfig, names: Iterable[str], *, gateway: str, origin: str, in_cluster: Imported | None
) -> list[Imported]:
    """The contexts `names`, each exactly as written, to be reached through `gateway`. Pure.

    `in_cluster` stands for the context `in-cluster` unless the kubeconfig has one; `origin` names the kubeconfig in messages.
    Raises ConfigError with every problem: none named, missing ones (and which there are), servers that cannot be tunnelled.
    """
    chosen: list[Imported] = []
    problems: list[Problem] = []
    known = [*kubeconfig.contexts, *([IN_CLUSTER] if in_cluster and IN_CLUSTER not in kubeconfig.contexts else [])]
    there = f"there are: {', '.join(map(repr, sorted(known))) or 'none'}"
    names = list(dict.fromkeys(names))
    if not names:
        problems.append(Problem(0, "contexts", "no context is named, and none is taken unasked", f"add --context NAME; {there}"))
    for name in names:
        context = kubeconfig.contexts.get(name)
        if context is not None:
            try:
                chosen.append(_imported(name, kubeconfig, text(context.get("cluster")), gateway))
            except ValueError as exc:
                problems.append(Problem(0, f"contexts.{name}", str(exc)))
        elif name == IN_CLUSTER and in_cluster:
            chosen.append(in_cluster)
        else:
            problems.append(Problem(0, "contexts", f"there is no context {name!r}", there))
    if problems:
        raise ConfigError(origin, problems)
    return chosen


def _imported(name: str, kubeconfig: Kubeconfig, cluster_name: str, gateway: str) -> Imported:
    cluster = kubeconfig.clusters.get(cluster_name)
    if cluster is None:
        raise ValueError(f"its cluster {cluster_name!r} is not in the kubeconfig")
    if cluster_name.startswith(OWN):
        raise ValueError("leads through kubemux already; import the original, from the backup that the export made")
    api_server = server_endpoint(text(cluster.get("server")))
    notes = []
    if cluster.get("insecure-skip-tls-verify"):
        notes.append(
            f"WARNING: {name}: the kubeconfig does not verify the server (insecure-skip-tls-verify), kubemux does: "
            f"without its CA in clusters.{name}.tls.ca_file, probes will say tls_untrusted"
        )
    if cluster.get("proxy-url"):
        notes.append(f"{name}: proxy-url is not taken over: the gateway connects to {api_server} itself")
    server_name = text(cluster.get("tls-server-name")) or api_server.host
    return Imported(name, gateway, api_server, server_name, _ca(cluster), notes=tuple(notes))


def _ca(cluster: Body) -> bytes | Path | None:
    """As in client-go, data wins over a path."""
    if data := text(cluster.get("certificate-authority-data")):
        try:
            return certificates(base64.b64decode(data, validate=True))
        except ValueError as exc:
            raise ValueError("certificate-authority-data is not base64 of PEM certificates") from exc
    path = text(cluster.get("certificate-authority"))
    return Path(path) if path else None


def server_endpoint(server: str) -> Endpoint:
    """Host and port of `https://HOST[:PORT]`, 443 by default. Raises ValueError for anything that a tunnel cannot stand for."""
    try:
        url = urlsplit(server)
        host, port = url.hostname or "", 443 if url.port is None else url.port
        endpoint = Endpoint.parse(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except ValueError as exc:
        raise ValueError("its server is not a valid https://HOST:PORT") from exc
    if url.scheme != "https":
        raise ValueError(
            f"its server is {url.scheme or 'no'}://, kubemux carries https:// only: clients would send tokens in clear"
        )
    if url.path.strip("/") or url.query or url.fragment or "@" in url.netloc:
        raise ValueError(f"its server is more than https://{endpoint}: a path, query or user in the URL is lost in a tunnel")
    return endpoint


def in_cluster(environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Imported | None:
    """The cluster whose pod we run in, as client-go's rest.InClusterConfig finds it; None outside of a pod.

    The token is named only if it is ours alone: a configuration may not name a secret that others can read, which is how
    Kubernetes mounts it by default (mode 0644), and a probe without one still tells alive from dead (401 and 403 are alive).
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port or not port.isdecimal():
        return None
    token = folder / "token"
    private = token.exists() and not token.stat().st_mode & 0o077
    return Imported(IN_CLUSTER, DIRECT, Endpoint(host, int(port)), host, folder / "ca.crt", token if private else None)


def ca_name(name: str, pem: bytes) -> str:
    """A file name for a cluster's CA, of harmless characters and a hash of the content: once written it never changes."""
    slug = re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.")[:60] or "cluster"
    return f"{slug}-{hashlib.sha256(pem).hexdigest()[:12]}.crt"


def merge(
    document: Document,
    config: Config,
    clusters: Iterable[Imported],
    *,
    ca_folder: Path,
    ports: range,
) -> dict[Path, bytes]:
    """Add or update `clusters` in the configuration's tree, `document.root`, in place. Returns the CA files it then refers to.

    `config` is what the document says. A new cluster gets the lowest of `ports` that the configuration does not use. Pure but
    for the tree. Raises ConfigError if a gateway does not exist or no port is left.
    """
    root = document.root
    assert isinstance(root, CommentedMap)  # noqa: S101 - it has been loaded as a configuration
    used = {config.admin.listen.port, *(cluster.listen.port for cluster in config.clusters.values())}
    free = (port for port in ports if port not in used)
    files: dict[Path, bytes] = {}
    for cluster in clusters:
        if cluster.gateway not in {DIRECT, *config.gateways}:
            there = f"there are: {', '.join(map(repr, sorted(config.gateways)))}, and {DIRECT!r} for no SSH"
            raise ConfigError(document.path, [Problem(0, "gateways", f"there is no gateway {cluster.gateway!r}", there)])
        tls = {"server_name": cluster.server_name}
        if isinstance(cluster.ca, bytes):
            path = ca_folder / ca_name(cluster.name, cluster.ca)
            files[path] = cluster.ca
            tls["ca_file"] = str(path)
        elif cluster.ca:
            tls["ca_file"] = str(cluster.ca)
        entry: dict[str, object] = {"gateway": cluster.gateway, "api_servers": [str(cluster.api_server)], "tls": tls}
        if cluster.token_file:
            entry["probe"] = {"token_file": str(cluster.token_file)}
        present = config.clusters.get(cluster.name)
        if present is None:
            if (port := next(free, None)) is None:
                message = f"no port from {ports.start} to {ports.stop - 1} is left for {cluster.name!r}"
                raise ConfigError(
                    document.path,
                    [
                        Problem(
                            0, "clusters", message, "choose another --port-base, below where net.ipv4.ip_local_port_range begins"
                        )
                    ],
                )
            listen = {"gateway": cluster.gateway, "listen": str(Endpoint("127.0.0.1", port))}
            item = CommentedMap({key: fresh(value, flow=True) for key, value in {**listen, **entry}.items()})
            append(root, "clusters", item, key=cluster.name)
        else:
            if cluster.api_server in present.api_servers:
                del entry["api_servers"]
            _update(root["clusters"][cluster.name], entry)
    return files


def _update(node: CommentedMap, values: Mapping[str, object]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(node.get(key), CommentedMap):
            _update(node[key], value)
        elif node.get(key) != value:
            node[key] = fresh(value, flow=True)
