"""Runs docs/egress.md on this machine: the API server's flags, the daemon's configuration, and kubectl."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ruamel.yaml import YAML

from tests.support import pages
from tests.support.apiserver import ApiServer, asset
from tests.support.daemon import Daemon
from tests.support.kubectl import Kubectl
from tests.support.nodes import NODE, Node
from tests.support.ssh_keys import public

PAGE: Final = "docs/egress.md"
SELECTOR: Final = "The API server's configuration"
Places = Mapping[str, Path | str]
"""Texts of the page, and their replacements for this machine."""

_KNOWS_NODES: Final = 'mount --bind "$0" /etc/hosts; exec "$@"'


class Cluster:
    """A kube-apiserver, and its node, which it can reach only through the socket at `egress`."""

    def __init__(self, apiserver: ApiServer, node: Node, egress: Path) -> None:
        self.apiserver = apiserver
        self.node = node
        self.egress = egress
        self._kubeconfig = apiserver.kubeconfig(apiserver.folder / "kubeconfig")
        self.kubectl = self.by(asset("kubectl"))

    def by(self, program: Path) -> Kubectl:
        """An administrator's kubectl, of this version."""
        return Kubectl([program, "--kubeconfig", self._kubeconfig], self.apiserver.environment)

    def create(self, *objects: Mapping[str, object]) -> None:
        self.kubectl.said("create", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": objects})


def placed(text: str, places: Places) -> str:
    for place, here in places.items():
        text = text.replace(place, str(here))
    return text


def flags(apiserver: ApiServer, *, heading: str, places: Places) -> list[str]:
    """The flags of the page, with the EgressSelectorConfiguration below `heading`."""
    issued = apiserver.certificates.authority.issue("apiserver-client", organization="system:masters")
    selector = apiserver.folder / "egress.yaml"
    selector.write_text(placed(pages.block(PAGE, heading, "yaml"), places))
    pki = {
        "/etc/kubernetes/egress.yaml": selector,
        "/etc/kubernetes/pki/ca.crt": apiserver.ca_file,
        "/etc/kubernetes/pki/front-proxy-ca.crt": apiserver.ca_file,
        "/etc/kubernetes/pki/apiserver-client.crt": issued.cert,
        "/etc/kubernetes/pki/apiserver-client.key": issued.key,
        "/etc/kubernetes/pki/front-proxy-client.crt": issued.cert,
        "/etc/kubernetes/pki/front-proxy-client.key": issued.key,
    }
    return placed(pages.block(PAGE, SELECTOR, "text"), pki).split()


@contextmanager
def running(
    folder: Path, node: Node, text: str, places: Places, *, host_key: Path | None = None
) -> Iterator[Daemon]:
    """A daemon with a configuration of the page. Its machine can resolve the node's name.

    `host_key` is the key in known_hosts, by default the node's. Otherwise this waits for a link.
    """
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(f"{node.host},{NODE} {public(host_key or node.host_key)}\n")
    here: Places = {
        "bastion.eu.example.com": node.host,
        "user: tunnel": f"user: {node.user}",
        "/etc/kubemux/keys/eu-edge": node.identity,
        "/etc/kubemux/keys/nodes": node.identity,
        "/etc/kubemux/known_hosts": known_hosts,
    }
    sections = YAML(typ="safe").load(placed(text, {**here, **places}))
    with Daemon(
        folder / "daemon",
        gateways=sections.pop("gateways"),
        clusters={},
        sections={**sections, "limits": {"hold_timeout": "1s"}},
        wrapper=("unshare", "--mount", "sh", "-ec", _KNOWS_NODES, str(node.hosts)),
    ) as daemon:
        if host_key is None:
            daemon.wait_for("a link", lambda: daemon.metric("kubemux_gateway_links") > 0)
        yield daemon
