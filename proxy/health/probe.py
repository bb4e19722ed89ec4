"""One probe: sends an HTTPS GET on a connection like a client's, and classifies what happened."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

import h11
import structlog

from proxy.config.model import ClusterConfig
from proxy.errors import ProxyError, Stage
from proxy.health import certificate, chain, chain_rules, http
from proxy.health.anchors import Anchors
from proxy.health.result import Failure, Outcome, Result, unreached
from proxy.health.server_names import in_sni
from proxy.health.stream import TlsStream
from proxy.health.tls import Contexts, classify, distrusted
from proxy.relay.probing import Dialled
from proxy.runtime.blocking import Place
from proxy.runtime.text import printable

log = structlog.get_logger("kubemux.health")

Dial = Callable[[float], Awaitable[Dialled]]
"""Opens a connection to an API server before a deadline, which is given in loop time.

The caller owns the connection. Raises ProxyError.
"""

DIAL_GRACE: Final = 0.25
"""A dial is cancelled only so many seconds after its deadline: a dial that ends by itself at the deadline can
say why it failed.
"""


async def probe(
    name: str, config: ClusterConfig, dial: Dial, contexts: Contexts, place: Place | None = None
) -> Outcome:
    """Probe cluster `name` within `config.probe.timeout` seconds.

    All probes of a cluster read its files in the same `place`. It raises nothing but CancelledError, and then
    leaves no connection open.
    """
    attempt = _Attempt(config, contexts, place)
    try:
        outcome = await attempt.run(dial)
    except ProxyError as exc:
        outcome = unreached(exc, attempt.seconds)
    except Failure as exc:
        outcome = attempt.ended(exc.result, str(exc), exc.hint, exc.status)
    except chain_rules.Refused as exc:
        failure = distrusted(exc, config, attempt.server)
        outcome = replace(
            attempt.ended(failure.result, str(failure), failure.hint), refused=certificate.read(attempt.shown)
        )
    except h11.RemoteProtocolError as exc:
        outcome = attempt.ended(
            Result.HTTP_FAILED, f"{attempt.server} does not speak HTTP: {printable(str(exc))}"
        )
    except TimeoutError:
        outcome = attempt.ended(Result.TIMEOUT, f"no {attempt.awaited} within {config.probe.timeout:g} s")
    except ssl.SSLError as exc:
        failure = classify(exc, config, attempt.server)
        outcome = attempt.ended(failure.result, str(failure), failure.hint)
    except OSError as exc:
        outcome = attempt.ended(
            Result.CLOSED, f"the connection was lost before the {attempt.awaited}: {exc.strerror or exc}"
        )
    log.debug("probe", cluster=name, result=outcome.result, seconds=round(outcome.seconds, 4))
    return outcome.named(name)


_AWAITED: Final = {
    Stage.CHANNEL: "channel to the API server",
    Stage.TLS: "end of the TLS handshake",
    Stage.HTTP: "HTTP answer",
}


class _Attempt:
    """One run of a probe. It remembers the stage and the times, so that every outcome can name them."""

    def __init__(self, config: ClusterConfig, contexts: Contexts, place: Place | None) -> None:
        self._config = config
        self._contexts = contexts
        self._place = place
        self._steps: list[tuple[Stage, float]] = []
        self._expiries: tuple[tuple[str, float], ...] = ()
        self.server = config.api_servers[0]
        """The API server that gets the request: the first of the list, until `dial` returns another one."""
        self.shown = b""
        """The certificate that the server sent (DER)."""
        self._enter(Stage.CHANNEL)

    async def run(self, dial: Dial) -> Outcome:
        config, loop = self._config, asyncio.get_running_loop()
        deadline = loop.time() + config.probe.timeout
        async with asyncio.timeout_at(deadline + DIAL_GRACE):
            sock, self.server = await dial(deadline)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._request(sock)
        finally:
            sock.close()

    async def _request(self, sock: socket.socket) -> Outcome:
        config, path, base = self._config, self._config.probe.path, self._config.base_path or ""
        self._enter(Stage.TLS)
        identity, token = await self._contexts.load(config, self._place)
        self._expiries = identity.expiries
        name = config.server_name
        try:
            stream = TlsStream(
                sock, identity.context, in_sni(name), partial(self._verify, identity.anchors, name)
            )
        except ValueError as exc:
            raise Failure(Result.TLS_NAME_MISMATCH, f"{name!r} cannot be a server's name: {exc}") from exc
        await stream.handshake()
        self._enter(Stage.HTTP)
        answer = await http.get(stream, base + path, host=str(self.server), token=token)
        http.judge(answer, path, base=base)
        return self.ended(Result.OK, f"HTTP {answer.status} for {base}{path}", "", answer.status)

    def _verify(self, anchors: Anchors, name: str, sent: Sequence[bytes]) -> None:
        self.shown = sent[0]
        leaf = chain.verify(sent, anchors, name, datetime.now(UTC))
        self._expiries += (("server", leaf.parsed.not_valid_after_utc.timestamp()),)

    def ended(
        self, result: Result, message: str, hint: str | None = None, status: int | None = None
    ) -> Outcome:
        """The outcome of a probe that ends now."""
        now = time.monotonic()
        ends = [start for _, start in self._steps[1:]] + [now]
        timings = tuple((stage, end - start) for (stage, start), end in zip(self._steps, ends, strict=True))
        return Outcome(
            result=result,
            message=message,
            hint=result.hint if hint is None else hint,
            seconds=now - self._steps[0][1],
            stage=self._steps[-1][0],
            status=status,
            expiries=self._expiries,
            timings=timings,
            server=self.server,
        )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._steps[0][1]

    @property
    def awaited(self) -> str:
        return _AWAITED[self._steps[-1][0]]

    def _enter(self, stage: Stage) -> None:
        self._steps.append((stage, time.monotonic()))
