"""Import: writes the selected contexts as `clusters:` entries into the tree of a configuration file.

Imported -> clusters.CONTEXT {gateway, listen: "127.0.0.1:16443", api_servers: ["10.0.0.10:443"], tls:
{server_name, ca_file}}

A second import keeps the port, all keys that were added by hand, a `server_name`, and further `api_servers`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml.comments import CommentedMap

from proxy.config.model import DIRECT, ClusterConfig, Config
from proxy.config.rules import own_listener, own_listeners
from proxy.config.unknown import no_gateway
from proxy.config.yaml import Document
from proxy.errors import ConfigError, Problem, UnknownNames
from proxy.kubeconfig.entries import append, fresh
from proxy.kubeconfig.importer import Imported, means_this_machine
from proxy.runtime.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Merged:
    """The result of `merge`: CA files to write, what changed for each cluster, lines for the operator."""

    files: dict[Path, bytes] = field(default_factory=dict)
    changes: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def ca_name(name: str, pem: bytes) -> str:
    """A file name for a cluster's CA: the name in harmless characters, and a hash of the content.

    Other content has another name, so a file is never changed.
    """
    slug = re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.")[:60] or "cluster"
    return f"{slug}-{hashlib.sha256(pem).hexdigest()[:12]}.crt"


def merge(
    document: Document, config: Config, clusters: Iterable[Imported], *, ca_folder: Path, ports: Iterable[int]
) -> Merged:
    """Add `clusters` to the tree of the configuration file, `document.root`, or update them there.

    `config` is the same file, loaded. A new cluster gets the first of `ports` that the configuration does not
    use. Only the tree is changed. Raises ConfigError if a gateway does not exist, no port is left, or an API
    server is kubemux itself.
    """
    root, clusters = document.root, list(clusters)
    assert isinstance(root, CommentedMap)  # noqa: S101 - it has been loaded as a configuration
    free = _free(ports, config, clusters)
    own = own_listeners(config)
    merged = Merged()
    for cluster in clusters:
        if cluster.gateway not in {DIRECT, *config.gateways, *config.sites}:
            unknown = no_gateway(config, cluster.gateway, "--gateway", beside=[*config.sites, DIRECT])
            raise UnknownNames(document.path, [Problem(0, "gateways", str(unknown), unknown.hint)])
        if cluster.gateway == DIRECT and (key := own_listener(own, cluster.api_server)):
            message = (
                f"its server {cluster.api_server} is kubemux's own {key}: it would be connected to itself"
            )
            hint = "import it from its original kubeconfig, which names the API server's own address"
            raise ConfigError(document.path, [Problem(0, f"clusters.{cluster.name}", message, hint)])
        present = config.clusters.get(cluster.name)
        entry = _entry(cluster, present, ca_folder, merged)
        if present is None:
            if (port := next(free, None)) is None:
                message = f"no port is left for {cluster.name!r}"
                hint = (
                    "choose another --port-base, with free ports below where "
                    "net.ipv4.ip_local_port_range begins"
                )
                raise ConfigError(document.path, [Problem(0, "clusters", message, hint)])
            listen = {"gateway": cluster.gateway, "listen": str(Endpoint("127.0.0.1", port))}
            item = CommentedMap({key: fresh(value, flow=True) for key, value in {**listen, **entry}.items()})
            append(root, "clusters", item, key=cluster.name)
            merged.changes[cluster.name] = "new"
        else:
            changed = ", ".join(_update(root["clusters"][cluster.name], entry))
            merged.changes[cluster.name] = f"changed: {changed}" if changed else "unchanged"
        if cluster.is_moved and (present is None or cluster.api_server in present.api_servers):
            merged.notes.append(_moved(cluster, "site" if cluster.gateway in config.sites else "gateway"))
    return merged


def _free(ports: Iterable[int], config: Config, clusters: Iterable[Imported]) -> Iterator[int]:
    """The `ports` that neither a listener of kubemux nor an API server on this machine uses."""
    used = set(own_listeners(config))
    servers = [
        (cluster.gateway, server) for cluster in config.clusters.values() for server in cluster.api_servers
    ]
    servers += [(cluster.gateway, cluster.api_server) for cluster in clusters]
    used |= {
        server.port for gateway, server in servers if gateway == DIRECT and means_this_machine(server.host)
    }
    return (port for port in ports if port not in used)


def _entry(
    cluster: Imported, present: ClusterConfig | None, ca_folder: Path, merged: Merged
) -> dict[str, object]:
    """The keys to write for `cluster`, without those that the operator may have set by hand."""
    entry: dict[str, object] = {"gateway": cluster.gateway}
    tls: dict[str, object] = {}
    if present is None or not (cluster.api_server in present.api_servers or cluster.is_moved):
        entry["api_servers"] = [str(cluster.api_server)]
    elif cluster.api_server not in present.api_servers:
        stays = ", ".join(map(str, present.api_servers))
        merged.notes.append(
            f"{cluster.name}: api_servers stays {stays}: {cluster.api_server} means this machine"
        )
    # A server_name that is the old address changes together with the address.
    follows = (
        present
        and "api_servers" in entry
        and present.tls.server_name in {server.host for server in present.api_servers}
    )
    if present is None or not present.tls.server_name or follows:
        tls["server_name"] = cluster.server_name
    elif present.tls.server_name != cluster.server_name:
        merged.notes.append(
            f"{cluster.name}: tls.server_name stays {present.tls.server_name}, not {cluster.server_name}"
        )
    if cluster.base_path:
        entry["base_path"] = cluster.base_path
    elif present and present.base_path:
        merged.notes.append(
            f"{cluster.name}: base_path stays {present.base_path}, although its server has none"
        )
    if isinstance(cluster.ca, bytes):
        path = ca_folder / ca_name(cluster.name, cluster.ca)
        merged.files[path] = cluster.ca
        tls["ca_file"] = str(path)
    elif cluster.ca:
        tls["ca_file"] = str(cluster.ca)
    if tls:
        entry["tls"] = tls
    if cluster.token_file:
        entry["probe"] = {"token_file": str(cluster.token_file)}
    return entry


def _moved(cluster: Imported, kind: str) -> str:
    name, server, gateway = cluster.name, cluster.api_server, cluster.gateway
    return (
        f"WARNING: {name}: {server} meant this machine and now means the {kind} {gateway}. If the API "
        f"server runs elsewhere, set clusters.{name}.api_servers to its address as {gateway} sees it, and "
        f"tls.server_name to a name in its certificate (now {cluster.server_name})"
    )


def _update(node: CommentedMap, values: Mapping[str, object], above: str = "") -> Iterator[str]:
    """Write the values that differ into `node`, and yield their dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(node.get(key), CommentedMap):
            yield from _update(node[key], value, f"{above}{key}.")
        elif node.get(key) != value:
            node[key] = fresh(value, flow=True)
            yield f"{above}{key}"
