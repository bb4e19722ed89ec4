"""The objects of a stand-in cluster, in the formats of the Kubernetes API: lists, objects, kubectl's tables.

Shapes follow the API reference (https://kubernetes.io/docs/reference/kubernetes-api/); tables are
`meta.k8s.io/v1` Table
(https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

Json = Mapping[str, object]

VERSION: Final = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0-kubemux-demo",
    "platform": "linux/amd64",
}


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object. The last column of its table is the age."""

    plural: str
    kind: str
    short: str
    namespaced: bool
    columns: tuple[str, ...]


RESOURCES: Final = {
    resource.plural: resource
    for resource in (
        Resource("namespaces", "Namespace", "ns", False, ("Name", "Status", "Age")),
        Resource("nodes", "Node", "no", False, ("Name", "Status", "Roles", "Version", "Age")),
        Resource("pods", "Pod", "po", True, ("Name", "Ready", "Status", "Restarts", "Age")),
    )
}


@dataclass(frozen=True, slots=True)
class Item:
    """One object: `cells` are its columns between the name and the age."""

    name: str
    cells: tuple[str, ...]
    status: Json = field(default_factory=dict)
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """All objects of a cluster, by the plural of their resource. All were created when the demo began."""

    items: Mapping[str, Sequence[Item]]
    created: datetime

    def find(self, plural: str, *, namespace: str = "", name: str = "") -> list[Item]:
        """The items of a resource: all, or those of `namespace`, or the one called `name`."""
        return [
            item
            for item in self.items[plural]
            if namespace in ("", item.namespace) and name in ("", item.name)
        ]


def contents(cluster: str, workers: int, deployments: Sequence[str]) -> Contents:
    """A small cluster: a control plane, `workers` nodes, and a pod for each of `deployments`."""
    nodes = [
        ("control-plane", "control-plane"),
        *((f"worker-{number}", "<none>") for number in range(1, workers + 1)),
    ]
    pods = [
        ("kube-system", "coredns-0"),
        ("kube-system", "kube-apiserver-control-plane"),
        *(("default", f"{d}-0") for d in deployments),
    ]
    return Contents(
        {
            "namespaces": [
                Item(name, ("Active",), {"phase": "Active"}) for name in ("default", "kube-system")
            ],
            "nodes": [
                Item(
                    f"{cluster}-{name}",
                    ("Ready", role, VERSION["gitVersion"]),
                    {"conditions": [{"type": "Ready", "status": "True"}]},
                )
                for name, role in nodes
            ],
            "pods": [
                Item(name, ("1/1", "Running", "0"), {"phase": "Running"}, namespace)
                for namespace, name in pods
            ],
        },
        datetime.now(UTC),
    )


def discovery() -> Json:
    """`/api/v1`: the resources. kubectl needs it to turn `ns` into a path."""
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": "v1",
        "resources": [
            {
                "name": resource.plural,
                "singularName": resource.kind.lower(),
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                "verbs": ["get", "list"],
                "shortNames": [resource.short],
            }
            for resource in RESOURCES.values()
        ],
    }


def as_object(resource: Resource, item: Item, created: datetime) -> Json:
    """One object, with the most useful part of its metadata and status."""
    return {
        "kind": resource.kind,
        "apiVersion": "v1",
        "metadata": _metadata(item, created),
        "status": item.status,
    }


def as_list(resource: Resource, items: Sequence[Item], created: datetime) -> Json:
    """A list, for `kubectl get -o json` and other clients."""
    objects = [as_object(resource, item, created) for item in items]
    return {
        "kind": f"{resource.kind}List",
        "apiVersion": "v1",
        "metadata": {"resourceVersion": "1"},
        "items": objects,
    }


def as_table(resource: Resource, items: Sequence[Item], created: datetime, now: datetime) -> Json:
    """A table, for `kubectl get`: it prints the columns as they are."""
    names = [
        {
            "name": column,
            "type": "string",
            "format": "name" if column == "Name" else "",
            "description": "",
            "priority": 0,
        }
        for column in resource.columns
    ]
    rows = [
        {
            "cells": [item.name, *item.cells, age(now, created)],
            "object": {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": _metadata(item, created),
            },
        }
        for item in items
    ]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": "1"},
        "columnDefinitions": names,
        "rows": rows,
    }


def failure(code: int, reason: str, message: str) -> Json:
    """A `Status`; kubectl shows it as `Error from server (REASON): MESSAGE`."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def age(now: datetime, created: datetime) -> str:
    """An age as kubectl writes it: `90s`, `12m`, `5h`."""
    seconds = int((now - created).total_seconds())
    if seconds < 120:
        return f"{seconds}s"
    return f"{seconds // 60}m" if seconds < 3 * 3600 else f"{seconds // 3600}h"


def _metadata(item: Item, created: datetime) -> Json:
    metadata = {
        "name": item.name,
        "resourceVersion": "1",
        "creationTimestamp": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return metadata | ({"namespace": item.namespace} if item.namespace else {})
