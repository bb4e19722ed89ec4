"""Export: merges one context for each cluster into a kubeconfig. Through such a context, clients use kubemux.

A cluster NAME becomes the context NAME and the cluster entry `kubemux:NAME`. Entries with that prefix belong
to kubemux. All other entries belong to other programs, and export never changes or removes them, with one
exception: if there is a context NAME already, it leads through kubemux afterwards. A backup of the file is
then kept beside it.

The user is that of the context NAME in the base kubeconfig. If the output has the same user entry, the
context refers to it, so that a client which renews the token there renews it for this context, too. Otherwise
the user entry is copied as `kubemux:NAME`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field

from ruamel.yaml.comments import CommentedMap

from proxy.config import yaml
from proxy.config.yaml import Document
from proxy.kubeconfig.entries import KINDS, Body, Kubeconfig, append, fresh, parse, text
from proxy.kubeconfig.targets import Target

OWN = "kubemux:"
_CA_KEYS = ("certificate-authority-data", "certificate-authority")
_OURS = ("server", "proxy-url", "tls-server-name", *_CA_KEYS, "insecure-skip-tls-verify")
"""The keys that kubemux sets in its own cluster entries; others are left to the user."""


@dataclass(slots=True)
class Report:
    """The result of an export: lines for the operator, and the contexts that did not use kubemux before."""

    notes: list[str] = field(default_factory=list)
    redirected: list[str] = field(default_factory=list)
    changed: bool = False


def export(document: Document, base: Kubeconfig, clusters: Iterable[Target]) -> Report:
    """Add or update the contexts of `clusters` in `document.root`, in place. It changes nothing else.

    The root must be a mapping. The users come from `base`. Raises ConfigError.
    """
    root, existing, report = document.root, parse(document), Report()
    assert isinstance(root, CommentedMap)  # noqa: S101 - parse() has refused anything else
    for target in clusters:
        base_context = base.contexts.get(target.name, {})
        context = existing.contexts.get(target.name)
        own = OWN + target.name

        body = _cluster(target, base.clusters.get(text(base_context.get("cluster")), {}), report)
        kept = _kept(target, existing.clusters.get(own, {}))
        report.changed |= _set_entry(root, "clusters", own, {**body, **kept}, existing.clusters.get(own))

        links: dict[str, object] = {"cluster": own}
        user = text(base_context.get("user"))
        if user in base.users:
            links["user"] = user if existing.users.get(user) == base.users[user] else own
            if links["user"] == own:
                report.changed |= _set_entry(root, "users", own, base.users[user], existing.users.get(own))
        elif not context or not context.get("user"):
            report.notes.append(
                f"{target.name}: the base kubeconfig has no user for a context of this name: see --base"
            )
        if context and text(context.get("cluster")) != own:
            report.redirected.append(target.name)
        report.changed |= _set_entry(
            root,
            "contexts",
            target.name,
            {**(base_context if context is None else context), **links},
            context,
        )
    return report


def _cluster(target: Target, base: Body, report: Report) -> Body:
    body: dict[str, object] = {"server": f"https://{target.server}{target.base_path}"}
    if target.proxy_url:
        body["proxy-url"] = target.proxy_url
    body["tls-server-name"] = target.server_name
    if target.ca:
        body["certificate-authority-data"] = base64.b64encode(target.ca).decode()
    elif ca := [key for key in _CA_KEYS if base.get(key)]:
        body[ca[0]] = base[ca[0]]
    else:
        report.notes.append(
            f"{target.name}: no CA, so clients trust only what this machine trusts: set "
            f"clusters.{target.name}.tls.ca_file"
        )
    return body


def _kept(target: Target, existing: Body) -> Body:
    """What the user has added to our cluster entry by hand."""
    kept = {key: value for key, value in existing.items() if key not in _OURS}
    url = text(existing.get("proxy-url"))
    if target.proxy_url:
        scheme, _, rest = url.partition("://")
        is_theirs = f"{scheme}://{rest.rpartition('@')[2]}" == target.proxy_url  # with a user and password
    else:
        host = str(target.server).rpartition(":")[0]
        # Otherwise kubemux has exported it by name, with a proxy-url of its own.
        is_theirs = text(existing.get("server")).startswith(f"https://{host}:")
    return {**kept, "proxy-url": url} if url and is_theirs else kept


def _set_entry(root: CommentedMap, section: str, name: str, body: Body, existing: Body | None) -> bool:
    """Set the body of an entry. Values that stay equal keep their comments. Returns whether any changed."""
    if existing is None:
        append(root, section, fresh({KINDS[section]: body, "name": name}))
        return True
    if existing == body:
        return False
    entry = next(entry for entry in root[section] if text(entry.get("name")) == name)
    node = entry.get(KINDS[section])
    if node is None:
        entry[KINDS[section]] = fresh(body)
        return True
    for key in existing.keys() - body.keys():
        del node[key]
    for key, value in body.items():
        if existing.get(key) != value:
            node[key] = fresh(value)
    return True


def new(clusters: Iterable[Target], base: Kubeconfig) -> tuple[bytes, Report]:
    """A new kubeconfig, as bytes. Its current context is that of the first cluster."""
    clusters = list(clusters)
    root = CommentedMap({"apiVersion": "v1", "kind": "Config"})
    if clusters:
        root["current-context"] = fresh(clusters[0].name)
    report = export(Document("new", root), base, clusters)
    return yaml.dump(root), report
