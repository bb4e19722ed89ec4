"""etcd by its JSON gateway (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/)."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Mapping
from typing import Final

_MOST: Final = 100
"""Values of a transaction. etcd's default limit is 128 operations."""


def put(etcd: str, values: Mapping[str, object]) -> None:
    """Store these values as JSON, by key. kube-apiserver reads it as well as its own protobuf. Blocks."""
    operations = [
        {"request_put": {"key": _base64(key), "value": _base64(json.dumps(value))}}
        for key, value in values.items()
    ]
    for start in range(0, len(operations), _MOST):
        _ask(etcd, "txn", {"success": operations[start : start + _MOST]})


def forget(etcd: str) -> None:
    """Compact the store: only current values remain, no history. Blocks."""
    # Whoever has seen all but the last change misses nothing, so there is one more.
    revision = _ask(etcd, "put", {"key": "YWdlZA=="})["header"]["revision"]
    _ask(etcd, "compaction", {"revision": revision})


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _ask(etcd: str, method: str, question: Mapping[str, object]) -> dict[str, dict[str, str]]:
    url, body = f"{etcd}/v3/kv/{method}", json.dumps(question).encode()
    with urllib.request.urlopen(url, body, timeout=60) as answer:  # noqa: S310 - our own URL
        said: dict[str, dict[str, str]] = json.load(answer)
        return said
