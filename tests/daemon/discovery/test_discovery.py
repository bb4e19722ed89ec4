"""Discovery of a route's pods, with an API server whose answers the test scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.config.model import ClusterConfig, DiscoverConfig
from proxy.daemon.discovery import api, discovery
from proxy.daemon.discovery.discovery import Discovery
from proxy.errors import LinkDown, UnknownTarget
from proxy.health.probe import Dial
from proxy.health.tls import Contexts
from proxy.metrics import DiscoveryRecord
from proxy.relay.probing import Dialled
from proxy.snapshots import DiscoveryState
from tests.daemon.discovery.scripted import (
    CHUNKED,
    Answer,
    ScriptedApi,
    Watched,
    bookmark,
    event,
    listed,
    pod,
    raw,
    status,
)
from tests.health.scripted import Dialer, Pki, cluster, server_context

TOKEN = "the-token"  # noqa: S105 - protects nothing
NB = "nb-0.team-a"


class Bed:
    """A discovery and its API server."""

    def __init__(self, pki: Pki, server: ScriptedApi, config: ClusterConfig) -> None:
        self.server = server
        self.config = config
        self.dial = Dialer(server.endpoint)
        self.changed = asyncio.Event()
        self.is_cut_off = False
        section = DiscoverConfig(cluster="prod", selector="app in (nb),!old", namespace="team-a", port=2209)
        self.record = DiscoveryRecord()
        self.discovery = Discovery("pods", section, self._asked, Contexts(), self._tell, self.record)

    def _tell(self) -> None:
        self.changed.set()

    def _asked(self) -> tuple[ClusterConfig, Dial]:
        return self.config, self._dial

    async def _dial(self, deadline: float) -> Dialled:
        if self.is_cut_off:
            raise LinkDown("gateway edge has no link")
        return await self.dial(deadline)

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not is_so():
                await asyncio.sleep(0.005)

    async def until_found(self, address: str, name: str = NB) -> None:
        await self.until(lambda: self.found(name) == address)

    def found(self, name: str = NB) -> str:
        try:
            return self.discovery.find(name)
        except UnknownTarget as exc:
            return str(exc)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses and deadlines."""
    monkeypatch.setattr(discovery, "LEAST_S", 0.02)
    monkeypatch.setattr(discovery, "MOST_S", 0.1)


@pytest.fixture
async def bed(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bed]:
    token = tmp_path_factory.mktemp("token") / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    async with ScriptedApi(server_context(pki.good)) as server:
        config = cluster(server.endpoint, pki.authority.ca.cert, token_file=str(token), timeout="60s")
        bed = Bed(pki, server, config)
        yield bed
        await bed.discovery.close()
        assert not bed.dial.open


async def test_pods_are_listed_in_pages_and_watched_on_one_connection(bed: Bed) -> None:
    watch, again = Watched(), Watched()
    bed.server.answers = [
        listed(pod("nb-0", "10.1.0.7"), version="90", more="page/2"),
        listed(pod("nb-1", "10.1.0.8"), pod("nb-2", None, "Pending"), version="100"),
        watch,
        again,
    ]
    assert bed.found() == "the pods of prod (route pods) are not known yet"
    bed.discovery.start()
    await bed.until_found("10.1.0.7")
    assert bed.found("nb-1.team-a") == "10.1.0.8"
    assert bed.found("nb-2.team-a") == "the pod of prod (route pods) is Pending"
    assert bed.found("nb-3.team-a") == "prod (route pods) has no such pod"
    watch.send(event("MODIFIED", pod("nb-0", "10.1.0.9")))
    await bed.until_found("10.1.0.9")
    half = event("DELETED", pod("nb-0", "10.1.0.9"))
    watch.send(half[:20])
    watch.send(half[20:] + event("ADDED", pod("nb-4", "10.1.0.4")))
    await bed.until_found("10.1.0.4", "nb-4.team-a")
    assert bed.found() == "prod (route pods) has no such pod"
    watch.send(bookmark("170"))
    watch.end()
    await bed.server.wait_asked(4)
    first, second, third, fourth = bed.server.asked
    assert {one["path"] for one in bed.server.asked} == {"/api/v1/namespaces/team-a/pods"}
    assert {one["labelSelector"] for one in bed.server.asked} == {"app in (nb),!old"}
    assert ("continue" not in first, second["continue"]) == (True, "page/2")
    assert (third["watch"], third["resourceVersion"], third["allowWatchBookmarks"]) == ("1", "100", "true")
    assert fourth["resourceVersion"] == "170"
    assert bed.server.accepted == 1
    assert b"authorization: bearer the-token" in bed.server.headers.lower()
    snapshot = bed.discovery.snapshot()
    assert (snapshot.state, snapshot.pods, snapshot.reason) == (DiscoveryState.WATCHING, 3, "")
    assert (bed.record.is_watched, bed.record.pods) == (True, 3)


