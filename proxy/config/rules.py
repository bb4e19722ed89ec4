"""Checks the rules between different places of a configuration. Pure: it opens no file."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Final

from proxy.config import naming, ssh_rules, unix_sockets
from proxy.config.file_paths import is_for_system_service
from proxy.config.findings import Finding, Loc, dotted
from proxy.config.hosts import ANY_HOST
from proxy.config.model import DIRECT, Config
from proxy.runtime.endpoint import Endpoint, check_host
from proxy.runtime.text import shown, suggest


def check(config: Config) -> Iterator[Finding]:
    """Everything that is wrong with `config` as a whole."""
    yield from _hosts(config)
    yield from _references(config)
    yield from _cycles(config)
    yield from _credentials(config)
    yield from _addresses(config)
    yield from _entries(config)
    yield from _loops(config)
    yield from unix_sockets.check(config)
    yield from naming.check(config)
    yield from ssh_rules.check(config)
    yield from _unreachable(config)


Listeners = Mapping[int, Sequence[tuple[str, Endpoint]]]
"""kubemux's own listeners on TCP: port -> the key and the address of each."""


def own_listeners(config: Config) -> Listeners:
    """Every TCP address that a daemon with this configuration listens on."""
    found = {config.admin.listen.port: [("admin.listen", config.admin.listen)]}
    for loc, address, _ in _listeners(config):
        found.setdefault(address.port, []).append((dotted(loc), address))
    return found


def _listeners(config: Config) -> Iterator[tuple[Loc, Endpoint, bool]]:
    """The place, the address, and whether other machines may reach it, of each cluster, entry and server."""
    for name, cluster in config.clusters.items():
        if isinstance(cluster.listen, Endpoint):
            yield ("clusters", name, "listen"), cluster.listen, cluster.allow_remote
    for name, entry in config.entries.items():
        if isinstance(entry.listen, Endpoint):
            yield ("entries", name, "listen"), entry.listen, entry.allow_remote
    if (server := config.ssh_server) is not None:
        yield ("ssh_server", "listen"), server.listen, server.allow_remote


def own_listener(
    own: Listeners, address: Endpoint, is_here: Callable[[str], bool] = lambda _: False
) -> str | None:
    """The key of our own listener that a connection from this machine to `address` would reach.

    None if it would reach something else. `is_here` returns whether an address, other than loopback, is one
    of this machine.
    """
    if is_wildcard(address.host):  # connect(2) to 0.0.0.0 or :: connects to loopback
        address = address._replace(host="::1" if ":" in address.host else "127.0.0.1")
    for key, listen in own.get(address.port, ()):
        if _host(listen.host) == _host(address.host):
            return key
        if is_wildcard(listen.host) and (address.is_loopback or is_here(address.host)):
            return key
    return None


def _hosts(config: Config) -> Iterator[Finding]:
    for name, gateway in config.gateways.items():
        if gateway.is_pattern:
            continue
        if "{" in gateway.host or "}" in gateway.host:
            message = (
                f"{shown(gateway.host)} is no host: {ANY_HOST} stands alone, for the whole name asked for"
            )
            yield Finding(("gateways", name, "host"), message, f'host: "{ANY_HOST}"')
            continue
        if gateway.ssh_config:  # its aliases may be anything
            continue
        try:
            check_host(gateway.host)
        except ValueError as exc:
            yield Finding(("gateways", name, "host"), str(exc), "write four numbers from 0 to 255, or a name")


