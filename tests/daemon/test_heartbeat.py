"""If one part of the heartbeat fails, the others still run, and the log has the failure once."""

from __future__ import annotations

from collections.abc import Callable

from structlog.testing import capture_logs

from proxy.daemon.heartbeat import Heartbeat


def test_a_failing_part_does_not_affect_others_and_is_logged_once() -> None:
    calls: list[str] = []
    is_broken = True

    def breaks() -> None:
        calls.append("breaks")
        if is_broken:
            raise KeyError("gone")

    def says(word: str) -> Callable[[], None]:
        return lambda: calls.append(word)

    heartbeat = Heartbeat(lambda: [("watchdog", says("watchdog")), ("edge", breaks), ("far", says("far"))])
    with capture_logs() as logs:
        heartbeat.beat()
        heartbeat.beat()
        is_broken = False
        heartbeat.beat()
        is_broken = True
        heartbeat.beat()
    assert calls == ["watchdog", "breaks", "far"] * 4
    assert [(entry["event"], entry["part"], entry["log_level"]) for entry in logs] == [
        ("heartbeat failed", "edge", "error")
    ] * 2
