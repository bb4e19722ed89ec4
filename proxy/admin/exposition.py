"""A registry as Prometheus asks for it: text or OpenMetrics, plain or gzip, without a pause of the event loop.

With 100 clusters one scrape is 600 KB and 70 ms of work; done in one go, every client would feel it. So the loop collects one
metric at a time, which keeps collectors free of locks, and a thread does the formatting.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.registry import Collector


class _Collected(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def expose(registry: CollectorRegistry, *, accept: str, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
    """The body and its headers, as the client's `Accept` and `Accept-Encoding` ask."""
    try:
        encode, content_type = choose_encoder(accept)
    except TypeError:  # `version=` that is not made of numbers
        encode, content_type = choose_encoder("")
    families = []
    for family in registry.collect():
        families.append(family)
        await asyncio.sleep(0)
    headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
    compress = gzip_accepted(accept_encoding)
    if compress:
        headers["Content-Encoding"] = "gzip"
    return await asyncio.to_thread(_encode, encode, families, compress=compress), headers


def _encode(encode: Callable[[Collector], bytes], families: list[Metric], *, compress: bool) -> bytes:
    body = encode(_Collected(families))
    return gzip.compress(body, 6) if compress else body
