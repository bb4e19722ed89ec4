"""Keeps the addresses of one route's pods: lists them, watches them, and starts again when the watch breaks.

While the watch is broken, the last known addresses stay in use.
https://kubernetes.io/docs/reference/using-api/ api-concepts/#efficient-detection-of-changes says what a
client of a watch must do.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode

import structlog

from proxy.config.model import ClusterConfig, DiscoverConfig
from proxy.daemon.discovery.api import ANSWER_S, Api, Refused, connected
from proxy.daemon.discovery.pods import Expired, Pods, Unusable, apply, check_number, page
from proxy.errors import ProxyError, UnknownTarget
from proxy.health.probe import Dial
from proxy.health.result import Failure, Result
from proxy.health.tls import Contexts
from proxy.metrics import DiscoveryRecord
from proxy.runtime.blocking import Place
from proxy.runtime.tasks import Tasks
from proxy.snapshots import DiscoverySnapshot, DiscoveryState

log = structlog.get_logger("kubemux.discovery")

WATCH_S: Final = 60
"""The longest duration of one watch in seconds, within which a silent server is noticed. The next watch
continues where this one ended, on the same connection, which costs one request.
"""
LEAST_S: Final = 1.0
"""The shortest time between two requests of the same kind, in seconds, in case a server ends each watch at
once.
"""
MOST_S: Final = 30.0
"""The longest pause after a failure in seconds, ± a quarter. It ends early when a link comes up."""
PAGE: Final = 100
"""Pods in one page of a list. A pod has 5 to 20 KB, and parsing a page blocks the loop."""
MAX_PAGE: Final = 8 << 20
MAX_LINE: Final = 2 << 20
"""The longest line of a watch in bytes. It has one object, and etcd accepts objects up to 1.5 MiB."""

_ROLE: Final = (
    "give the user of the cluster's probe a role that lets it list and watch pods: docs/notebooks.md has one"
)

Asked = Callable[[], tuple[ClusterConfig, Dial]]
"""Returns the present cluster, which a reload may have replaced. Raises ProxyError if there is none."""


class Trouble(NamedTuple):
    """Why the watch is broken."""

    reason: str
    message: str
    hint: str


class Discovery:
    """The pods of one route. It watches until `close`; `on_change` is called when `state` has changed."""

    def __init__(
        self,
        route: str,
        config: DiscoverConfig,
        asked: Asked,
        contexts: Contexts,
        on_change: Callable[[], None],
        record: DiscoveryRecord,
    ) -> None:
        self.state = DiscoveryState.ASKING
        self._route = route
        self._config = config
        self._asked = asked
        self._contexts = contexts
        self._on_change = on_change
        self._record = record
        self._place = Place(f"files of route {route}")
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks(f"discovery of route {route}")
        self._task: asyncio.Task[None] | None = None
        self._pods: Pods | None = None
        self._version = ""
        """The resourceVersion from which the next watch continues; empty if the pods must be listed first."""
        self._trouble: Trouble | None = None
        self._failures = 0
        self._soon = asyncio.Event()
        namespace = f"namespaces/{config.namespace}/" if config.namespace else ""
        self._path = f"/api/v1/{namespace}pods"

    def __repr__(self) -> str:
        return f"<Discovery {self._route} {self.state} pods={len(self._pods or ())}>"

    @property
    def cluster(self) -> str:
        """The name of the cluster whose pods are watched."""
        return self._config.cluster

    def find(self, pod: str) -> str:
        """The last known address of the pod `NAME.NAMESPACE`. Raises UnknownTarget."""
        where = f"{self._config.cluster} (route {self._route})"
        if self._pods is None:
            why = f": {self._trouble.reason}" if self._trouble else ""
            raise UnknownTarget(f"the pods of {where} are not known yet{why}")
        old = ", as far as is known: its watch is broken" if self.state is DiscoveryState.BROKEN else ""
        found = self._pods.get(pod)
        if found is None:
            raise UnknownTarget(f"{where} has no such pod{old}")
        if not found.address:
            raise UnknownTarget(f"the pod of {where} {found.why}{old}")
        return found.address

    def snapshot(self) -> DiscoverySnapshot:
        """For the status."""
        trouble = self._trouble or Trouble("", "", "")
        return DiscoverySnapshot(
            cluster=self._config.cluster,
            state=self.state,
            pods=len(self._pods or ()),
            reason=trouble.reason,
            message=trouble.message,
            hint=trouble.hint,
        )

    # ------------------------------------------------------------------------------------------------- life

    def start(self) -> None:
        """Start to watch. The cluster must exist."""
        if not self._tasks:
            self._task = self._tasks.keep(self._run, name="watch")

    def ask_soon(self) -> None:
        """End the pause after a failure, because the gateway's state has changed."""
        self._soon.set()

    def renew(self) -> None:
        """Start again with a new connection, because the cluster or its files have changed."""
        if self._task is not None:
            self._task.cancel()
            self._task = self._tasks.keep(self._run, name="watch")

    async def close(self) -> None:
        """Stop watching."""
        await self._tasks.close()

    # ------------------------------------------------------------------------------------------------ watch

    async def _run(self) -> None:
        while True:
            began = self._loop.time()
            self._soon.clear()
            try:
                await self._list_and_watch()
            except (ProxyError, Failure) as exc:
                self._broke(exc)
                await self._pause(min(MOST_S, LEAST_S / 2 * 2 ** min(self._failures, 10)))
            else:
                await self._pause(began + LEAST_S - self._loop.time())

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds * random.uniform(0.75, 1.25)):  # noqa: S311 - spreads load
                await self._soon.wait()

    async def _list_and_watch(self) -> None:
        """List and watch on one connection, as long as the server keeps it open."""
        config, dial = self._asked()
        base = config.base_path or ""
        async with connected(config, dial, self._contexts, self._place) as api:
            try:
                while True:
                    began = self._loop.time()
                    if not self._version:
                        await self._list(api, base)
                    await self._watch(api, base)
                    if not api.is_free:
                        return
                    await asyncio.sleep(began + LEAST_S - self._loop.time())
            except Expired:
                log.info("pods are listed again", route=self._route, cluster=self._config.cluster)
                self._version = ""
            except Unusable as exc:
                self._version = ""  # the table may be wrong, so list the pods again
                raise Failure(Result.HTTP_FAILED, f"the answer for {base}{self._path}: {exc}") from exc
            except Refused as exc:
                raise self._refused(exc, base) from exc

    async def _list(self, api: Api, base: str) -> None:
        pods: Pods = {}
        more = ""
        while True:
            asked = {"limit": str(PAGE), **({"continue": more} if more else {})}
            async with asyncio.timeout(ANSWER_S):
                await self._ask(api, base, asked)
                body = bytearray()
                while piece := await api.piece():
                    body += piece
                    if len(body) > MAX_PAGE:
                        raise Unusable(f"it has more than {MAX_PAGE >> 20} MiB")
            got = page(bytes(body))
            pods |= got.pods
            check_number(pods)
            if not got.more:
                break
            more = got.more
        self._pods, self._version = pods, got.version
        self._record.pods = len(pods)

    async def _watch(self, api: Api, base: str) -> None:
        """One watch, until the server ends it."""
        assert self._pods is not None  # noqa: S101 - a version comes with a list
        seconds = random.randint(WATCH_S * 3 // 4, WATCH_S)  # noqa: S311 - spreads load, guards nothing
        asked = {
            "watch": "1",
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        await self._ask(api, base, asked)
        self._watching()
        buffer = bytearray()
        async with asyncio.timeout(seconds + ANSWER_S):
            while piece := await api.piece():
                searched = len(buffer)
                buffer += piece
                while (end := buffer.find(b"\n", searched)) >= 0:
                    self._version = apply(bytes(buffer[:end]), self._pods)
                    self._record.pods = len(self._pods)
                    del buffer[: end + 1]
                    searched = self._failures = 0
                if len(buffer) > MAX_LINE:
                    raise Unusable(f"it has a line of more than {MAX_LINE >> 20} MiB")
        self._failures = 0

    async def _ask(self, api: Api, base: str, asked: dict[str, str]) -> None:
        asked = {"labelSelector": self._config.selector, **asked}
        try:
            await api.ask(f"{base}{self._path}?{urlencode(asked, quote_via=quote)}")
        except Refused as exc:
            if exc.status == 410:
                raise Expired from exc
            raise

    # ------------------------------------------------------------------------------------------------ state

    def _watching(self) -> None:
        self._trouble = None
        if self.state is not DiscoveryState.WATCHING:
            log.info(
                "pods watched", route=self._route, cluster=self._config.cluster, pods=len(self._pods or ())
            )
            self._enter(DiscoveryState.WATCHING)

    def _broke(self, failed: Failure | ProxyError) -> None:
        reason = str(failed.result if isinstance(failed, Failure) else failed.reason)
        hint = (failed.hint or "").replace("CLUSTER", self._config.cluster)
        before, self._trouble = self._trouble, Trouble(reason, str(failed), hint)
        self._failures += 1
        if before is None or before.reason != reason:
            log.warning(
                "watch of pods broken",
                route=self._route,
                cluster=self._config.cluster,
                pods=len(self._pods or ()),
                reason=reason,
                message=str(failed),
                hint=hint,
            )
        self._enter(DiscoveryState.BROKEN)

    def _enter(self, state: DiscoveryState) -> None:
        if state is not self.state:
            self.state = state
            self._record.is_watched = state is DiscoveryState.WATCHING
            self._on_change()

    def _refused(self, answer: Refused, base: str) -> Failure:
        message = f"the answer for {base}{self._path}: {answer}"
        if answer.status in {401, 403}:
            return Failure(Result.UNAUTHORIZED, message, hint=_ROLE, status=answer.status)
        result = Result.UNHEALTHY if answer.status >= 500 else Result.HTTP_FAILED
        return Failure(result, message, status=answer.status)