LINE = event("MODIFIED", pod("nb-0", "10.1.0.9"))


@pytest.mark.parametrize(
    ("answer", "reason", "says"),
    [
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "http_failed", "does not speak HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000), "http_failed", "does not speak HTTP"),
        (raw(b""), "closed", "was lost"),
        (raw(CHUNKED), "closed", "it ended in the middle of the answer"),
        (raw(CHUNKED + b"zz\r\n"), "http_failed", "does not speak HTTP"),
        (raw(CHUNKED + b"4\r\nnot\n\r\n"), "http_failed", "pods: it is not JSON"),
        (raw(CHUNKED + b"3\r\n{}\n\r\n"), "http_failed", "it is no event of a watch"),
        (raw(CHUNKED + b"%x\r\n%s\r\n" % (3 << 20, b"x" * (3 << 20))), "http_failed", "more than 2 MiB"),
        (status(500, b"\x1b[2Jetcd"), "unhealthy", "/api/v1/namespaces/team-a/pods: HTTP 500: [2Jetcd"),
        (status(302), "http_failed", "HTTP 302"),
        (status(401), "unauthorized", "HTTP 401"),
        (
            status(403, b'{"kind": "Status", "message": "forbidden: \\u001b[2J"}'),
            "unauthorized",
            "403: forbidden:  [",
        ),
    ],
)
async def test_a_broken_watch_keeps_the_last_answer_and_starts_again(
    bed: Bed, answer: Answer, reason: str, says: str
) -> None:
    bed.server.answers = [listed(pod("nb-0", "10.1.0.7")), answer]
    bed.discovery.start()
    await bed.until(lambda: bed.discovery.state is DiscoveryState.BROKEN)
    snapshot = bed.discovery.snapshot()
    assert (snapshot.reason, snapshot.pods) == (reason, 1)
    assert says in snapshot.message
    assert snapshot.message.isprintable()
    if reason == "unauthorized":
        assert "docs/notebooks.md" in snapshot.hint
    assert bed.found() == "10.1.0.7"
    assert bed.found("nb-9.team-a").endswith("has no such pod, as far as is known: its watch is broken")
    # After an invalid answer the pods are listed again; otherwise the watch continues.
    assert TOKEN not in repr(snapshot)
    await bed.server.wait_asked(3)
    bed.server.answers = [listed(pod("nb-0", "10.1.0.9")), Watched(LINE)] * 2
    await bed.server.disconnect()
    await bed.until_found("10.1.0.9")
    await bed.until(lambda: bed.discovery.state is DiscoveryState.WATCHING)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (raw(b"HTTP/1.1 200 OK\r\n\r\n[]"), "it is no list of pods"),
        (raw(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (9 << 20)), "it has more than 8 MiB"),
        (raw(b"no HTTP\r\n\r\n"), "does not speak HTTP"),
        (listed({"metadata": {"name": "nb-0"}}), "an item of it is no pod"),
    ],
)
async def test_a_malformed_list_leaves_no_pods(bed: Bed, answer: Answer, says: str) -> None:
    bed.server.answers = [answer]
    bed.discovery.start()
    await bed.until(lambda: bed.discovery.state is DiscoveryState.BROKEN)
    assert says in bed.discovery.snapshot().message
    assert bed.found() == "the pods of prod (route pods) are not known yet: http_failed"


