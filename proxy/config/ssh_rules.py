"""Checks `ssh_server`, `sites` and `users` of a configuration, without reading their files. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from proxy.config.findings import Finding, Loc
from proxy.config.matches import Host
from proxy.config.model import DIRECT, Config, SiteConfig
from proxy.runtime.endpoint import Endpoint
from proxy.runtime.text import shown

SSH: Final = "ssh"
"""The name of the SSH server as an entry: in `entries` of a route, in the log and the metrics."""


def check(config: Config) -> Iterator[Finding]:
    """What is wrong with `ssh_server`, `sites` and `users`."""
    yield from _server(config)
    for name in config.sites:
        yield from site_name(config, name)
    yield from _permits(config)
    for kind, sections in (("sites", config.sites), ("users", config.users)):
        for name, section in sections.items():
            if not section.authorized_keys and not section.cert_authority:
                message = "nobody can log in: there is neither authorized_keys nor cert_authority"
                yield Finding(
                    (kind, name), message, "add authorized_keys: [FILE], with the line of a .pub file"
                )


def _server(config: Config) -> Iterator[Finding]:
    hint = (
        'add ssh_server: {listen: "0.0.0.0:2222", allow_remote: true, '
        "host_keys: [/etc/kubemux/ssh_host_ed25519_key]}, and run kubemux ssh-server keygen"
    )
    if config.ssh_server is None:
        for kind, sections in (("sites", config.sites), ("users", config.users)):
            if sections:
                yield Finding((kind,), f"{kind} come by ssh_server, which is missing", hint)


def _permits(config: Config) -> Iterator[Finding]:
    for name, cluster in config.clusters.items():
        for index, address in enumerate(cluster.api_servers):
            yield from _permit(config, cluster.gateway, ("clusters", name, "api_servers", index), address)
    for number, route in enumerate(config.routes):
        if route.target is not None and (fixed := route.target.fixed) is not None:
            yield from _permit(config, route.gateway, ("routes", number, "target"), fixed)


def _permit(config: Config, way: str, loc: Loc, target: Endpoint) -> Iterator[Finding]:
    site = config.sites.get(way)
    if site is not None and not permits(site, target):
        message = f"{not_permitted(way, site, target)}, so clients cannot ask the site for it"
        yield Finding(loc, message, f"add {target} to sites.{way}.permit")


def permits(site: SiteConfig, target: Endpoint) -> bool:
    """Whether `target` may be asked of the site. Raises ValueError if it is no host name or address."""
    host = Host.parse(target.host)
    return any(one.captures(host, target.port) is not None for one in site.permit)


def not_permitted(name: str, site: SiteConfig, target: Endpoint) -> str:
    """Why `target` may not be asked of the site `name`."""
    why = f"sites.{name}.permit does not have {target}"
    is_address = Host.parse(target.host).address is not None
    if is_address and any(one.stars and one.first <= target.port <= one.last for one in site.permit):
        why += " (`*` stands for names, not for addresses)"
    return why


def site_name(config: Config, name: str) -> Iterator[Finding]:
    """What is wrong with the name of a site, which need not be in `config` yet."""
    loc: Loc = ("sites", name)
    if name == DIRECT:
        yield Finding(loc, "`direct` is reserved: it means no gateway at all", "give the site another name")
        return
    if name in config.gateways:
        message = f"there is a gateway {shown(name)}, too, and clusters name both in the same way"
        yield Finding(loc, message, "give one of the two another name")
    if name == "localhost":
        yield Finding(
            loc, "`localhost` is what `ssh -R` without a name means", "choose a name like factory-7"
        )
    elif not _is_host_name(name):
        why = (
            "ends in a number, as only addresses do" if name.split(".")[-1].isdecimal() else "is no host name"
        )
        message = f"{shown(name)} {why}, and clients ask for NODE.{name}"
        yield Finding(loc, message, "choose a name like factory-7")
    elif name != name.lower():
        message = "has capitals, which clients do not send: they ask for names in lower case"
        yield Finding(loc, message, f"call it {name.lower()}")


def _is_host_name(name: str) -> bool:
    try:
        return Host.parse(name).address is None
    except ValueError:
        return False
