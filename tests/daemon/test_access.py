"""Access control on a system that does not show who a client is."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from proxy.config.allow import Rule
from proxy.config.model import ClusterConfig, Config, EntryConfig
from proxy.daemon import access
from proxy.entries.arrival import Caller
from proxy.entries.callers import Hidden
from proxy.errors import ConfigError, Denied
from proxy.metrics import Metrics
from proxy.runtime.endpoint import Endpoint, Local, UnixPath

TCP, UNIX = Endpoint("127.0.0.1", 1), UnixPath("/run/s")


def hidden_on_tcp(*, tcp: bool) -> Hidden | None:
    return Hidden("netlink is closed", "open it") if tcp else None


@pytest.mark.parametrize(
    ("listen", "entry", "is_refused"),
    [
        (None, TCP, True),
        (TCP, UNIX, True),
        (UNIX, TCP, True),
        (UNIX, UNIX, False),
        (None, UNIX, False),
    ],
    ids=str,
)
def test_rules_for_uids_on_tcp_are_refused_where_the_system_hides_uids(
    listen: Local | None, entry: Local, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "hidden", hidden_on_tcp)
    cluster = ClusterConfig(
        gateway="direct",
        listen=listen,
        api_servers=(Endpoint("h", 1),),
        allow=(Rule.parse("uid:alice"),),
    )
    config = Config(version=1, clusters={"prod": cluster}, entries={"proxy": EntryConfig(listen=entry)})
    if not is_refused:
        access.check(config, Path("config.yaml"))
        return
    with pytest.raises(ConfigError) as caught:
        access.check(config, Path("config.yaml"))
    [problem] = caught.value.problems
    assert (problem.key, problem.hint) == ("clusters.prod.allow", "open it")


@pytest.mark.parametrize(
    ("caller", "rule", "who"),
    [
        (Caller(TCP, uid=1002), "uid:alice", "uid 1002"),
        (Caller(TCP), "uid:alice", "127.0.0.1:1, whose user is not known,"),
        (Caller(None), "gid:sre", "unix, whose user is not known,"),
        (Caller(TCP), "proxy-user:ci", "127.0.0.1:1"),
        (Caller(TCP, proved=frozenset({"proxy-user:ci"})), "uid:alice", "proxy-user:ci"),
    ],
    ids=str,
)
async def test_the_message_for_a_denied_caller_has_its_identity(caller: Caller, rule: str, who: str) -> None:
    one = access.Access(Metrics(CollectorRegistry(), version="0"))
    with pytest.raises(Denied) as caught:
        await one.require((Rule.parse(rule),), caller, entry="proxy")
    assert str(caught.value) == f"{who} is not in allow"
    await one.close()