def _references(config: Config) -> Iterator[Finding]:
    if DIRECT in config.gateways:
        yield Finding(
            ("gateways", DIRECT),
            "`direct` is reserved: it means no gateway at all",
            "give the gateway another name",
        )
    for name, gateway in config.gateways.items():
        for index, hop in enumerate(gateway.jump):
            if hop not in config.gateways:
                hint = suggest(hop, (other for other in config.gateways if other != name))
                yield Finding(("gateways", name, "jump", index), f"there is no gateway {shown(hop)}", hint)
            elif config.gateways[hop].is_pattern:
                message = f"{shown(hop)} is a pattern, {ANY_HOST}, which only routes can use"
                yield Finding(
                    ("gateways", name, "jump", index), message, "name a gateway with a host of its own"
                )
    for name, cluster in config.clusters.items():
        if cluster.gateway in config.sites:
            continue
        if cluster.gateway != DIRECT and cluster.gateway not in config.gateways:
            hint = suggest(cluster.gateway, (*config.gateways, *config.sites, DIRECT))
            yield Finding(
                ("clusters", name, "gateway"), f"there is no gateway or site {shown(cluster.gateway)}", hint
            )
        elif cluster.gateway != DIRECT and config.gateways[cluster.gateway].is_pattern:
            message = f"{shown(cluster.gateway)} is a pattern, {ANY_HOST}, which only routes can use"
            hint = "name a gateway with a host of its own, or reach the API server by a route"
            yield Finding(("clusters", name, "gateway"), message, hint)


def _cycles(config: Config) -> Iterator[Finding]:
    order = list(config.gateways)
    graph = {
        name: [hop for hop in gateway.jump if hop in config.gateways]
        for name, gateway in config.gateways.items()
    }
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as exc:
            # graphlib's list ends with its first node again, and goes against the direction of the jumps.
            ring = exc.args[1][:0:-1]
            start = min(range(len(ring)), key=lambda i: order.index(ring[i]))
            ring = [*ring[start:], *ring[:start]]
            yield Finding(
                ("gateways", ring[0], "jump"),
                f"the jumps go in a circle: {' -> '.join([*ring, ring[0]])}",
                "take one of these gateways out of the other's jump",
            )
            graph[ring[0]].remove(ring[1 % len(ring)])
        else:
            return


def _credentials(config: Config) -> Iterator[Finding]:
    for name, gateway in config.gateways.items():
        loc: Loc = ("gateways", name)
        if not gateway.known_hosts and not gateway.ssh_config:
            scan = f"ssh-keyscan -p {gateway.port or 22} {gateway.host}"
            hint = f"add known_hosts: [FILE], with a line from: {scan} (compare the fingerprint first)"
            yield Finding(loc, "known_hosts is missing; checking the host key cannot be switched off", hint)
        if gateway.learned_host_keys and not gateway.known_hosts:
            message = "learned_host_keys needs known_hosts: only keys that are there can vouch for others"
            yield Finding((*loc, "learned_host_keys"), message, "add known_hosts: [FILE]")
        if gateway.learned_host_keys in gateway.known_hosts:
            message = "learned_host_keys is one of known_hosts, which kubemux never writes"
            hint = "name a file of its own, such as /var/lib/kubemux/host_keys"
            yield Finding((*loc, "learned_host_keys"), message, hint)
        if not gateway.identity_files and not gateway.agent and not gateway.ssh_config:
            hint = "add identity_files: [FILE], or agent: true, or ssh_config: FILE"
            if is_for_system_service():
                hint = (
                    'add identity_files: ["${CREDENTIALS_DIRECTORY}/NAME"], and '
                    "LoadCredential=NAME:FILE to kubemux.service"
                )
            yield Finding(loc, "nothing to log in with: no identity_files, agent or ssh_config", hint)
    for name, cluster in config.clusters.items():
        probe, loc = cluster.probe, ("clusters", name, "probe")
        if probe.token_file and probe.client_cert:
            message = "token_file and client_cert are two identities; the API server takes one"
            yield Finding((*loc, "token_file"), message, "remove one of the two")
        if probe.client_cert and not probe.client_key:
            yield Finding((*loc, "client_cert"), "client_cert needs its client_key", "add client_key: FILE")
        if probe.client_key and not probe.client_cert:
            yield Finding((*loc, "client_key"), "client_key needs its client_cert", "add client_cert: FILE")


