"""Many sites dial at once from one address."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from bench.logins import dialled, restart_and_measure

pytestmark = pytest.mark.sshd

COUNT: Final = 60


def test_all_sites_come_back_after_a_restart(tmp_path: Path) -> None:
    """All of them log in, although each dials only once: with `sources` they wait for their turn."""
    with dialled(tmp_path, COUNT) as (daemon, fleet):
        back = restart_and_measure(daemon, fleet, COUNT)
        assert back.came == fleet.running == COUNT
        assert not daemon.events("login refused")
        assert daemon.metric("kubemux_ssh_logins_total", result="ok") == COUNT