GONE = event("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})


@pytest.mark.parametrize("gone", [status(410), Watched(GONE, b"")], ids=["status", "event"])
async def test_after_a_compaction_pods_are_listed_again(bed: Bed, gone: Answer) -> None:
    bed.server.answers = [
        listed(pod("nb-0", "10.1.0.7")),
        gone,
        listed(pod("nb-1", "10.1.0.8"), version="200"),
        Watched(),
    ]
    bed.discovery.start()
    await bed.until_found("10.1.0.8", "nb-1.team-a")
    assert bed.found() == "prod (route pods) has no such pod"
    await bed.server.wait_asked(4)
    assert ("watch" in bed.server.asked[2], bed.server.asked[3]["resourceVersion"]) == (False, "200")
    assert not bed.discovery.snapshot().reason


async def test_a_silent_server_is_given_up(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "ANSWER_S", 0.2)
    bed.discovery.start()  # the server does not answer the list
    await bed.until(lambda: bed.discovery.snapshot().reason == "timeout")
    monkeypatch.setattr(api, "ANSWER_S", 30.0)
    bed.server.answers = [listed(pod("nb-0", "10.1.0.7"))] * 2  # the first may come too late
    await bed.until_found("10.1.0.7")


async def test_a_watch_that_goes_silent_is_renewed(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch has no line, and does not end at its timeout: the server is gone without closing the
    connection.
    """
    monkeypatch.setattr(discovery, "WATCH_S", 0)

    def lasting(seconds: float, watched: Watched) -> Answer:
        async def answer(writer: asyncio.StreamWriter) -> None:
            monkeypatch.setattr(discovery, "ANSWER_S", seconds)
            await watched(writer)

        return answer

    silent, spoken = lasting(0.2, Watched()), lasting(30.0, Watched(LINE))
    bed.server.answers = [listed(pod("nb-0", "10.1.0.7")), silent, spoken]
    bed.discovery.start()
    await bed.until_found("10.1.0.9")
    assert bed.server.asked[2]["resourceVersion"] == "100"


async def test_a_server_that_ends_each_watch_at_once_is_not_asked_all_the_time(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "LEAST_S", 0.2)
    bed.server.answers = [listed(), *(Watched(b"") for _ in range(4)), Watched()]
    bed.discovery.start()
    await bed.server.wait_asked(6)
    times = [float(one["time"]) for one in bed.server.asked]
    assert times[-1] - times[1] > 0.6
    assert bed.server.accepted == 1


async def test_a_link_that_comes_up_ends_the_pause(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "LEAST_S", 3600.0)
    monkeypatch.setattr(discovery, "MOST_S", 3600.0)
    bed.is_cut_off = True
    bed.discovery.start()
    await bed.until(lambda: bed.discovery.snapshot().reason == "link_down")
    assert bed.changed.is_set()
    bed.is_cut_off = False
    bed.server.answers = [listed(pod("nb-0", "10.1.0.7")), Watched()]
    bed.discovery.ask_soon()
    await bed.until_found("10.1.0.7")


async def test_another_cluster_is_asked_by_another_connection(bed: Bed) -> None:
    bed.server.answers = [listed(pod("nb-0", "10.1.0.7")), Watched()]
    bed.discovery.start()
    await bed.server.wait_asked(2)
    bed.server.answers = [Watched(LINE)]
    bed.discovery.renew()
    await bed.until_found("10.1.0.9")
    assert bed.server.accepted == 2


async def test_a_server_that_is_not_trusted_gets_no_token(bed: Bed, pki: Pki) -> None:
    async with ScriptedApi(server_context(pki.foreign)) as impostor:
        bed.dial.endpoint = impostor.endpoint
        bed.discovery.start()
        await bed.until(lambda: bed.discovery.snapshot().reason == "tls_untrusted")
        assert not impostor.asked
        await bed.discovery.close()
