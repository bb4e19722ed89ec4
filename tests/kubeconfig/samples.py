"""Sample names and kubeconfigs."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st
from ruamel.yaml.comments import CommentedMap

from proxy.config import yaml
from proxy.config.model import Config
from proxy.config.yaml import Document
from proxy.kubeconfig import reading
from proxy.kubeconfig.entries import Kubeconfig, fresh, parse
from proxy.kubeconfig.exporter import OWN
from proxy.kubeconfig.targets import Target
from proxy.runtime.endpoint import Endpoint

ODD_NAMES = [
    "kubernetes-admin@kubernetes",
    "arn:aws:eks:eu-west-1:1:cluster/prod",
    "gke_project_europe-west1-b_cluster",
    "prod",
    "PROD",
    "in-cluster",
    "*",
    "a b  c ",
    'it\'s "quoted" \\ slashed',
    "Köln-東京-🚀",
    "yes",
    "null",
    "~",
    "0777",
    "1e3",
    "12:30:45",
    "2024-01-01",
    "- dash: {}",
    "# hash",
    "&anchor",
    "!tag",
    "<<",
    "=",
    "line\nbreak\ttab",
    "\u2028\u0085\ufeff",
]
"""Names of real contexts, and names that YAML reads as something else."""

names = st.one_of(
    st.sampled_from(ODD_NAMES), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
)


def document(text: str | bytes, path: Path | str = "/home/me/.kube/config") -> Document:
    return reading.parse(text.encode() if isinstance(text, str) else text, str(path))


def read(text: str | bytes) -> Kubeconfig:
    return parse(document(text))


def target(
    name: str = "prod", port: int = 16443, server_name: str = "kubernetes", ca: bytes | None = b"CA"
) -> Target:
    return Target(name, Endpoint("127.0.0.1", port), server_name, ca)


@st.composite
def kubeconfigs(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Draws the text of a kubeconfig with comments between its lines. Returns it and the comments."""
    foreign = names.filter(lambda name: not name.startswith(OWN))
    clusters, users, contexts = (
        draw(st.lists(kind, unique=True, max_size=4)) for kind in (foreign, foreign, names)
    )
    root = CommentedMap({"apiVersion": "v1", "kind": "Config"})
    sections: dict[str, object] = {
        "clusters": [
            {"cluster": {"server": f"https://{i}", "x-unknown": i}, "name": name}
            for i, name in enumerate(clusters)
        ],
        "users": [{"name": name, "user": {"token": f"token of {name}"}} for name in users],
        "contexts": [
            {
                "context": {
                    "cluster": draw(st.sampled_from(clusters or [""])),
                    "user": draw(st.sampled_from(users or [""])),
                },
                "name": name,
            }
            for name in contexts
        ],
        "current-context": draw(st.sampled_from([*contexts, ""])),
        "preferences": {"colors": True},
    }
    for section in draw(st.permutations(list(sections))):
        root[section] = fresh(sections[section])
    lines = yaml.dump(root).decode().split("\n")[:-1]
    comments = []
    for number in range(draw(st.integers(0, 4))):
        comment = f"# comment {number}"
        lines.insert(draw(st.integers(0, len(lines))), " " * draw(st.sampled_from([0, 2])) + comment)
        comments.append(comment)
    return "\n".join([*lines, ""]), comments


def listening(config: Config) -> dict[str, int]:
    """The port of each cluster that listens."""
    return {
        name: cluster.listen.port
        for name, cluster in config.clusters.items()
        if isinstance(cluster.listen, Endpoint)
    }
