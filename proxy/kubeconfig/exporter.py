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
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.serialization import Encoding
from ruamel.yaml.comments import CommentedMap

from proxy.config import yaml
from proxy.config.certificates import load_pem
from proxy.config.files import MAX_CREDENTIAL_BYTES, Unusable, read_bytes
from proxy.config.model import ClusterConfig
from proxy.config.yaml import Document
from proxy.errors import ConfigError, Problem
from proxy.kubeconfig.entries import KINDS, Body, Kubeconfig, append, fresh, parse, text
from proxy.runtime.endpoint import Endpoint

OWN = "kubemux:"
_CA_KEYS = ("certificate-authority-data", "certificate-authority")
_OURS = ("server", "tls-server-name", *_CA_KEYS, "insecure-skip-tls-verify")
"""The keys that kubemux sets in its own cluster entries; `proxy-url` and others are left to the user."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a client must know about a cluster's listener.

    `ca` is PEM, None if the configuration names no file.
    """

    name: str
    listen: Endpoint
    server_name: str | None = None
    ca: bytes | None = None
    base_path: str = ""


@dataclass(slots=True)
class Report:
    """The result of an export: lines for the operator, and the contexts that did not use kubemux before."""

    notes: list[str] = field(default_factory=list)
    redirected: list[str] = field(default_factory=list)
    changed: bool = False


def targets(clusters: Mapping[str, ClusterConfig], config: str) -> list[Target]:
    """The clusters as targets, with the contents of their CA files. Messages name the path `config`.

    Raises ConfigError with all problems.
    """
    found, problems = [], []
    for name, cluster in clusters.items():
        ca = None
        if path := cluster.tls.ca_file:
            try:
                ca = certificates(read_bytes(path, limit=MAX_CREDENTIAL_BYTES)[0])
            except (Unusable, ValueError) as exc:
                key = f"clusters.{name}.tls.ca_file"
                problems.append(
                    Problem(0, key, f"{path} {exc}", getattr(exc, "hint", "give a file of PEM certificates"))
                )
        if cluster.listen is None:
            message = "has no listen: it is reached by its name alone, through an entry"
            problems.append(
                Problem(0, f"clusters.{name}", message, "add listen, or export the others by name")
            )
            continue
        found.append(Target(name, cluster.listen, cluster.tls.server_name, ca, cluster.base_path or ""))
    if problems:
        raise ConfigError(config, problems)
    return found


def certificates(pem: bytes) -> bytes:
    """Only the certificates of `pem`: a private key in the same file must not get into the kubeconfig.

    Raises ValueError if there are none.
    """
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in load_pem(pem))


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
        kept = {key: value for key, value in existing.clusters.get(own, {}).items() if key not in _OURS}
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
    body: dict[str, object] = {"server": f"https://{_reachable(target.listen)}{target.base_path}"}
    where = f"clusters.{target.name}.tls"
    if target.server_name:
        body["tls-server-name"] = target.server_name
    else:
        report.notes.append(
            f"{target.name}: clients will want a certificate for {target.listen.host}: set "
            f"{where}.server_name"
        )
    if target.ca:
        body["certificate-authority-data"] = base64.b64encode(target.ca).decode()
    elif ca := [key for key in _CA_KEYS if base.get(key)]:
        body[ca[0]] = base[ca[0]]
    else:
        report.notes.append(
            f"{target.name}: no CA, so clients trust only what this machine trusts: set {where}.ca_file"
        )
    return body


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
