"""What the tests of the admin socket share."""

from __future__ import annotations

import pytest

from proxy.admin import client


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may stop the scripted daemon for seconds. Then it is not given up."""
    monkeypatch.setattr(client, "ASK_TIMEOUT", 60.0)
