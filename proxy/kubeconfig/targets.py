"""What a kubeconfig says about each cluster, for clients that use its listener, or its name through an entry.

listener  server: https://127.0.0.1:16443
entry     server: https://prod-eu:6443         proxy-url: http://127.0.0.1:3128
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import Encoding

from proxy.config.certificates import load_pem
from proxy.config.files import MAX_CREDENTIAL_BYTES, Unusable, read_bytes
from proxy.config.matches import Host
from proxy.config.model import ClusterConfig, Config
from proxy.errors import ConfigError, Problem, UnknownName
from proxy.runtime.endpoint import Endpoint, UnixPath
from proxy.runtime.text import listed, suggest

SCHEMES = ("http", "socks5")
"""The schemes of a proxy-url. Not `https`: client-go would show the cluster's client certificate to the
proxy.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """One cluster: the address or name in its `server`, and what its certificate is checked against.

    `ca` is PEM, None if the configuration names no file.
    """

    name: str
    server: Endpoint
    server_name: str
    ca: bytes | None = None
    base_path: str = ""
    proxy_url: str = ""


def targets(config: Config, names: Iterable[str], path: str, *, proxy_url: str = "") -> list[Target]:
    """The clusters `names` by their listeners; with a `proxy_url`, by their names. Messages name `path`.

    Raises ConfigError with all problems.
    """
    found, problems = [], []
    for name in names:
        cluster = config.clusters[name]
        key, ca = f"clusters.{name}", None
        if cluster.tls.ca_file:
            try:
                ca = certificates(read_bytes(cluster.tls.ca_file, limit=MAX_CREDENTIAL_BYTES)[0])
            except (Unusable, ValueError) as exc:
                hint = getattr(exc, "hint", "give a file of PEM certificates")
                problems.append(Problem(0, f"{key}.tls.ca_file", f"{cluster.tls.ca_file} {exc}", hint))
        if proxy_url:
            server = _called(name, cluster)
            if server is None:
                message = "its name is no host name, so that no client can ask for it through a proxy"
                problems.append(Problem(0, key, message, f"set {key}.dns_name"))
        elif isinstance(cluster.listen, Endpoint):
            server = _reachable(cluster.listen)
        else:
            server = None
            message = "has no listen: it is reached by its name alone, through an entry"
            if cluster.listen is not None:
                message = f"listens on {cluster.listen}, and clients of a kubeconfig can use no unix socket"
            problems.append(Problem(0, key, message, f"export it by name, with --proxy {_any(config)}"))
        if server:
            base_path = cluster.base_path or ""
            found.append(Target(name, server, cluster.server_name, ca, base_path, proxy_url))
    if problems:
        raise ConfigError(path, problems)
    return found


def proxy_url(config: Config, entry: str, scheme: str) -> str:
    """The proxy-url of `entry`. `scheme` is one of `SCHEMES`. Raises UnknownName."""
    if entry not in config.entries:
        raise UnknownName.among("entry", entry, config.entries)
    listen = config.entries[entry].listen
    others = _entries(config)
    if config.entries[entry].tls.cert_file is not None:
        message = f"entry {entry!r} speaks TLS, and clients would show it the cluster's client certificate"
        raise UnknownName(message, hint=suggest(entry, others))
    if isinstance(listen, UnixPath):
        message = f"entry {entry!r} listens on {listen}, and a proxy-url can lead to no unix socket"
        raise UnknownName(message, hint=suggest(entry, others))
    return f"{scheme}://{_reachable(listen)}"


def certificates(pem: bytes) -> bytes:
    """Only the certificates of `pem`: a private key in the same file must not get into the kubeconfig.

    Raises ValueError if there are none.
    """
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in load_pem(pem))


def _called(name: str, cluster: ClusterConfig) -> Endpoint | None:
    """The name that a client asks for: `dns_name`, or the cluster's name; None if clients cannot ask for it
    by name.
    """
    host = cluster.dns_name or name
    try:
        Host.parse(host)
    except ValueError:
        return None
    return Endpoint(host, cluster.api_servers[0].port)


def _entries(config: Config) -> list[str]:
    """The entries that a proxy-url can use."""
    return [
        name
        for name, one in config.entries.items()
        if isinstance(one.listen, Endpoint) and one.tls.cert_file is None
    ]


def _any(config: Config) -> str:
    names = _entries(config)
    return f"and one of {listed(names)}" if names else "ENTRY, once the configuration has one in `entries`"


def _reachable(listen: Endpoint) -> Endpoint:
    """The address that clients connect to: loopback if the listener is bound to a wildcard address."""
    try:
        address = ipaddress.ip_address(listen.host)
    except ValueError:
        return listen
    return (
        listen._replace(host="::1" if address.version == 6 else "127.0.0.1")
        if address.is_unspecified
        else listen
    )
