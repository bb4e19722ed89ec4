"""Makes the answer to a scrape: text or OpenMetrics, plain or gzip, in slices of a few milliseconds.

With 100 clusters one scrape is 600 KB. If it were made at once, every client would wait for it. So the event
loop runs after each piece.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.registry import Collector

from proxy.metrics.metrics import Metrics

_GZIP: Final = 16 + zlib.MAX_WBITS
_REFUSED: Final = re.compile(r";\s*q=0(\.0*)?\s*$", re.IGNORECASE)
_EOF: Final = b"# EOF\n"
"""The last line of OpenMetrics. The text format has none."""


@dataclass(frozen=True, slots=True)
class Exposed:
    """The answer to a scrape. Its pieces are made while it is sent."""

    headers: dict[str, str]
    pieces: AsyncIterator[bytes]


def expose(metrics: Metrics, turn: asyncio.Lock, *, accept: str, accept_encoding: str) -> Exposed:
    """The metrics in the format that `accept` asks for, compressed if `accept_encoding` allows it.

    All scrapes share the lock `turn`: in one turn of the event loop only one of them makes a piece.
    """
    try:
        encode, content_type = choose_encoder(accept)
    except TypeError:  # prometheus-client 0.26 compares versions without checking that they are numbers
        encode, content_type = choose_encoder("")
    headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
    pieces = _pieces(metrics, encode)
    if gzip_accepted(_wanted(accept_encoding)):
        headers["Content-Encoding"] = "gzip"
        pieces = _compressed(pieces)
    return Exposed(headers, _Slices(pieces, turn))


def _wanted(accept_encoding: str) -> str:
    """The header without codings that `q=0` refuses (RFC 9110 12.4.2): prometheus-client 0.26 ignores `q`."""
    return ",".join(coding for coding in accept_encoding.split(",") if not _REFUSED.search(coding))


def _pieces(metrics: Metrics, encode: Callable[[Collector], bytes]) -> Iterator[bytes]:
    name, end = "", b""
    for piece in metrics.pieces():
        text = encode(_One(piece))
        if text.endswith(_EOF):
            end, text = _EOF, text[: -len(_EOF)]
        if piece.name == name:
            text = _without_head(text)
        name = piece.name
        yield text
    yield end


def _compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    compress = zlib.compressobj(level=6, wbits=_GZIP)
    for piece in pieces:
        yield compress.compress(piece)
    yield compress.flush()


class _Slices:
    """Lets the event loop run after each piece.

    An async generator would be shorter. But if a client leaves in the middle, asyncio closes the generator in
    a task that has no owner.
    """

    def __init__(self, pieces: Iterator[bytes], turn: asyncio.Lock) -> None:
        self._pieces = pieces
        self._turn = turn

    def __aiter__(self) -> _Slices:
        return self

    async def __anext__(self) -> bytes:
        async with self._turn:
            for piece in self._pieces:
                await asyncio.sleep(0)
                return piece
        raise StopAsyncIteration


class _One(Collector):
    """A collector that yields one given metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return [self._metric]


def _without_head(text: bytes) -> bytes:
    """`text` without `# HELP` and `# TYPE`, which only the first piece of a family may have."""
    return b"".join(line for line in text.splitlines(keepends=True) if not line.startswith(b"# "))
