"""Checks routes that lead to pods. Pure: it opens no file."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.config.findings import Finding, Loc
from proxy.config.model import Config, RouteConfig
from proxy.runtime.text import shown, suggest


def check(config: Config, index: int, route: RouteConfig) -> Iterator[Finding]:
    """The mistakes in a route's `discover`, or that it is missing."""
    loc: Loc = ("routes", index)
    discover = route.discover
    if discover is None:
        if not route.match:
            hint = 'add match: ["*.eu.internal:22"], or discover: {cluster: ..., selector: ..., port: 2209}'
            yield Finding(loc, "match is missing, and so is discover: no client can ask for it", hint)
        return
    for key in ("match", "target"):
        if getattr(route, key):
            message = f"{key} and discover exclude each other: pods are asked for as NAME.NAMESPACE"
            yield Finding((*loc, key), message, f"remove {key}, or make a route of its own of it")
    if route.gateway in config.gateways and config.gateways[route.gateway].is_pattern:
        message = f"{shown(route.gateway)} is a pattern, and discover leads to addresses of pods"
        yield Finding((*loc, "gateway"), message, "name a gateway that reaches the pods")
    cluster = config.clusters.get(discover.cluster)
    here: Loc = (*loc, "discover", "cluster")
    if cluster is None:
        message = f"there is no cluster {shown(discover.cluster)}"
        yield Finding(here, message, suggest(discover.cluster, config.clusters))
    elif not cluster.probe.token_file and not cluster.probe.client_cert:
        message = f"{shown(discover.cluster)} has neither probe.token_file nor probe.client_cert"
        hint = "an API server shows its pods only to a known user: add the token of docs/notebooks.md"
        yield Finding(here, message, hint)
