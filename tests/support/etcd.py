"""etcd by its JSON gateway (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/)."""

from __future__ import annotations

import json
import urllib.request


def forget(etcd: str) -> None:
    """Compact the store: only current values remain, no history. Blocks."""
    # Whoever has seen all but the last change misses nothing, so there is one more.
    revision = _ask(etcd, "put", {"key": "YWdlZA=="})["header"]["revision"]
    _ask(etcd, "compaction", {"revision": revision})


def _ask(etcd: str, method: str, question: dict[str, str]) -> dict[str, dict[str, str]]:
    url, body = f"{etcd}/v3/kv/{method}", json.dumps(question).encode()
    with urllib.request.urlopen(url, body, timeout=10) as answer:  # noqa: S310 - our own URL
        said: dict[str, dict[str, str]] = json.load(answer)
        return said
