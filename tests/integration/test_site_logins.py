"""Many sites dial at once from one address."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from bench.logins import Fleet, describe, dialled, refusals, restart_and_measure
from tests.support import ssh_keys

pytestmark = pytest.mark.sshd

COUNT: Final = 60


def test_all_sites_come_back_after_a_restart(tmp_path: Path) -> None:
    """All sites log in, although each dials only once: with `sources` they wait for their turn."""
    with dialled(tmp_path, COUNT) as (daemon, fleet):
        back = restart_and_measure(daemon, fleet, COUNT)
        assert back.came == fleet.running == COUNT
        assert not daemon.events("login refused")
        assert daemon.metric("kubemux_ssh_logins_total", result="ok") == COUNT


def test_a_site_that_is_refused_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench goes on without it."""
    sections = Fleet.sections

    def with_another_key(fleet: Fleet) -> Mapping[str, object]:
        found = sections(fleet)
        for path in (tmp_path / "sites/site-0", tmp_path / "sites/site-0.pub"):
            path.unlink()
        ssh_keys.new_key(tmp_path / "sites/site-0")
        return found

    monkeypatch.setattr(Fleet, "sections", with_another_key)
    with dialled(tmp_path, 3) as (daemon, fleet):
        back = restart_and_measure(daemon, fleet, 3)
        assert (back.sites, back.came) == (3, 2)
        # The daemon logs a refusal when ssh has closed its connection.
        daemon.wait_for("both refusals", lambda: len(daemon.events("login refused")) == 2)
        text = describe([back], [0.02, 0.01], refusals(daemon))
    assert "at least 2 of 3 sites were back" in text
    assert "logins refused by the daemon in all dials: unknown_key 2 times" in text
    assert "take 1.0% to 2.0% of one core" in text
