"""Deadlines of the entries that a busy machine cannot miss."""

from __future__ import annotations

import pytest

from proxy.entries import binding, client, identities, proxy, users


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test about one of these deadlines sets its own."""
    for module, name in (
        (binding, "LOOKUP_S"),
        (client, "LINGER_S"),
        (identities, "LOOKUP_S"),
        (proxy, "HEAD_S"),
        (users, "CHECK_S"),
        (users, "FILES_S"),
    ):
        monkeypatch.setattr(module, name, 60.0)