def _addresses(config: Config) -> Iterator[Finding]:
    listeners: list[tuple[Loc, Endpoint, bool]] = [
        (("admin", "listen"), config.admin.listen, config.admin.allow_remote)
    ]
    listeners += _listeners(config)
    ports = {address.port for _, address, _ in listeners}
    by_port: dict[int, list[tuple[Loc, Endpoint]]] = {}
    for loc, address, allow_remote in listeners:
        if not address.is_loopback and not allow_remote:
            message = f"{address} can be reached from other machines"
            yield Finding(
                loc,
                message,
                "listen on 127.0.0.1, or add allow_remote: true next to it if that is what you want",
            )
        for other_loc, other in by_port.setdefault(address.port, []):
            if _collide(address, other):
                free = next((p for p in range(address.port + 1, 65536) if p not in ports), None)
                hint = f"give each an address of its own{f', for example port {free}' if free else ''}"
                taken = "" if other == address else f" ({other})"
                yield Finding(
                    loc, f"{address} is already taken by {'.'.join(map(str, other_loc))}{taken}", hint
                )
                break
        by_port[address.port].append((loc, address))


_RESERVED: Final = {"listener": "the addresses of clusters", "ssh": "clients who come by SSH"}
"""Names that no entry of `entries` may have, and what each name means."""


def _entries(config: Config) -> Iterator[Finding]:
    for name, entry in config.entries.items():
        loc: Loc = ("entries", name)
        if name in _RESERVED:
            message = f"`{name}` is reserved: in logs, metrics and routes it means {_RESERVED[name]}"
            yield Finding(loc, message, "give the entry another name")
        tls = entry.tls
        if tls.cert_file and not tls.key_file:
            yield Finding((*loc, "tls", "cert_file"), "cert_file needs its key_file", "add key_file: FILE")
        if tls.key_file and not tls.cert_file:
            yield Finding((*loc, "tls", "key_file"), "key_file needs its cert_file", "add cert_file: FILE")
        if tls.client_ca_file and not tls.cert_file:
            message = "clients show certificates by TLS alone, and the entry has no certificate of its own"
            hint = "add cert_file: FILE and key_file: FILE"
            yield Finding((*loc, "tls", "client_ca_file"), message, hint)
        if not isinstance(entry.listen, Endpoint) or entry.listen.is_loopback or not entry.allow_remote:
            continue
        if not entry.authenticates and not entry.lets_anybody_in:
            message = "other machines reach it, and no client has to prove its identity"
            hint = (
                "add tls: {cert_file: FILE, key_file: FILE, client_ca_file: FILE}, or tls and "
                "users_file: FILE; or allow: [any] if everybody may use it"
            )
            yield Finding((*loc, "listen"), message, hint)
        if entry.users_file and not tls.cert_file:
            message = "passwords would cross the network in the clear"
            yield Finding((*loc, "users_file"), message, "add tls: {cert_file: FILE, key_file: FILE}")


def _loops(config: Config) -> Iterator[Finding]:
    own = own_listeners(config)
    for name, cluster in config.clusters.items():
        for index, address in enumerate(cluster.api_servers if cluster.gateway == DIRECT else ()):
            if key := own_listener(own, address):
                message = f"{address} is kubemux's own {key}: it would be connected to itself"
                hint = "give the API server's own address, or the gateway that leads to it"
                yield Finding(("clusters", name, "api_servers", index), message, hint)
    for index, route in enumerate(config.routes):
        fixed = route.target.fixed if route.target and route.gateway == DIRECT else None
        if fixed and (key := own_listener(own, fixed)):
            message = f"{fixed} is kubemux's own {key}: it would be connected to itself"
            hint = "name the gateway that leads to the target, or another target"
            yield Finding(("routes", index, "target"), message, hint)


def _unreachable(config: Config) -> Iterator[Finding]:
    for name, cluster in config.clusters.items():
        if cluster.listen is None and not config.entries and config.ssh_server is None:
            message = "is missing, and there are no entries: no client can reach the cluster"
            hint = 'add listen: "127.0.0.1:PORT", or entries: {proxy: {listen: "127.0.0.1:3128"}}'
            yield Finding(("clusters", name, "listen"), message, hint)


def _collide(one: Endpoint, other: Endpoint) -> bool:
    return _host(one.host) == _host(other.host) or is_wildcard(one.host) or is_wildcard(other.host)


def is_wildcard(host: str) -> bool:
    """Whether it stands for all addresses of this machine: 0.0.0.0, ::."""
    return getattr(_host(host), "is_unspecified", False)


def _host(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | str:
    if text.lower() == "localhost":
        text = "127.0.0.1"
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text.lower()
    return getattr(address, "ipv4_mapped", None) or address
